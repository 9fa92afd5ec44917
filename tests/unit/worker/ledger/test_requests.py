"""Requests through the ledger name what is not there, and then change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_io.errors import InvalidSettings
from tests.support.ledgers import fail
from tests.unit.worker.ledger.test_receipts import NOON, received
from worker.destination_settings import DicomDestination
from worker.ledger.database import open_ledger
from worker.ledger.requests import RedeliveryRequest, redeliver, retry
from worker.settings import Settings, Storage


def settings_in(folder: Path) -> Settings:
    pacs = DicomDestination(name="pacs", host="127.0.0.1", port=104, ae_title="PACS")
    return Settings(storage=Storage(folder=folder), destinations=(pacs,))


def test_a_destination_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    assert redeliver(settings, RedeliveryRequest("pacs")) == 0
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
