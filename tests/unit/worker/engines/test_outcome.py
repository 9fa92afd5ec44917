"""Outcomes: entered however long the ledger is locked, once, and by whoever has the task."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from dicom_io.errors import OutOfResources
from tests.support.peers import wait_for
from worker.engines.outcome import Outcomes
from worker.queue.claim import LeaseLost


def refused(times: int, error: Exception, done: list[str]) -> Callable[[], None]:
    """Return what fails so many times, and then enters something."""

    def write() -> None:
        nonlocal times
        if times > 0:
            times -= 1
            raise error
        done.append("entered")

    return write


def test_it_is_tried_until_the_ledger_takes_it_and_entered_once(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes, done = Outcomes(threading.Event()), list[str]()
    assert outcomes.enter(refused(3, OutOfResources("the ledger is locked"), done))
    assert done == ["entered"]
    said = capsys.readouterr().out
    assert (said.count("ledger_waits"), said.count("ledger_again")) == (1, 1)
    assert outcomes.enter(refused(0, OutOfResources(""), done))
    assert capsys.readouterr().out == ""


def test_meanwhile_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes, done, free = Outcomes(threading.Event()), list[str](), threading.Event()

    def write() -> None:
        if not free.is_set():
            raise OutOfResources("the disk that holds the ledger is full")
        done.append("entered")

    threads = [threading.Thread(target=outcomes.enter, args=(write,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: outcomes.waits_for)
    assert outcomes.waits_for == "the disk that holds the ledger is full"
    assert done == []
    free.set()
    for thread in threads:
        thread.join()
    assert done == ["entered"] * 3
    assert outcomes.waits_for == ""


def test_what_belongs_to_somebody_else_by_now_is_not_entered(capsys: pytest.CaptureFixture[str]) -> None:
    done = list[str]()
    assert not Outcomes(threading.Event()).enter(refused(1, LeaseLost("the lease of task 7 was lost"), done))
    assert done == []
    assert "lease_lost" in capsys.readouterr().out


def test_the_end_waits_a_moment_for_the_ledger_and_no_longer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("worker.engines.outcome._FAREWELL", 0.3)
    ending, done = threading.Event(), list[str]()
    ending.set()
    outcomes = Outcomes(ending)
    assert outcomes.enter(refused(1, OutOfResources("locked"), done))  # there is time for that
    begin = time.monotonic()
    assert not outcomes.enter(refused(1_000_000, OutOfResources("locked"), done))
    assert not outcomes.enter(refused(1_000_000, OutOfResources("locked"), done))  # the moment is that of the process
    assert time.monotonic() - begin < 30
    assert done == ["entered"]
    assert capsys.readouterr().out.count("outcome_not_entered") == 2


def test_what_nobody_foresaw_is_not_tried_for_ever() -> None:
    done = list[str]()
    with pytest.raises(ZeroDivisionError):
        Outcomes(threading.Event()).enter(refused(1, ZeroDivisionError(), done))
    assert done == []
