"""Breakers: what is out of order is asked by one, and said once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.unit.worker.ledger.test_receipts import NOON, SECOND
from tests.unit.worker.queue.test_claim import all_at_once
from worker.ledger.receipts import Ledger
from worker.queue.breaker import Breakers, Pause


@pytest.fixture
def breakers(ledger: Ledger) -> Breakers:
    return Breakers(ledger, first=4, most=16)


def test_it_is_said_once_that_a_destination_is_down_and_once_that_it_is_there(breakers: Breakers) -> None:
    assert breakers.open() == []
    assert not breakers.close("pacs", NOON)
    assert breakers.trip("pacs", "cannot be reached", NOON)
    assert not breakers.trip("pacs", "rejects us", NOON + SECOND)
    breakers.trip("archive", "cannot be reached", NOON)
    assert [each.name for each in breakers.open()] == ["archive", "pacs"]
    found = breakers.of("pacs")
    assert found is not None
    assert (found.since, found.failures, found.reason) == (NOON, 2, "rejects us")
    assert breakers.close("pacs", NOON + 2 * SECOND)
    assert not breakers.close("pacs", NOON + 2 * SECOND)
    assert breakers.of("pacs") is None
    assert breakers.trip("pacs", "cannot be reached", NOON + 3 * SECOND)
    found = breakers.of("pacs")
    assert found is not None
    assert (found.since, found.failures) == (NOON + 3 * SECOND, 1)


def test_probes_come_at_ever_longer_intervals(breakers: Breakers) -> None:
    for whole in (4, 8, 16, 16):
        breakers.trip("pacs", "cannot be reached", NOON)
        found = breakers.of("pacs")
        assert found is not None
        assert whole / 2 <= (found.next_probe_at - NOON).total_seconds() <= whole


def test_one_of_many_is_the_probe(breakers: Breakers) -> None:
    assert not breakers.take_probe("pacs", NOON, 60)  # nothing is down
    breakers.trip("pacs", "cannot be reached", NOON)
    assert not breakers.take_probe("pacs", NOON + SECOND, 60)  # not yet
    due = NOON + 4 * SECOND
    assert sorted(all_at_once([lambda: breakers.take_probe("pacs", due, 60)] * 8)) == [False] * 7 + [True]
    assert not breakers.take_probe("pacs", due + 59 * SECOND, 60)
    assert breakers.take_probe("pacs", due + 60 * SECOND, 60)  # whoever had it did not come back
    breakers.close("pacs", due)
    assert not breakers.take_probe("pacs", due + 999 * SECOND, 60)


def test_of_many_that_find_it_down_at_once_one_says_so(breakers: Breakers) -> None:
    assert sorted(all_at_once([lambda: breakers.trip("pacs", "cannot be reached", NOON)] * 6)) == [False] * 5 + [True]
    found = breakers.of("pacs")
    assert found is not None
    assert found.failures == 6
    assert sorted(all_at_once([lambda: breakers.close("pacs", NOON)] * 6)) == [False] * 5 + [True]


def test_a_pause_is_longer_after_each_failure_and_over_with_the_first_success(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("worker.queue.breaker.time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr("worker.queue.breaker.random", SimpleNamespace(random=lambda: 0.0))
    pause = Pause(first=1, most=4)
    assert (pause.left(), pause.reason, pause.clear()) == (0.0, "", False)
    assert pause.trip("disk full")
    for seconds in (1.0, 2.0, 4.0, 4.0):
        assert pause.left() == seconds
        clock[0] += seconds / 2
        assert not pause.trip("disk full")  # of another thread that had begun before: it is the same failure
        assert pause.left() == seconds / 2
        clock[0] += seconds / 2
        assert pause.left() == 0
        assert not pause.trip("the ledger is locked")
    assert pause.reason == "the ledger is locked"
    assert pause.clear()
    assert (pause.left(), pause.reason, pause.clear()) == (0.0, "", False)
    assert pause.trip("disk full")
    assert pause.left() == 1
