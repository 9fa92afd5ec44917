"""Requests through the ledger name what is not there, and then change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_io.errors import InvalidSettings
from tests.support.ledgers import fail
from tests.unit.worker.ledger.test_receipts import NOON, received
from tests.unit.worker.ledger.test_retention import STORE, answered
from worker.destination_settings import DicomDestination
from worker.ledger.database import open_ledger
from worker.ledger.requests import RedeliveryRequest, redeliver, retry
from worker.ledger.retention import Retention
from worker.settings import Settings, Storage


def settings_in(folder: Path) -> Settings:
    pacs = DicomDestination(name="pacs", host="127.0.0.1", port=104, ae_title="PACS")
    return Settings(storage=Storage(folder=folder), destinations=(pacs,))


def test_a_destination_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    assert redeliver(settings, RedeliveryRequest("pacs")) == (0, 0)
    with pytest.raises(InvalidSettings, match=r"^nobody: no such destination; there are: pacs$"):
        redeliver(settings, RedeliveryRequest("nobody"))


def test_only_failed_images_are_tried_again(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    ledger = open_ledger(settings)
    failed, waiting = received(ledger), received(ledger, sop_instance_uid="1.2.4", sha256="d" * 64)
    fail(ledger, failed, "unreadable", NOON)
    with pytest.raises(
        InvalidSettings, match=r"^receipt 99 does not exist; receipt 2 has not failed: its status is received$"
    ):
        retry(settings, (failed, waiting, 99))
    assert ledger.states([failed]) == {failed: "failed"}
    assert retry(settings, (failed,)) == 1
    assert ledger.states([failed]) == {failed: "received"}
    assert retry(settings) == 0


def test_results_that_are_there_are_sent_though_the_radiograph_was_deleted(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    ledger = open_ledger(settings)
    numbers = [answered(ledger, name) for name in "12"]
    retention = Retention(ledger, STORE)
    retention.mark(numbers, ["received"], NOON, "age")
    chosen = RedeliveryRequest("pacs", (numbers[0],), include_sent=True)
    assert redeliver(settings, chosen) == (1, 0)
    retention.mark(numbers[1:], ["results"], NOON, "age")
    assert redeliver(settings, RedeliveryRequest("pacs", include_sent=True)) == (1, 1)
    with pytest.raises(InvalidSettings, match=rf"^receipt {numbers[1]}: its results were deleted on 2026-"):
        redeliver(settings, RedeliveryRequest(None, tuple(numbers), include_sent=True))


def test_one_reason_is_enough(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    ledger = open_ledger(settings)
    done, failed = answered(ledger, "1"), received(ledger, sop_instance_uid="1.2.4", sha256="d" * 64)
    fail(ledger, failed, "unreadable", NOON)
    Retention(ledger, "").mark([done, failed], ["received"], NOON, "ordered", ordered=True)
    with pytest.raises(InvalidSettings) as refused:
        retry(settings, (done, failed))
    assert str(refused.value).count(f"receipt {done}") == 1
    assert f"receipt {failed}: its file was deleted" in str(refused.value)
