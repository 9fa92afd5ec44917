"""The heartbeat of a process: prolongs its leases, and says in the ledger that it lives and how it is."""

from __future__ import annotations

import datetime as dt
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy import delete, insert, update

from dicom_io.errors import CxrdError
from worker.clock import now
from worker.engines.clock_watch import ClockWatch
from worker.ledger.receipts import Ledger
from worker.ledger.tables import ProcessRow
from worker.logs import unexpected
from worker.queue.claim import Queue

log = structlog.get_logger("cxrd.heartbeat")

SEEN = 10.0
"""Seconds between two signs of life in the ledger; a process that was not seen for three times that is gone."""
_REMEMBERED = dt.timedelta(days=1)


class Heartbeat:
    """A thread beside the work.

    Parameters
    ----------
    role
        What the process does.
    queue
        Whose leases are prolonged; None for a process without tasks.
    detail
        Returns what a person may want to know of the process, as plain values for JSON.
    clock_watch
        Looks whether the clock has gone back; None for a process without tasks.
    """

    def __init__(
        self,
        ledger: Ledger,
        role: str,
        owner: str,
        queue: Queue | None,
        detail: Callable[[], dict[str, Any]],
        clock_watch: ClockWatch | None = None,
    ) -> None:
        self._ledger = ledger
        self._row = {"owner": owner, "role": role, "host": socket.gethostname()[:255], "pid": os.getpid()}
        self._queue = queue
        self._detail = detail
        self._clock_watch = clock_watch
        self._ending = threading.Event()
        self._news = threading.Event()
        self.fault = ""
        """Why the last sign of life could not be entered; empty where it was."""
        self._seen_at = -SEEN
        self._started_at = now()
        self._is_entered = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Enter the process, and start. A ledger that is locked just now holds up nothing: the next beat enters it."""
        self._started_at = now()
        try:
            self._enter()
        except CxrdError as error:
            self._miss(str(error))
        self._thread.start()

    def stop(self) -> None:
        """End, and take the process out of the ledger: it has no work in hand any more."""
        self._ending.set()
        self._news.set()
        if self._thread.ident is not None:
            self._thread.join()
        try:
            remove_process(self._ledger, str(self._row["owner"]))
        except CxrdError as error:
            log.warning("farewell_not_entered", reason=str(error))

    def tell(self) -> None:
        """Say in the ledger soon how the process is, since that has changed."""
        self._news.set()

    def _run(self) -> None:
        pause = min(SEEN, self._queue.lease.total_seconds() / 3) if self._queue else SEEN
        while True:
            has_news = self._news.wait(pause)
            self._news.clear()
            if self._ending.is_set():
                return
            try:
                self._beat(has_news)
            except Exception as error:  # noqa: BLE001 - the border of a thread that must not end
                self._miss(str(error) if isinstance(error, CxrdError) else unexpected(error))
            else:
                self.fault = ""

    def _beat(self, has_news: bool = False) -> None:
        if self._clock_watch:
            self._clock_watch.look()
        if self._queue:
            self._queue.renew(now())
        if not self._is_entered:
            self._enter()
        elif has_news or time.monotonic() - self._seen_at >= SEEN:
            with self._ledger.writing() as connection:
                row = update(ProcessRow).where(ProcessRow.owner == self._row["owner"])
                # Others forget a process that was cut off from the database for a day.
                self._is_entered = bool(connection.execute(row.values(seen_at=now(), detail=self._words())).rowcount)
            self._seen_at = time.monotonic()

    def _enter(self) -> None:
        moment, own = now(), ProcessRow.owner == self._row["owner"]
        with self._ledger.writing() as connection:
            forgotten = ProcessRow.seen_at < moment - _REMEMBERED  # of processes that ended without a farewell
            connection.execute(delete(ProcessRow).where(forgotten | own))
            values = self._row | {"started_at": self._started_at, "seen_at": moment, "detail": self._words()}
            connection.execute(insert(ProcessRow).values(**values))
        self._is_entered = True

    def _miss(self, reason: str) -> None:
        if not self.fault:
            log.warning("heartbeat_missed", reason=reason)
        self.fault = reason

    def _words(self) -> str:
        return json.dumps(self._detail(), default=str)


def remove_process(ledger: Ledger, owner: str) -> None:
    """Take a process that has ended out of the ledger."""
    with ledger.writing() as connection:
        connection.execute(delete(ProcessRow).where(ProcessRow.owner == owner))
