"""Reports that a radiograph was not analysed: when asked for, of radiographs alone, once, and by the same outbox."""

from __future__ import annotations

import json
import re
import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydantic import ValidationError
from pydicom import Dataset
from pydicom.uid import UID

from dicom_io.errors import UnsupportedPixels
from dicom_io.header.eligibility import judge
from dicom_io.header.rules import Rules
from dicom_io.header.source_image import source_image
from dicom_io.objects.common import encode
from tests.support.peers import chest
from tests.support.tools import tool
from tests.unit.dicom_io.header.test_eligibility import FOR_PROCESSING, SECONDARY_CAPTURE, equipment, header
from tests.unit.worker.engines.test_pipeline import Bench, again, failing, make_due
from tests.unit.worker.results.test_result_set import MODEL, NOW, answered, coded, source, tree
from worker.clock import now
from worker.conformance.statement import statement
from worker.destination_settings import DicomDestination
from worker.engines.offline import analyze
from worker.health.drift import period
from worker.inference.analyzer import Reader
from worker.ledger import verification
from worker.ledger.queries import Filter, findings, story
from worker.ledger.receipts import Receipts
from worker.results.result_set import not_analysed
from worker.settings import ModelSettings, Results, Settings

ON = Results(report_not_analysed=True)
PACS = DicomDestination(name="pacs", host="127.0.0.1", port=104, ae_title="RECEIVER")


@pytest.fixture
def bench(tmp_path: Path, reader: Reader) -> Bench:
    made = Bench(tmp_path, reader)
    made.pipeline._settings = Settings(results=ON, destinations=(PACS,))
    return made


def done(bench: Bench, dataset: Dataset) -> int:
    number = bench.put(dataset)
    bench.process(number)
    return number


def told(bench: Bench, number: int) -> dict[str, Any]:
    found = story(bench.ledger, str(number))
    assert found is not None
    return found


# ---- which -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "radiograph"),
    [
        ({"ViewPosition": "LL"}, True),
        ({"BodyPartExamined": "HAND"}, True),
        ({"PatientBreedDescription": "Beagle"}, True),
        ({"Manufacturer": "cxrd"}, False),
        ({"ContributingEquipmentSequence": equipment("CXRD")}, False),
        ({"Modality": "CT"}, False),
        ({"Modality": ""}, False),
        ({"modality": "DX", "SOPClassUID": FOR_PROCESSING}, False),
        ({"SOPClassUID": SECONDARY_CAPTURE, "ViewPosition": None}, False),
        ({"ImageType": ["DERIVED", "PRIMARY"]}, False),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, False),
    ],
)
def test_only_of_radiographs(attributes: dict[str, Any], radiograph: bool) -> None:
    verdict = judge(header(**attributes), Rules())
    assert (verdict.analyse, verdict.radiograph) == (False, radiograph)


@pytest.mark.parametrize(
    "attributes",
    [
        {"Modality": "CT"},
        {"Manufacturer": "cxrd", "ViewPosition": "LL"},
        {"ImageType": ["DERIVED", "SECONDARY"]},
    ],
)
def test_nothing_is_reported_of_what_is_no_radiograph_or_our_own(bench: Bench, attributes: dict[str, Any]) -> None:
    found = told(bench, done(bench, chest(**attributes)))
    assert found["finding"]["status"] == "not_analysed"
    assert (found["results"], found["deliveries"]) == ([], [])


def test_the_audit_counts_the_report_of_an_image_that_was_not_analysed(bench: Bench) -> None:
    number = done(bench, chest(ViewPosition="LL"))
    other = chest()
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    done(bench, other)
    left_out, answered = reversed(findings(bench.ledger, Filter()))
    assert (left_out["receipt_id"], left_out["status"]) == (number, "not_analysed")
    assert (left_out["deliveries"], left_out["delivered"]) == (1, 0)
    (report,) = told(bench, number)["results"]
    assert left_out["result_uids"] == report["sop_instance_uid"]
    assert (answered["status"], answered["deliveries"]) == ("analysed", 3)
    assert [row["receipt_id"] for row in findings(bench.ledger, Filter(undelivered=True))] == [2, 1]


def test_the_report_that_comes_back_is_not_reported(bench: Bench) -> None:
    done(bench, chest(ViewPosition="LL"))
    ours = pydicom.dcmread(BytesIO(bench.results()["structured-report"]))
    for disguised in (False, True):
        if disguised:  # stripped of everything that tells whose it is: the ledger knows its UID
            ours.Manufacturer, ours.Modality, ours.SOPClassUID = "SOMEBODY", "CR", "1.2.840.10008.5.1.4.1.1.1"
            ours.file_meta.MediaStorageSOPClassUID = ours.SOPClassUID
            ours.ViewPosition, ours.Rows, ours.Columns = "LL", 4, 4
            del ours.ContributingEquipmentSequence
            with bench.ledger.writing() as connection:
                connection.exec_driver_sql("UPDATE receipt SET sop_instance_uid = '1.2.3' WHERE id = 2")
        found = told(bench, done(bench, ours))
        assert (found["finding"]["reason"], found["results"]) == ("own output", [])


def test_it_is_off_by_default_and_needs_its_kind(bench: Bench) -> None:
    assert not Results().report_not_analysed
    bench.pipeline._settings = Settings(destinations=(PACS,))
    assert told(bench, done(bench, chest(ViewPosition="LL")))["results"] == []
    with pytest.raises(ValidationError, match="structured-report"):
        Results(report_not_analysed=True, kinds=("secondary-capture",))


def test_an_image_that_failed_is_reported_too(bench: Bench) -> None:
    dataset = chest()
    del dataset.PixelData
    number = done(bench, dataset)
    found = told(bench, number)
    assert found["finding"]["status"] == "failed"
    (delivery,) = found["deliveries"]
    assert (delivery["destination"], delivery["kind"], delivery["state"]) == ("pacs", "structured-report", "pending")
    assert bench.wakes == ["deliver"]
    report = pydicom.dcmread(BytesIO(bench.results()["structured-report"]))
    assert coded(report)["Presence"] == "Indeterminate"
    assert any(found["finding"]["reason"] in item.get("TextValue", "") for item in tree(report))
    (event,) = [json.loads(each["detail"]) for each in found["events"] if each["kind"] == "failed"]
    assert event["results"] == [report.SOPInstanceUID]
    with bench.ledger.reading() as connection:
        assert verification.verify(connection)[1] == []


def test_an_image_that_is_given_up_is_reported_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    number = bench.put(chest())
    monkeypatch.setattr(bench.reader, "read", lambda *_: 1 / 0)
    for attempt in range(1, 4):
        assert told(bench, number)["results"] == []
        make_due(bench)
        bench.process(number)
        assert told(bench, number)["finding"]["attempts"] == attempt
    assert len(told(bench, number)["results"]) == 1
    # Tried once more and answered, it has the model's report besides.
    monkeypatch.undo()
    assert bench.ledger.requeue([number], now()) == 1
    bench.process(number)
    found = told(bench, number)
    assert found["finding"]["status"] == "analysed"
    assert [each["kind"] for each in found["results"]].count("structured-report") == 2


@pytest.mark.parametrize("attributes", [{"Modality": "CT"}, {"ImageType": ["DERIVED", "SECONDARY"]}])
def test_what_failed_and_is_no_radiograph_is_not_reported(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, attributes: dict[str, Any]
) -> None:
    monkeypatch.setattr("worker.engines.pipeline.analyze", failing(UnsupportedPixels("no pixel data")))
    found = told(bench, done(bench, chest(**attributes)))
    assert (found["finding"]["status"], found["results"]) == ("failed", [])


def test_what_failed_and_cannot_be_read_or_referred_to_is_not_reported(bench: Bench) -> None:
    lost = bench.put(chest("lost"))
    bench.blobs.path(str(bench.row(lost)["sha256"])).unlink()
    for _ in range(3):
        make_due(bench)
        bench.process(lost)
    bare = chest("bare")
    del bare.PixelData, bare.SeriesInstanceUID
    for number in (lost, done(bench, bare)):
        found = told(bench, number)
        assert (found["finding"]["status"], found["results"]) == ("failed", [])


def test_an_image_that_failed_is_not_reported_by_default(bench: Bench) -> None:
    bench.pipeline._settings = Settings(destinations=(PACS,))
    dataset = chest()
    del dataset.PixelData
    found = told(bench, done(bench, dataset))
    assert (found["finding"]["status"], found["results"]) == ("failed", [])


def test_a_second_reading_that_fails_is_not_reported(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    number = done(bench, chest())
    before = told(bench, number)["results"]
    with bench.ledger.writing() as connection:  # as though another model had answered first
        connection.exec_driver_sql("UPDATE finding SET model_sha256 = '0'")
    monkeypatch.setattr(bench.reader, "read", failing(UnsupportedPixels("no pixel data")))
    again(bench, bench.reader, number, results=ON, destinations=(PACS,))
    found = told(bench, number)
    assert (found["reanalysis"]["state"], found["results"]) == ("failed", before)


# ---- what ------------------------------------------------------------------------------------------------------------


def report_of(original: Dataset, reason: str = "view LL is not frontal (rules.views)") -> Any:
    made = not_analysed(source_image(original), reason, MODEL, ON, NOW)
    assert made.left_out == {}
    (result,) = made.results
    return result


def test_it_says_that_it_was_not_analysed_and_why() -> None:
    original = source()
    result = report_of(original, "age outside 1–5 years (rules.min_age_years, rules.max_age_years)")
    report = pydicom.dcmread(BytesIO(result.data))
    assert (report.StudyInstanceUID, report.SeriesNumber) == (original.StudyInstanceUID, 9702)
    assert coded(report)["Presence"] == "Indeterminate"
    assert "Probability" not in coded(report)
    (comment,) = [
        item.TextValue for item in tree(report)[1:] if item.ConceptNameCodeSequence[0].CodeMeaning == "Comment"
    ]
    assert comment == "Not analysed: age outside 1-5 years (rules.min_age_years, rules.max_age_years)"
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert [each.ReferencedSOPInstanceUID for each in series.ReferencedSOPSequence] == [original.SOPInstanceUID]


def test_its_uids_are_not_those_of_a_finding() -> None:
    original = source()
    finding = {each.kind: each.dataset for each in answered(original).results}["structured-report"]
    other = report_of(original).dataset
    assert other.SOPInstanceUID != finding.SOPInstanceUID
    assert other.SeriesInstanceUID != finding.SeriesInstanceUID


@pytest.mark.parametrize("attributes", [{}, {"modality": "DX"}, {"AccessionNumber": "", "PatientBirthDate": None}])
def test_other_tools_find_no_error(attributes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "report.dcm"
    path.write_bytes(report_of(source(**attributes)).data)
    verdict = subprocess.run([tool("dciodvfy"), str(path)], check=False, capture_output=True, text=True)
    assert [line for line in verdict.stderr.splitlines() if line.startswith("Error")] == []
    dumped = subprocess.run([tool("dsrdump"), "+Pl", str(path)], check=True, capture_output=True, text=True)
    assert '"Comment")="Not analysed: view LL is not frontal (rules.views)"' in dumped.stdout


# ---- how -------------------------------------------------------------------------------------------------------------


def test_it_is_entered_once_however_often_the_work_is_done(bench: Bench) -> None:
    number = done(bench, chest(ViewPosition="LL"))
    first, before = bench.results(), told(bench, number)
    assert before["finding"]["status"] == "not_analysed"
    assert "LL" in before["finding"]["reason"]
    assert [each["kind"] for each in before["results"]] == ["structured-report"]
    # As after a crash between the entry and whatever follows it, and before it.
    bench.once_more(number)
    bench.process(number)
    after = told(bench, number)
    assert bench.results() == first
    assert [each["sop_instance_uid"] for each in after["results"]] == [
        each["sop_instance_uid"] for each in before["results"]
    ]
    assert len(after["deliveries"]) == 1


def test_a_crash_before_the_entry_leaves_nothing_behind_that_is_sent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = bench.put(chest(ViewPosition="LL"))
    kept: list[str] = []

    def die(*_: Any, results: Any, **__: Any) -> None:
        kept.extend(each.sha256 for each in results)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Receipts, "leave_out", die)
        with pytest.raises(SystemExit):
            bench.process(number)
    assert told(bench, number)["deliveries"] == []
    bench.queue.release(bench.queue.owner, now())
    for task in bench.queue.in_hand():  # the process that had it is dead; what this one has in hand it does not take
        bench.queue.forget(task)
    bench.process(number)
    found = told(bench, number)
    assert [each["sha256"] for each in found["results"]] == kept
    assert len(found["deliveries"]) == 1


def test_what_the_gate_stops_is_reported_too(bench: Bench) -> None:
    bench.pipeline._settings = Settings(results=ON, destinations=(PACS,))
    found = told(bench, done(bench, chest(PatientAge="040Y")))
    assert found["finding"]["status"] == "not_analysed"
    report = pydicom.dcmread(BytesIO(bench.results()["structured-report"]))
    assert any("outside: the patient's age is not one" in item.get("TextValue", "") for item in tree(report))


@pytest.mark.parametrize("results", [ON, Results()])
def test_what_the_gate_saw_is_kept_without_an_answer(bench: Bench, results: Results) -> None:
    bench.pipeline._settings = Settings(results=results)
    found = told(bench, done(bench, chest(PatientAge="040Y")))
    row = found["finding"]
    assert (row["status"], row["answer"]) == ("not_analysed", "outside")
    assert [row[key] for key in ("probability", "model", "outlier", "score")] == [None] * 4
    assert found["answers"] == []
    (saw,) = found["outside"]
    identity = bench.reader.identity
    assert (saw["model"], saw["model_sha256"]) == (f"{identity.name}-{identity.version}", identity.digest)
    assert 0 <= saw["outlier"] < 1  # it is the image's, and the age alone is outside
    assert 0 < saw["input_mean"] < 1
    assert 0 < saw["input_std"] < 1
    (event,) = [json.loads(each["detail"]) for each in found["events"] if each["kind"] == "not_analysed"]
    assert {key: event[key] for key in ("outlier", "input_mean", "input_std")} == {
        key: saw[key] for key in ("outlier", "input_mean", "input_std")
    }
    assert not {"probability", "answer", "score"} & set(event)
    seen = period(bench.ledger, bench.reader.card, None, None)
    assert (seen.n, seen.left_out, len(seen.values["probability"])) == (1, 1, 0)
    # What the rules leave out has not been looked at.
    assert told(bench, done(bench, chest("lateral", ViewPosition="LL")))["outside"] == []


def test_a_second_look_that_is_left_out_is_kept_too(bench: Bench) -> None:
    bench.pipeline._settings = Settings(model=ModelSettings(out_of_distribution="warn"))
    number = done(bench, chest(PatientAge="040Y"))
    assert bench.row(number)["answer"] == "outside"
    with bench.ledger.writing() as connection:  # as though another model had answered first
        connection.exec_driver_sql("UPDATE finding SET model_sha256 = '0'")
    again(bench, bench.reader, number)
    found = told(bench, number)
    assert found["reanalysis"]["state"] == "left_out"
    assert len(found["answers"]) == len(found["outside"]) == 1


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE outside SET outlier = 0.5", "outlier differs from what its event says"),
        ("DELETE FROM outside", "the record of an image outside of model .* was removed"),
        ("UPDATE event SET detail = '{}' WHERE kind = 'not_analysed'", "record of an image outside without an event"),
    ],
)
def test_an_altered_score_shows(bench: Bench, statement: str, said: str) -> None:
    bench.pipeline._settings = Settings()
    done(bench, chest(PatientAge="040Y"))
    with bench.ledger.reading() as connection:
        assert verification.verify(connection)[1] == []
    with bench.ledger.writing() as connection:
        connection.exec_driver_sql(statement)
    with bench.ledger.reading() as connection:
        assert any(re.search(said, problem) for problem in verification.verify(connection)[1])


def test_a_source_that_cannot_be_referred_to_is_said_in_the_audit(bench: Bench) -> None:
    dataset = chest(ViewPosition="LL")
    del dataset.SeriesInstanceUID
    found = told(bench, done(bench, dataset))
    assert (found["finding"]["status"], found["results"]) == ("not_analysed", [])
    (event,) = [each for each in found["events"] if each["kind"] == "not_analysed"]
    assert "SeriesInstanceUID" in json.dumps(event["detail"])


def test_a_destination_without_reports_gets_none(bench: Bench) -> None:
    pictures = PACS.model_copy(update={"kinds": ("secondary-capture",)})
    bench.pipeline._settings = Settings(results=ON, destinations=(pictures,))
    found = told(bench, done(bench, chest(ViewPosition="LL")))
    assert (len(found["results"]), found["deliveries"]) == (1, [])


@pytest.mark.parametrize(("results", "expected"), [(ON, ["lateral.sr.dcm"]), (Results(), [])])
def test_analyze_writes_it_too(tmp_path: Path, reader: Reader, results: Results, expected: list[str]) -> None:
    (tmp_path / "lateral.dcm").write_bytes(encode(chest(ViewPosition="LL")))
    out = tmp_path / "out"
    out.mkdir()
    (answer,) = analyze([tmp_path / "lateral.dcm"], out, reader, Settings(results=results))
    assert (answer.status, [Path(each).name for each in answer.outputs]) == ("not_analysed", expected)
    assert sorted(each.name for each in out.iterdir()) == expected


def test_analyze_tells_why_even_that_could_not_be_made(tmp_path: Path, reader: Reader) -> None:
    bare = chest(ViewPosition="LL")
    del bare.SeriesInstanceUID
    (tmp_path / "bare.dcm").write_bytes(encode(bare))
    (answer,) = analyze([tmp_path / "bare.dcm"], tmp_path, reader, Settings(results=ON))
    assert (answer.status, answer.outputs) == ("not_analysed", ())
    assert answer.left_out == {"structured-report": "the source lacks SeriesInstanceUID"}


def test_the_conformance_statement_says_it(reader: Reader) -> None:
    assert "not analysed get a structured report" in statement(Settings(results=ON), reader.card)
    assert "not analysed get a structured report" not in statement(Settings(), reader.card)
