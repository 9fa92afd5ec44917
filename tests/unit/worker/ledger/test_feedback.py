"""Readers' verdicts: on the right images, all or none, and into training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dicom_io.errors import InvalidData
from dicom_io.finding import Answer
from modeltrain.data.samples import read_sample
from tests.support.ledgers import leave_out
from tests.unit.worker.ledger.test_receipts import FINDING, NOON, RESULT, answered, received
from worker.ledger import verification
from worker.ledger.feedback import Verdict, check, check_images, enter, faults, read_file, verdicts
from worker.ledger.queries import Filter, findings
from worker.ledger.receipts import Ledger
from worker.models.training_data import confirmed_samples
from worker.storage.blobs import Blobs


def said(verdict: str = "NORMAL", **names: str) -> Verdict:
    return check(Verdict(verdict, names.pop("reader", "jd"), **names))


def test_the_last_verdict_counts_and_all_are_kept(ledger: Ledger) -> None:
    answered(ledger)
    assert enter(ledger, [said(sop_instance_uid="1.2.3")], "command line", NOON) == 1
    enter(ledger, [said("pneumonia", sop_instance_uid="1.2.3", agent="VIRUS")], "command line", NOON)
    (row,) = verdicts(ledger)
    assert (row["verdict"], row["agent"], row["answer"], row["reader"]) == ("PNEUMONIA", "virus", "flagged", "jd")
    assert verdicts(ledger, disagree=True) == []
    assert findings(ledger, Filter())[0]["feedback"] == "PNEUMONIA"
    with ledger.reading() as connection:
        count, problems = verification.verify(connection)
    assert problems == []
    assert count >= 4


def test_an_accession_number_stands_for_its_analysed_images(ledger: Ledger) -> None:
    answered(ledger)
    received(ledger, sop_instance_uid="1.2.4")
    assert enter(ledger, [said(accession_number="A1")], "f.csv", NOON) == 1
    (row,) = verdicts(ledger, disagree=True)
    assert row["sop_instance_uid"] == "1.2.3"


def test_all_or_none(ledger: Ledger) -> None:
    answered(ledger)
    with pytest.raises(InvalidData, match=r"no image was received: 9\.9"):
        enter(ledger, [said(sop_instance_uid="1.2.3"), said(sop_instance_uid="9.9")], "f.csv", NOON)
    assert verdicts(ledger) == []
    with pytest.raises(InvalidData, match="no analysed image has the accession number: B7"):
        enter(ledger, [said(accession_number="B7")], "f.csv", NOON)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"verdict": "SICK", "sop_instance_uid": "1"}, "neither NORMAL nor PNEUMONIA"),
        ({"verdict": "PNEUMONIA", "agent": "fungus", "sop_instance_uid": "1"}, "neither bacteria nor virus"),
        ({"verdict": "NORMAL", "agent": "virus", "sop_instance_uid": "1"}, "but the verdict is NORMAL"),
        ({"verdict": "NORMAL"}, "either a SOP Instance UID or an accession number"),
        ({"verdict": "NORMAL", "sop_instance_uid": "1", "accession_number": "2"}, "either"),
        ({"verdict": "NORMAL", "sop_instance_uid": "1", "reader": ""}, "1 to 64 characters"),
    ],
)
def test_what_makes_no_sense_is_refused(names: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidData, match=message):
        said(**names)


def test_a_file_is_read_row_by_row(ledger: Ledger, tmp_path: Path) -> None:
    answered(ledger)
    path = tmp_path / "verdicts.csv"
    path.write_text(
        "verdict,reader,sop_instance_uid,accession_number\n"
        "NORMAL,jd,1.2.3,\nSICK,jd,1.2.3,\nNORMAL,jd,,A1\nNORMAL,jd,8.8,\nNORMAL,,1.2.3,\nmaybe,jd,1.2.3,\n"
    )
    rows = check_images(ledger, read_file(path))
    assert [isinstance(what, Verdict) for _, what in rows] == [True, False, True, False, False, False]
    told = faults(path, rows)
    assert told.startswith(f"{path}: row 3: verdict 'SICK'")
    assert "row 5: no image was received: 8.8" in told
    assert told.endswith("and 1 more")
    assert faults(path, rows[:1]) == ""
    image = "sop_instance_uid or accession_number"
    for text, columns in (
        ("verdict,reader\n", image),
        ("reader,accession_number\n", "verdict"),
        ("", f"verdict, reader, {image}"),
    ):
        path.write_text(text)
        with pytest.raises(InvalidData, match=f"lacks the columns: {columns}$"):
            read_file(path)


def test_confirmed_images_become_training_samples(ledger: Ledger, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "objects")
    with pytest.raises(InvalidData, match="no reader's verdict yet"):
        confirmed_samples(ledger, blobs)
    answered(ledger)
    other = received(ledger, sop_instance_uid="1.2.9", sha256="c" * 64, patient_key="")
    enter(ledger, [said("PNEUMONIA", sop_instance_uid="1.2.3", agent="bacteria")], "x", NOON)
    enter(ledger, [said("NORMAL", sop_instance_uid="1.2.9")], "x", NOON)
    first, second = confirmed_samples(ledger, blobs)
    assert (first.path, first.label, first.patient, first.agent) == (blobs.path("a" * 64), 1, "k", 0)
    assert (second.label, second.patient, second.agent) == (0, f"receipt-{other}", -1)
    assert FINDING.finding.answer is Answer.FLAGGED
    assert RESULT.kind


def test_what_the_rules_left_out_takes_no_verdict(ledger: Ledger, tmp_path: Path) -> None:
    reasons = {"5.1": "modality CT (rules.modalities)", "5.2": "own output"}
    for uid, reason in reasons.items():
        leave_out(ledger, received(ledger, sop_instance_uid=uid), reason, NOON)
        with pytest.raises(InvalidData, match=f"{uid} takes no verdict, since it was not analysed: {reason[:8]}"):
            enter(ledger, [said(sop_instance_uid=uid)], "x", NOON)
    path = tmp_path / "verdicts.csv"
    path.write_text("verdict,reader,sop_instance_uid\nNORMAL,jd,5.1\n")
    assert "row 2: 5.1 takes no verdict" in faults(path, check_images(ledger, read_file(path)))
    assert verdicts(ledger) == []


def test_what_the_gate_left_out_takes_one(ledger: Ledger, tmp_path: Path) -> None:
    stopped = replace(FINDING, finding=replace(FINDING.finding, outlier=1.5))
    for uid in ("5.1", "5.2"):
        leave_out(ledger, received(ledger, sop_instance_uid=uid), "any words", NOON, outside=stopped)
    assert enter(ledger, [said(sop_instance_uid="5.1"), said("PNEUMONIA", sop_instance_uid="5.2")], "x", NOON) == 2
    assert len(confirmed_samples(ledger, Blobs(tmp_path / "objects"))) == 2


def test_a_verdict_on_what_was_left_out_later_is_not_learnt_from(ledger: Ledger, tmp_path: Path) -> None:
    answered(ledger)
    other = received(ledger, sop_instance_uid="5.1", sha256="d" * 64)
    enter(ledger, [said(sop_instance_uid="1.2.3"), said(sop_instance_uid="5.1")], "x", NOON)
    leave_out(ledger, other, "modality CT (rules.modalities)", NOON)
    (sample,) = confirmed_samples(ledger, Blobs(tmp_path / "objects"))
    assert sample.title == "SOP instance 1.2.3"
    with pytest.raises(InvalidData, match=r"SOP instance 1\.2\.3: .*the file is missing"):
        read_sample(sample)
