"""`cxrd purge`: what a person orders goes, and the command says what."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from sqlalchemy import update

from tests.acceptance.program import invoke
from tests.unit.worker.engines.test_housekeeper import House, there
from worker.ledger.tables import ReceiptRow
from worker.settings import Settings
from worker.storage.pseudonym import PatientKey


@pytest.fixture
def house(tmp_path: Path) -> House:
    (tmp_path / "data").mkdir()
    return House(tmp_path / "data")


def purge(house: House, *arguments: str, **settings: object) -> tuple[int, dict[str, str], str]:
    """Run it; return its exit code, the counts, and what it says beside them."""
    config = house.folder.parent / "config.yaml"
    config.write_text(yaml.safe_dump({"storage": {"folder": str(house.folder), "min_free_mb": 0}} | settings))
    done = invoke("purge", *arguments, "-c", config)
    counts = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    return done.returncode, {name: value.strip() for name, value in counts.items()}, done.stderr


def test_without_yes_it_only_says_what_would_go(house: House) -> None:
    files = house.put(1), house.put(2, sent=False)
    code, counts, note = purge(house, "--study", "1.2")
    assert (code, counts["Images to delete"], counts["Not done with, they stay"]) == (0, "1", "1")
    assert "add --yes" in note
    assert there(*files) == [(True, True)] * 2
    code, counts, note = purge(house, "--study", "1.2", "--yes")
    assert (code, counts["Images deleted"], note) == (0, "1", "")
    assert there(*files) == [(False, False), (True, True)]
    assert purge(house, "--study", "1.2", "--yes")[1]["Deleted before"] == "1"


def test_a_patient_is_found_by_the_key(house: House) -> None:
    files = house.put(1)
    key = PatientKey(house.folder, "hash").of("4711")
    with house.ledger.writing() as connection:
        connection.execute(update(ReceiptRow).values(patient_key=key))
    assert purge(house, "--patient", "4712", "--yes")[1]["Images deleted"] == "0"
    assert purge(house, "--patient", "4711", "--yes")[1]["Images deleted"] == "1"
    assert there(files) == [(False, False)]


def test_what_cannot_be_meant_is_said(house: House) -> None:
    house.put(1)
    assert purge(house) == (2, {}, "cxrd: name the images by --study, --patient or --before\n")
    code, _, words = purge(house, "--patient", "4711", audit={"patient_id": "none"})
    assert code == 2
    assert "the audit holds no patients" in words
    code, _, words = purge(house, "--patient", "4711")
    assert code == 2
    assert "secret.key is missing" in words
    assert purge(house, "--patient", "", audit={"patient_id": "plain"})[0] == 2
    assert Settings().storage.room_bytes == 2_000_000_000
