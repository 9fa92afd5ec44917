"""What the audit gets of peers that are not let in."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import pytest

from dicom_io.errors import OutOfResources
from worker.receive import rejections
from worker.receive.rejections import MOST, Rejections

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Entered:
    """Stands for the ledger."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, int]] = []
        self.is_locked = False

    def record_event(self, kind: str, _: dt.datetime, facts: Mapping[str, Any]) -> None:
        if self.is_locked:
            raise OutOfResources("the ledger is locked")
        assert kind == "association_rejected"
        self.events.append((facts["calling_ae"], facts["peer_address"], facts["count"]))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[dt.datetime]:
    moments = [NOW]
    monkeypatch.setattr(rejections, "now", lambda: moments[-1])
    return moments


def test_the_first_is_entered_at_once_and_the_rest_once_a_minute(clock: list[dt.datetime]) -> None:
    ledger = Entered()
    counted = Rejections(ledger)  # type: ignore[arg-type]
    for second in range(0, 121, 1):
        clock.append(NOW + dt.timedelta(seconds=second))
        counted.note("MALLORY", "10.0.0.9", "r")
    counted.enter()
    assert ledger.events == [("MALLORY", "10.0.0.9", count) for count in (1, 60, 60)]


def test_what_cannot_be_entered_is_kept(clock: list[dt.datetime]) -> None:
    ledger = Entered()
    ledger.is_locked = True
    counted = Rejections(ledger)  # type: ignore[arg-type]
    counted.note("A", "a", "r")
    counted.note("B", "b", "r")
    ledger.is_locked = False
    clock.append(NOW + rejections.EVERY)
    counted.note("A", "a", "r")
    assert sorted(ledger.events) == [("A", "a", 2), ("B", "b", 1)]


def test_many_names_take_no_more_memory_and_no_more_events(clock: list[dt.datetime]) -> None:
    ledger = Entered()
    counted = Rejections(ledger)  # type: ignore[arg-type]
    assert clock
    for number in range(5000):
        counted.note(f"N{number}", "10.0.0.9", "r")
    counted.enter()
    assert len(ledger.events) <= MOST + 2
    assert sum(count for *_, count in ledger.events) == 5000
