"""The heartbeat: a process that lives keeps its leases and is seen; one that has ended is not."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from sqlalchemy import select

from dicom_io.errors import OutOfResources
from tests.support.ledgers import task_row
from tests.support.peers import wait_for
from tests.unit.worker.queue.test_claim import filled
from worker.clock import now
from worker.engines.heartbeat import Heartbeat, remove_process
from worker.ledger.receipts import Ledger
from worker.ledger.tables import ProcessRow
from worker.queue.claim import Queue
from worker.queue.task import Kind


def processes(ledger: Ledger) -> list[dict[str, Any]]:
    with ledger.reading() as connection:
        return [dict(row) for row in connection.execute(select(ProcessRow.__table__)).mappings()]


def lease_of(ledger: Ledger, subject: int) -> dt.datetime:
    row = task_row(ledger, subject)
    assert row is not None
    return row["lease_until"]  # type: ignore[no-any-return]


def test_a_process_is_seen_while_it_runs_and_keeps_what_it_has(ledger: Ledger) -> None:
    filled(ledger, 1)
    queue = Queue(ledger, lease=0.06)
    (task,) = queue.claim([Kind.ANALYSE], now())
    first = lease_of(ledger, 1)
    heartbeat = Heartbeat(ledger, "work", queue.owner, queue, lambda: {"in_hand": len(queue.in_hand())})
    heartbeat.start()
    (row,) = processes(ledger)
    assert (row["owner"], row["role"]) == (queue.owner, "work")
    wait_for(lambda: lease_of(ledger, 1) > first and json.loads(processes(ledger)[0]["detail"]) == {"in_hand": 1})
    heartbeat.stop()
    assert processes(ledger) == []
    with ledger.writing() as connection:
        queue.finish(connection, task)


def test_news_is_in_the_ledger_soon(ledger: Ledger) -> None:
    model: list[str] = []
    heartbeat = Heartbeat(ledger, "work", "w", None, lambda: {"model": model[-1] if model else None})
    heartbeat.start()
    model.append("1.0")
    heartbeat.tell()
    wait_for(lambda: json.loads(processes(ledger)[0]["detail"]) == {"model": "1.0"}, 5)
    heartbeat.stop()


def test_a_locked_ledger_does_not_end_it_and_is_said_once(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    queue = Queue(ledger, lease=0.06)
    heartbeat = Heartbeat(ledger, "work", queue.owner, queue, dict)
    beats: list[int] = []

    def renew(_: object) -> None:
        beats.append(1)
        if len(beats) in (1, 2, 3, 5):
            raise OutOfResources("locked") if len(beats) > 1 else ZeroDivisionError

    monkeypatch.setattr(queue, "renew", renew)
    heartbeat.start()
    wait_for(lambda: len(beats) > 6)
    heartbeat.stop()
    assert capsys.readouterr().out.count("heartbeat_missed") == 2


def test_a_process_starts_while_the_ledger_is_locked_and_is_seen_afterwards(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue(ledger, lease=0.06)
    heartbeat = Heartbeat(ledger, "receive", "r", queue, dict)
    with monkeypatch.context() as locked:

        def writing() -> None:
            raise OutOfResources("the ledger is locked by another process")

        locked.setattr(ledger, "writing", writing)
        heartbeat.start()
        wait_for(lambda: "locked" in heartbeat.fault)
    wait_for(lambda: bool(processes(ledger)) and not heartbeat.fault)
    heartbeat.stop()
    assert processes(ledger) == []


def test_a_process_that_others_have_forgotten_is_seen_again(ledger: Ledger) -> None:
    """As after a day without a way to the database."""
    heartbeat = Heartbeat(ledger, "work", "w", Queue(ledger, lease=0.06), dict)
    heartbeat.start()
    remove_process(ledger, "w")
    heartbeat.tell()
    wait_for(lambda: bool(processes(ledger)))
    heartbeat.stop()
