"""A clock that goes back makes nothing wait for the difference."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from sqlalchemy import text

from tests.unit.worker.ledger.test_receipts import NOON
from worker.engines.clock_watch import ClockWatch
from worker.ledger.receipts import Ledger
from worker.queue.breaker import Breakers
from worker.queue.claim import Queue, put
from worker.queue.task import Kind
from worker.settings import OutboxSettings

HOUR, SECOND = dt.timedelta(hours=1), dt.timedelta(seconds=1)


class Clocks:
    """Two clocks that a test sets."""

    def __init__(self) -> None:
        self.wall, self.steady = NOON, 1000.0

    def go(self, seconds: float, *, set_back: dt.timedelta = 0 * SECOND) -> None:
        self.steady += seconds
        self.wall += seconds * SECOND - set_back


def dues(ledger: Ledger) -> dict[str, Any]:
    with ledger.reading() as connection:
        return {str(row[0]): row[1] for row in connection.execute(text("SELECT kind, due_at FROM task ORDER BY kind"))}


def test_after_the_clock_went_back_nothing_waits_for_long(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    clocks, settings = Clocks(), OutboxSettings(retry_max=900)
    queue, dead = Queue(ledger), Queue(ledger, "dead")
    watch = ClockWatch(queue, settings, lambda: clocks.wall, lambda: clocks.steady)
    watch.look()
    with ledger.writing() as connection:
        for number, kind in enumerate((Kind.ANALYSE, Kind.DELIVER, Kind.EXPIRE, Kind.REANALYSE)):
            put(connection, kind, number, NOON + 60 * SECOND, target="pacs")
    (leased,) = dead.claim([Kind.REANALYSE], NOON + 60 * SECOND)
    Breakers(ledger, first=1, most=900).trip("pacs", "down", NOON)
    clocks.go(5)
    watch.look()
    assert "clock_went_back" not in capsys.readouterr().out
    clocks.go(5, set_back=6 * HOUR)
    watch.look()
    assert capsys.readouterr().out.count("clock_went_back") == 1
    later = clocks.wall + 900 * SECOND
    tasks = {each.kind for each in queue.claim([*Kind], later, limit=9, among="any")}
    assert tasks == {Kind.ANALYSE, Kind.DELIVER, Kind.EXPIRE, Kind.REANALYSE}
    assert leased.kind == Kind.REANALYSE
    assert Breakers(ledger, first=1, most=900).take_probe("pacs", later, 1)


def test_a_process_that_starts_mends_what_was_put_off_before_the_clock_went_back(ledger: Ledger) -> None:
    clocks = Clocks()
    with ledger.writing() as connection:
        put(connection, Kind.DELIVER, 1, NOON + 6 * HOUR, target="pacs")
        put(connection, Kind.EXPIRE, 2, NOON + 6 * HOUR, target="pacs")
    ClockWatch(Queue(ledger), OutboxSettings(), lambda: clocks.wall, lambda: clocks.steady).look()
    assert Queue(ledger).has_due([Kind.DELIVER], NOON + HOUR)
    assert not Queue(ledger).has_due([Kind.EXPIRE], NOON + HOUR)  # the daily look need not come at each start


def test_what_waits_as_it_should_is_left_alone(ledger: Ledger) -> None:
    clocks = Clocks()
    with ledger.writing() as connection:
        put(connection, Kind.DELIVER, 1, NOON + 800 * SECOND, target="pacs")
    before = dues(ledger)
    watch = ClockWatch(Queue(ledger), OutboxSettings(), lambda: clocks.wall, lambda: clocks.steady)
    for _ in range(3):
        watch.look()
        clocks.go(3600)  # forward it may go as it likes
        clocks.wall += HOUR
    assert dues(ledger) == before
