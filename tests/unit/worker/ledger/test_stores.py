"""The store of a process: whether its volume is there, whatever the audit keeps of patients."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_io.errors import OutOfResources
from worker.ledger.database import open_ledger
from worker.ledger.stores import open_blobs
from worker.settings import Settings


def settings(folder: Path) -> Settings:
    return Settings.model_validate({"storage": {"folder": folder}, "audit": {"patient_id": "none"}})


def test_a_folder_that_was_worked_in_misses_its_store(tmp_path: Path) -> None:
    here = settings(tmp_path / "data")
    ledger = open_ledger(here)
    store = open_blobs(here, ledger).store
    objects, away = tmp_path / "data" / "objects", tmp_path / "away"
    objects.rename(away)
    objects.mkdir()  # where the volume is mounted
    with pytest.raises(OutOfResources, match="is its volume mounted"):
        open_blobs(here, ledger).check_there()
    assert list(objects.iterdir()) == []
    objects.rmdir()
    away.rename(objects)
    assert open_blobs(here, ledger).store == store


def test_a_further_machine_gets_a_store_of_its_own(tmp_path: Path) -> None:
    here, there = settings(tmp_path / "here"), settings(tmp_path / "there")
    ledger = open_ledger(here)
    there.storage.folder.mkdir()
    assert open_blobs(here, ledger).store != open_blobs(there, ledger).store != ""


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    here = settings(tmp_path / "data")
    ledger = open_ledger(here)
    (tmp_path / "data" / "objects").touch()
    with pytest.raises(OutOfResources, match=r"storage\.folder .*data"):
        open_blobs(here, ledger)
