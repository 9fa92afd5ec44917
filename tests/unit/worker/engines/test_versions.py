"""A later version of an image: results of its own, which name what they replace; whoever was told hears of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset

from dicom_io.finding import Answer, Finding
from dicom_io.header.source_image import source_image
from dicom_io.header.version import ImageVersion
from dicom_io.objects.validate import check
from tests.support.ledgers import task_row
from tests.support.models import tiny
from tests.support.peers import chest
from tests.unit.worker.engines.test_pipeline import Bench
from tests.unit.worker.ledger.test_receipts import kinds
from tests.unit.worker.results.test_result_set import FINDING, MODEL
from worker.clock import now
from worker.deliver import hl7_message, webhook
from worker.destination_settings import Hl7Destination, WebhookDestination
from worker.engines.pipeline import is_news
from worker.inference.analyzer import Reader
from worker.ledger.queries import story
from worker.ledger.reanalyses import Reanalyses
from worker.ledger.records import PreviousFinding, Replaced
from worker.queue.claim import Queue
from worker.queue.task import Kind
from worker.results.kinds import KINDS
from worker.settings import Results, RulesSettings, Settings


@pytest.fixture
def bench(tmp_path: Path, reader: Reader) -> Bench:
    return Bench(tmp_path, reader)


def story_of(bench: Bench, number: int) -> dict[str, Any]:
    whole = story(bench.ledger, str(number))
    assert whole is not None
    return whole


def results(bench: Bench, number: int) -> dict[str, Dataset]:
    files = {each["kind"]: bench.blobs.path(each["sha256"]) for each in story_of(bench, number)["results"]}
    return {kind: pydicom.dcmread(path) for kind, path in files.items() if kind in KINDS}


def predecessors(report: Dataset) -> list[str]:
    return [
        str(instance.ReferencedSOPInstanceUID)
        for study in report.get("PredecessorDocumentsSequence", [])
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    ]


def comment(report: Dataset) -> str:
    texts = [str(element.value) for element in report.iterall() if element.keyword == "TextValue"]
    return next(each for each in texts if "replaces version" in each)


def tracking(report: Dataset) -> set[str]:
    items = [each for each in report.iterall() if each.keyword == "UID"]
    return {str(each.value) for each in items} - {str(report.get("DeviceUID"))}


EVERY = Settings(results=Results(kinds=tuple(KINDS)))


@pytest.mark.parametrize("settings", [Settings(), EVERY])
def test_results_of_a_later_version_are_others_and_name_what_they_replace(bench: Bench, settings: Settings) -> None:
    bench.pipeline._settings = settings
    datasets = [chest("one"), chest("one", PatientName="Corrected^Name"), chest("one", AccessionNumber="CORR1")]
    numbers = [bench.put(dataset) for dataset in datasets]
    for number in numbers:
        bench.process(number)
        assert bench.row(number)["status"] == "analysed"
    made = [results(bench, number) for number in numbers]
    assert set(made[0]) == set(settings.results.kinds)
    for kind in made[0]:
        for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
            assert len({str(each[kind][keyword].value) for each in made}) == 3, (kind, keyword)
        descriptions = [str(each[kind].SeriesDescription) for each in made]
        assert "replaces" not in descriptions[0]
        assert [each.rsplit(", ", 1)[1] for each in descriptions[1:]] == ["replaces version 1", "replaces version 2"]
    assert str(made[1]["structured-report"].PatientName) == "Corrected^Name"
    for kind in (name for name in made[0] if KINDS[name].names_predecessor):
        first, second, third = (each[kind] for each in made)
        assert predecessors(first) == []
        assert predecessors(second) == [first.SOPInstanceUID]
        assert predecessors(third) == [second.SOPInstanceUID]
    assert "This is version 2 of the image; it replaces version 1." in comment(made[1]["structured-report"])
    assert "version 3 of the image; it replaces version 2" in comment(made[2]["structured-report"])
    assert tracking(made[0]["structured-report"]).isdisjoint(tracking(made[1]["structured-report"]))
    for dataset, number in zip(datasets, numbers, strict=True):
        for each in story_of(bench, number)["results"]:
            check(bench.blobs.path(each["sha256"]).read_bytes(), KINDS[each["kind"]].dicom, source_image(dataset))


def test_done_twice_a_version_makes_the_same_objects_and_the_first_is_as_it_ever_was(
    bench: Bench, tmp_path: Path
) -> None:
    first, second = bench.put(chest("one")), bench.put(chest("one", PatientName="Corrected^Name"))
    for number in (first, second):
        bench.process(number)
    before = story_of(bench, second)["results"]
    bench.once_more(second)
    bench.process(second)
    assert story_of(bench, second)["results"] == before
    # Of the first version the UIDs are those that a ledger without a second one has.
    (tmp_path / "alone").mkdir()
    alone = Bench(tmp_path / "alone", bench.reader)
    number = alone.put(chest("one"))
    alone.process(number)
    ours, theirs = results(bench, first), results(alone, number)
    assert {kind: each.SOPInstanceUID for kind, each in ours.items()} == {
        kind: each.SOPInstanceUID for kind, each in theirs.items()
    }


def test_a_second_reading_of_a_later_version_names_the_first_reading_of_it(bench: Bench, tmp_path: Path) -> None:
    first, second = bench.put(chest("one")), bench.put(chest("one", AccessionNumber="CORR1"))
    for number in (first, second):
        bench.process(number)
    before = results(bench, second)["structured-report"]
    newer = Reader(Settings(), tiny(tmp_path / "net", bias=60.0))
    work = Reanalyses(bench.ledger)
    work.request([second], newer.card.label, newer.identity.digest, "jd", now())
    bench.process(second, bench.pipeline_of(newer), Kind.REANALYSE)
    newer.close()
    assert bench.row(second)["answers"] == 2
    again = results(bench, second)["structured-report"]
    assert predecessors(again) == [before.SOPInstanceUID]
    assert again.SOPInstanceUID != before.SOPInstanceUID
    assert ", replaces version 1, " in again.SeriesDescription


def test_a_version_that_is_not_analysed_replaces_the_report_all_the_same(bench: Bench) -> None:
    bench.pipeline._settings = Settings(
        results=Results(report_not_analysed=True), rules=RulesSettings(absent_view="skip")
    )
    first = bench.put(chest("one"))
    second, third = bench.put(chest("one", ViewPosition="LL")), bench.put(chest("one", PixelData=b"\0\0"))
    for number in (first, second, third):
        bench.process(number)
    statuses = [bench.row(number)["status"] for number in (first, second, third)]
    assert statuses == ["analysed", "not_analysed", "failed"]
    reports = [results(bench, number)["structured-report"] for number in (first, second, third)]
    assert predecessors(reports[1]) == [reports[0].SOPInstanceUID]
    assert len({str(each.SOPInstanceUID) for each in reports}) == 3
    assert predecessors(reports[2]) == [reports[1].SOPInstanceUID]
    assert comment(reports[1]).startswith("Not analysed: view LL is not frontal")
    assert comment(reports[1]).endswith(". This is version 2 of the image; it replaces version 1.")


# ---- in which order ------------------------------------------------------------------------------------------------


def test_a_version_waits_for_the_one_before_that_is_in_hand(bench: Bench) -> None:
    first, second = bench.put(chest("one")), bench.put(chest("one", AccessionNumber="CORR1"))
    (task,) = bench.queue.claim([Kind.ANALYSE], now(), subject=first)
    thread = threading.Thread(target=bench.process, args=(second,))
    thread.start()
    time.sleep(0.5)
    assert bench.row(second)["status"] == "received"
    bench.pipeline.process(task)
    thread.join(60)
    reports = [results(bench, number)["structured-report"] for number in (first, second)]
    assert predecessors(reports[1]) == [reports[0].SOPInstanceUID]


def test_it_does_not_wait_for_ever(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engines.earlier.PATIENCE", 0.2)
    first, second = bench.put(chest("one")), bench.put(chest("one", AccessionNumber="CORR1"))
    assert Queue(bench.ledger).claim([Kind.ANALYSE], now(), subject=first)
    bench.process(second)
    assert bench.row(second)["status"] == "analysed"


def test_an_earlier_version_is_not_answered_after_a_later_one(bench: Bench) -> None:
    first, second = bench.put(chest("one")), bench.put(chest("one", AccessionNumber="CORR1"))
    bench.process(second)
    bench.process(first)
    row = bench.row(first)
    assert (row["status"], row["reason"]) == ("not_analysed", "replaced: version 2 of it was answered before")
    assert kinds(bench.ledger, first) == ["received", "not_analysed"]
    assert results(bench, first) == {}


@pytest.mark.parametrize(
    "changes", [{}, {"ViewPosition": "LL"}, {"PixelData": b"\0\0"}], ids=["answered", "left out", "failed"]
)
def test_an_earlier_version_that_is_in_hand_for_long_leaves_no_results_after_a_later_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """It was looked at before the later one was answered; its outcome is entered after that."""
    monkeypatch.setattr("worker.engines.earlier.PATIENCE", 0.1)
    bench.pipeline._settings = Settings(
        results=Results(report_not_analysed=True), rules=RulesSettings(absent_view="skip")
    )
    first, second = bench.put(chest("one", **changes)), bench.put(chest("one", AccessionNumber="CORR1"))
    enter = bench.pipeline._enter

    def late(write: Callable[[], None]) -> bool:
        bench.pipeline._enter = enter
        bench.process(second)
        return enter(write)

    bench.pipeline._enter = late
    bench.process(first)
    assert bench.row(second)["status"] == "analysed"
    row = bench.row(first)
    assert (row["status"], row["reason"]) == ("not_analysed", "replaced: version 2 of it was answered before")
    assert kinds(bench.ledger, first) == ["received", "not_analysed"]
    assert story_of(bench, first)["results"] == []
    assert task_row(bench.ledger, first) is None


def test_an_earlier_version_is_answered_where_the_later_one_is_damaged(bench: Bench) -> None:
    first, second = bench.put(chest("one")), bench.put(chest("one", PixelData=b"\0\0"))
    bench.process(second)
    bench.process(first)
    assert [bench.row(number)["status"] for number in (first, second)] == ["analysed", "failed"]


# ---- who was told --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "earlier", "news"),
    [
        (Answer.FLAGGED, Answer.FLAGGED, True),  # it may be of another patient
        (Answer.FLAGGED, Answer.NOT_FLAGGED, True),
        (Answer.FLAGGED, None, True),
        (Answer.NOT_FLAGGED, Answer.FLAGGED, True),
        (Answer.NOT_FLAGGED, Answer.NOT_FLAGGED, False),
        (Answer.NOT_FLAGGED, None, False),
    ],
)
def test_which_answers_to_a_later_version_are_news(answer: Answer, earlier: Answer | None, news: bool) -> None:
    finding = Finding(0.9 if answer is Answer.FLAGGED else 0.1, "PNEUMONIA", 0.5)
    assert finding.answer is answer
    assert is_news(finding, PreviousFinding(earlier, None, Replaced(1, "1.2", "A1"))) is news


def test_a_notification_names_what_it_replaces() -> None:
    dataset = chest("one", AccessionNumber="CORR1")
    first, second = source_image(dataset), source_image(dataset, ImageVersion(2, "c"))
    uid, body = webhook.notification(first, FINDING, MODEL, [])
    assert "version" not in json.loads(body)
    replaced = Replaced(1, "1.2.3", "A|1")
    other, body = webhook.notification(second, FINDING, MODEL, [], Answer.FLAGGED, replaced)
    assert other != uid
    contents = json.loads(body)
    assert (contents["version"], contents["earlier_answer"]) == (2, "flagged")
    assert contents["replaces"] == {"version": 1, "study_instance_uid": "1.2.3", "accession_number": "A|1"}
    pytest.importorskip("hl7apy")
    told, _ = hl7_message.message(first, FINDING, MODEL, created=now(), sender="CXRD")
    uid, data = hl7_message.message(
        second, FINDING, MODEL, created=now(), sender="CXRD", earlier_answer=Answer.FLAGGED, replaced=replaced
    )
    assert uid != told
    (notes,) = [line for line in data.decode().split("\r") if line.startswith("NTE")]
    assert "This is version 2 of the image; it replaces version 1." in notes
    assert "That one was of study 1.2.3, accession number A\\F\\1." in notes


def test_those_who_were_told_of_the_first_hear_of_the_second(bench: Bench, tmp_path: Path) -> None:
    flags = Reader(Settings(), tiny(tmp_path / "net", bias=60.0))
    destinations = (
        WebhookDestination(name="hook", webhook="http://127.0.0.1:1/"),
        Hl7Destination(name="ris", hl7="127.0.0.1:1"),
    )
    pipeline = bench.pipeline_of(flags, destinations=destinations)
    first = bench.put(chest("one"))
    second = bench.put(chest("one", StudyInstanceUID="1.2.3.5", PatientID="OTHER", AccessionNumber="B1"))
    for number in (first, second):
        bench.process(number, pipeline)
    flags.close()
    assert [bench.row(number)["answer"] for number in (first, second)] == ["flagged", "flagged"]
    messages = [
        {each["kind"]: each for each in story_of(bench, number)["results"] if each["kind"] in ("notification", "oru")}
        for number in (first, second)
    ]
    assert [sorted(each) for each in messages] == [["notification", "oru"]] * 2
    told = json.loads(bench.blobs.read(messages[1]["notification"]["sha256"], webhook.SUFFIX))
    assert (told["study_instance_uid"], told["accession_number"]) == ("1.2.3.5", "B1")
    assert told["replaces"]["study_instance_uid"] == str(chest("one").StudyInstanceUID)
    assert told["result_sop_instance_uids"] == [
        each["sop_instance_uid"] for each in story_of(bench, second)["results"] if each["kind"] in KINDS
    ]
