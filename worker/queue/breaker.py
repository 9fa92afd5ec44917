"""Breakers: what is out of order is asked by one probe now and then, and everything else about it waits.

A destination's breaker is a row, so that all processes share it (Nygard 2007, "Release It!": circuit breaker). What is
wrong with this very process, such as a full disk or a model that does not load, is a `Pause` of its own.
"""

from __future__ import annotations

import datetime as dt
import random
import threading
import time
from dataclasses import dataclass

from sqlalchemy import Integer, String, Text, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from worker.database.columns import Table
from worker.database.transactions import Database
from worker.queue.retry import backoff

CLOSED, OPEN = "closed", "open"


class BreakerRow(Table):
    """Whether a destination can be reached."""

    __tablename__ = "breaker"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    state: Mapped[str] = mapped_column(String(16), default=CLOSED)
    failures: Mapped[int] = mapped_column(Integer, default=0)
    reason: Mapped[str] = mapped_column(Text, default="")
    since: Mapped[dt.datetime]
    next_probe_at: Mapped[dt.datetime]


@dataclass(frozen=True)
class Breaker:
    """An open breaker: since when, why, after how many failed probes, and when the next one is due."""

    name: str
    since: dt.datetime
    reason: str
    failures: int
    next_probe_at: dt.datetime


class Breakers:
    """The breakers of all destinations.

    Parameters
    ----------
    first, most
        Seconds until the first probe after a failure, and between two probes at most.
    """

    def __init__(self, database: Database, *, first: float, most: float) -> None:
        self._database = database
        self._first = first
        self._most = most

    def open(self) -> list[Breaker]:
        """Return the breakers that are open, by name."""
        columns = (
            BreakerRow.name, BreakerRow.since, BreakerRow.reason, BreakerRow.failures, BreakerRow.next_probe_at
        )  # fmt: skip
        with self._database.reading() as connection:
            query = select(*columns).where(BreakerRow.state == OPEN).order_by(BreakerRow.name)
            return [Breaker(*row) for row in connection.execute(query)]

    def of(self, name: str) -> Breaker | None:
        """Return the breaker of this name where it is open."""
        return next((each for each in self.open() if each.name == name), None)

    def take_probe(self, name: str, now: dt.datetime, lasts: float) -> bool:
        """Return whether this process is to try now: the one probe that is due is whoever's asks first.

        Parameters
        ----------
        lasts
            Seconds that a probe may take; where the one who has it dies, the next is due then.
        """
        row = update(BreakerRow).where(BreakerRow.name == name, BreakerRow.state == OPEN)
        row = row.where(BreakerRow.next_probe_at <= now).values(next_probe_at=now + dt.timedelta(seconds=lasts))
        with self._database.writing() as connection:
            return bool(connection.execute(row).rowcount)

    def mend_times(self, now: dt.datetime) -> None:
        """Let no probe wait longer than it may, after the clock has gone back."""
        latest = now + dt.timedelta(seconds=self._most)
        row = update(BreakerRow).where(BreakerRow.state == OPEN, BreakerRow.next_probe_at > latest)
        with self._database.writing() as connection:
            connection.execute(row.values(next_probe_at=latest))

    def trip(self, name: str, reason: str, now: dt.datetime) -> bool:
        """Enter a failure; return whether the breaker was closed before."""
        try:
            return self._trip(name, reason, now)
        except IntegrityError:  # another process has entered this name since we looked (PostgreSQL only)
            return self._trip(name, reason, now)

    def _trip(self, name: str, reason: str, now: dt.datetime) -> bool:
        with self._database.writing() as connection:
            query = select(BreakerRow.state, BreakerRow.failures).where(BreakerRow.name == name)
            before = connection.execute(query.with_for_update()).one_or_none()
            was_closed = before is None or before.state == CLOSED
            failures = 1 if before is None or was_closed else before.failures + 1
            wait = backoff(failures, first=self._first, most=self._most, jitter=random.random())
            values = {
                "state": OPEN,
                "failures": failures,
                "reason": reason,
                "next_probe_at": now + dt.timedelta(seconds=wait),
            } | ({"since": now} if was_closed else {})
            if before is None:
                connection.execute(insert(BreakerRow).values(name=name, **values))
            else:
                connection.execute(update(BreakerRow).where(BreakerRow.name == name).values(**values))
        return was_closed

    def close(self, name: str, now: dt.datetime) -> bool:
        """Enter a success; return whether the breaker was open before."""
        row = update(BreakerRow).where(BreakerRow.name == name, BreakerRow.state == OPEN)
        with self._database.writing() as connection:
            closed = {"state": CLOSED, "failures": 0, "reason": "", "since": now}
            return bool(connection.execute(row.values(**closed)).rowcount)


class Pause:
    """A pause of one kind of work in this process, longer after each failure."""

    def __init__(self, *, first: float = 1.0, most: float = 60.0) -> None:
        self._first = first
        self._most = most
        self._lock = threading.Lock()
        self._failures = 0
        self._until = 0.0
        self.reason = ""
        """Why it pauses; empty where it does not."""

    def trip(self, reason: str) -> bool:
        """Enter a failure; return whether all was well before. Failures during a pause count once."""
        with self._lock:
            first, moment = not self._failures, time.monotonic()
            if moment >= self._until:
                self._failures += 1
                wait = backoff(self._failures, first=self._first, most=self._most, jitter=random.random())
                self._until = moment + wait
            self.reason = reason
            return first

    def clear(self) -> bool:
        """Enter a success; return whether there was a pause."""
        with self._lock:
            was, self._failures, self._until, self.reason = bool(self._failures), 0, 0.0, ""
            return was

    def left(self) -> float:
        """Return the seconds until the next try; 0 where it may be tried now."""
        with self._lock:
            return max(0.0, self._until - time.monotonic())
