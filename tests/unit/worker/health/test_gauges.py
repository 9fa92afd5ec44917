"""What the database knows, as gauges: asked on both databases, and said to be missing where it does not answer."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import Metric
from sqlalchemy import insert

from dicom_io.errors import OutOfResources
from dicom_io.finding import Finding, ModelIdentity
from tests.support import ledgers
from tests.unit.worker.ledger.test_receipts import received
from worker.clock import now
from worker.health import gauges as module
from worker.health.gauges import InstallationGauges
from worker.ledger.receipts import Ledger
from worker.ledger.records import NewFinding, NewResult
from worker.ledger.tables import ProcessRow
from worker.queue.breaker import Breakers
from worker.queue.claim import Queue, put
from worker.queue.task import Kind
from worker.settings import Settings

FINDING = NewFinding(ModelIdentity("m", "1", "d"), Finding(0.95, "PNEUMONIA", 0.5), 0.5, 0.2, now())


def settings(tmp_path: Path, **parts: Any) -> Settings:
    pacs = {"name": "pacs", "host": "127.0.0.1", "port": 1, "ae_title": "X"}
    return Settings(storage={"folder": tmp_path, **parts}, destinations=[pacs])


def samples(families: Iterable[Metric]) -> dict[tuple[str, ...], float]:
    """Return each series by its name and the values of its labels."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_an_empty_installation_stands_at_nought(ledger: Ledger, tmp_path: Path) -> None:
    found = samples(InstallationGauges(settings(tmp_path), ledger).collect())
    assert found["cxrd_database_up",] == 1
    assert found["cxrd_queue_tasks", "", "analyse"] == found["cxrd_queue_oldest_seconds", "pacs", "deliver"] == 0
    assert found["cxrd_destination_down", "pacs"] == found["cxrd_processes", "receive"] == 0
    assert found["cxrd_disk_free_bytes",] > found["cxrd_disk_least_bytes",] == 500_000_000


def test_what_waits_and_what_has_failed_is_counted(ledger: Ledger, tmp_path: Path) -> None:
    moment = now()
    earlier = moment - dt.timedelta(minutes=10)
    first, second, third = (received(ledger, sop_instance_uid=f"1.{n}", received_at=earlier) for n in range(3))
    ledgers.record_finding(ledger, first, FINDING, [NewResult("k", "1", "2.1", "1", "e", 1, ("pacs", "old"))], earlier)
    ledgers.fail(ledger, second, "damaged", earlier)
    assert Queue(ledger).claim([Kind.ANALYSE], moment, subject=third)
    with ledger.writing() as connection:  # second readings have as many targets as there were models
        for number, model in ((first, "a" * 64), (second, "b" * 64)):
            put(connection, Kind.REANALYSE, number, moment, target=model)
        process = {"owner": "o", "role": "work", "host": "h", "pid": 1, "started_at": earlier, "detail": "{}"}
        connection.execute(insert(ProcessRow).values(**process, seen_at=moment))
        connection.execute(insert(ProcessRow).values(**{**process, "owner": "p"}, seen_at=earlier))
    Breakers(ledger, first=5, most=60).trip("pacs", "no answer", moment)
    found = samples(InstallationGauges(settings(tmp_path), ledger).collect())
    assert found["cxrd_queue_tasks", "", "analyse"] == found["cxrd_queue_leased_tasks", "", "analyse"] == 1
    assert found["cxrd_queue_oldest_seconds", "", "analyse"] == pytest.approx(600, abs=60)
    assert found["cxrd_queue_tasks", "", "reanalyse"] == 2
    assert found["cxrd_queue_tasks", "pacs", "deliver"] == found["cxrd_queue_tasks", "old", "deliver"] == 1
    assert found["cxrd_failed_images",] == 1
    assert found["cxrd_failed_deliveries", "pacs"] == 0
    assert ("cxrd_uncommitted_results", "pacs") not in found  # nothing was asked
    assert found["cxrd_destination_down", "pacs"] == 1
    assert (found["cxrd_processes", "work"], found["cxrd_processes", "receive"]) == (1, 0)


def test_the_database_is_asked_now_and_then(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gauges = InstallationGauges(settings(tmp_path), ledger)
    assert samples(gauges.collect())["cxrd_queue_tasks", "", "analyse"] == 0
    received(ledger)
    assert samples(gauges.collect())["cxrd_queue_tasks", "", "analyse"] == 0
    monkeypatch.setattr(module, "LASTS", 0.0)
    assert samples(InstallationGauges(settings(tmp_path), ledger).collect())["cxrd_queue_tasks", "", "analyse"] == 1


def test_without_the_database_the_rest_is_shown(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise OutOfResources("the ledger is locked or cannot be reached")

    monkeypatch.setattr(ledger, "reading", away)
    found = samples(InstallationGauges(settings(tmp_path), ledger).collect())
    assert found["cxrd_database_up",] == 0
    assert {name for name, *_ in found} == {"cxrd_database_up", "cxrd_disk_free_bytes", "cxrd_disk_least_bytes"}
