"""The task: idempotent, and honest about what went wrong."""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset

from dicom_io.errors import OutOfResources, UnsupportedPixels
from dicom_io.objects.common import encode
from tests.support import databases
from tests.support.ledgers import task_row
from tests.support.models import tiny
from tests.support.peers import chest
from tests.support.tools import tool
from tests.unit.worker.ledger.test_receipts import NEW, kinds
from worker.clock import now
from worker.destination_settings import DicomDestination, WebhookDestination
from worker.engines.desk import Desk
from worker.engines.outcome import Outcomes
from worker.engines.pipeline import Pipeline, SystemicFault
from worker.inference.analyzer import Reader
from worker.inference.engine import EngineFault
from worker.ledger import verification
from worker.ledger.queries import Filter, findings, story
from worker.ledger.reanalyses import Reanalyses
from worker.ledger.receipts import Ledger, Receipts
from worker.logs import unexpected
from worker.queue.claim import LEASE, Queue, put
from worker.queue.task import Kind
from worker.results.kinds import KINDS as EVERY
from worker.settings import Results, RulesSettings, Settings
from worker.storage.blobs import Blobs

KINDS = [kind for kind in EVERY if kind in Results().kinds]  # in the order in which they are made


def lent(reader: Reader) -> Callable[[], AbstractContextManager[Reader]]:
    """Lend one reader, as the daemon lends that of the current model."""
    return lambda: nullcontext(reader)


class Bench:
    """A pipeline with its ledger and store, without a network."""

    def __init__(self, folder: Path, reader: Reader) -> None:
        self.folder = folder
        engine = databases.opened(f"sqlite:///{folder / 'ledger.sqlite'}", busy_timeout=0.1)
        self.ledger, self.blobs, self.reader = Ledger(engine), Blobs(folder / "objects"), reader
        self.queue = Queue(self.ledger)
        self.ending = threading.Event()
        self.wakes: list[str] = []
        self.pipeline = self.pipeline_of(reader)

    def pipeline_of(self, reader: Reader, **settings: Any) -> Pipeline:
        """Make a pipeline with a reader, on the same ledger and store."""
        desks: dict[Kind, Desk] = {
            Kind.ANALYSE: Receipts(self.ledger, self.queue),
            Kind.REANALYSE: Reanalyses(self.ledger, self.queue),
        }
        enter = Outcomes(self.ending).enter
        wake = lambda: self.wakes.append("deliver")  # noqa: E731
        return Pipeline(Settings(**settings), self.ledger, self.blobs, desks, enter, lent(reader), wake)

    def process(self, number: int, pipeline: Pipeline | None = None, kind: Kind = Kind.ANALYSE) -> None:
        """Do the task of an image where there is one and it is due."""
        for task in self.queue.claim([kind], now(), subject=number, among="any"):
            (pipeline or self.pipeline).process(task)

    def once_more(self, number: int, kind: Kind = Kind.ANALYSE, target: str = "") -> None:
        """Make a task of an image again, as though it had not been done."""
        with self.ledger.writing() as connection:
            assert put(connection, kind, number, now(), target=target)

    def put(self, dataset: Dataset) -> int:
        sha256 = self.blobs.put(encode(dataset))
        uid, study = str(dataset.SOPInstanceUID), str(dataset.StudyInstanceUID)
        new = replace(NEW, sop_instance_uid=uid, study_instance_uid=study, sha256=sha256, received_at=now())
        number = self.ledger.receive(new)
        assert number is not None
        return number

    def row(self, number: int) -> dict[str, object]:
        return next(row for row in findings(self.ledger, Filter()) if row["receipt_id"] == number)

    def results(self) -> dict[str, bytes]:
        found = story(self.ledger, "1")
        assert found is not None
        return {entry["kind"]: self.blobs.path(entry["sha256"]).read_bytes() for entry in found["results"]}


@pytest.fixture
def bench(tmp_path: Path, reader: Reader) -> Bench:
    return Bench(tmp_path, reader)


def test_done_twice_it_makes_the_same_object(bench: Bench) -> None:
    number = bench.put(chest())
    bench.process(number)
    first = bench.results()
    assert list(first) == ["secondary-capture", "presentation-state", "structured-report"]
    assert bench.row(number)["status"] == "analysed"
    bench.once_more(number)
    bench.process(number)
    assert bench.results() == first
    assert str(bench.row(number)["result_uids"]).count("2.25.") == 3


@pytest.mark.parametrize(
    ("lacking", "kinds"),
    [
        ("SeriesInstanceUID", ["secondary-capture"]),
        ("AccessionNumber", list(KINDS)),
        ("PatientOrientation", list(KINDS)),
    ],
)
def test_what_could_not_be_made_is_said_in_the_audit_and_the_rest_is_due(
    bench: Bench, lacking: str, kinds: list[str]
) -> None:
    bench.pipeline._settings = Settings(destinations=(DicomDestination(name="pacs", host="x", port=1, ae_title="P"),))
    dataset = chest()
    delattr(dataset, lacking)
    number = bench.put(dataset)
    bench.process(number)
    assert bench.row(number)["status"] == "analysed"
    found = story(bench.ledger, str(number))
    assert found is not None
    assert [each["kind"] for each in found["results"]] == kinds
    assert [each["state"] for each in found["deliveries"]] == ["pending"] * len(kinds)
    (event,) = [str(each["detail"]) for each in found["events"] if each["kind"] == "analysed"]
    assert all((kind in event) == (kind not in kinds) for kind in KINDS)


@pytest.mark.parametrize(
    ("attributes", "remarks"),
    [
        ({}, []),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, ["Rescale Slope 0 is taken as 1"]),
        (
            {"StudyDescription": "Txrax", "SpecificCharacterSet": None},
            ["its texts are not in a character set that it declares; results carry them as they came"],
        ),
    ],
)
def test_what_is_read_otherwise_than_the_header_says_is_remarked(
    bench: Bench, attributes: dict[str, Any], remarks: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = chest()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    number = bench.put(dataset)
    (path,) = (tmp_path / "objects").rglob("*.dcm")
    path.write_bytes(path.read_bytes().replace(b"Txrax", b"T\xf3rax"))
    bench.process(number)
    found = story(bench.ledger, str(number))
    assert found is not None
    (event,) = [each for each in found["events"] if each["kind"] == "analysed"]
    assert json.loads(event["detail"]).get("remarks", []) == remarks
    lines = [line for line in capsys.readouterr().out.splitlines() if "header_remark" in line]
    assert len(lines) == len(remarks)
    assert all(remark in line for remark, line in zip(remarks, lines, strict=True))


def test_a_finished_receipt_is_left_alone(bench: Bench) -> None:
    number = bench.put(chest())
    (task,) = bench.queue.claim([Kind.ANALYSE], now())
    bench.pipeline.process(task)
    before = bench.row(number), kinds(bench.ledger, number)
    bench.process(number)
    bench.process(999)
    bench.pipeline.process(task)  # by somebody who does not know that it is done
    assert (bench.row(number), kinds(bench.ledger, number)) == before


def test_what_somebody_else_has_by_now_is_left_to_them(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.pipeline._settings = Settings(destinations=(DicomDestination(name="pacs", host="x", port=1, ae_title="P"),))
    number = bench.put(chest())
    (late,) = bench.queue.claim([Kind.ANALYSE], now())
    (task,) = Queue(bench.ledger).claim([Kind.ANALYSE], now() + dt.timedelta(seconds=LEASE), among="suspect")
    before = bench.row(number)
    bench.pipeline.process(late)
    assert bench.row(number) == before
    assert bench.wakes == []
    assert "lease_lost" in capsys.readouterr().out
    bench.pipeline.process(task)
    assert bench.row(number)["status"] == "analysed"
    assert bench.wakes == ["deliver"]
    with bench.ledger.reading() as connection:
        assert verification.verify(connection) == (2, [])


@pytest.mark.parametrize("kind", ["secondary-capture", "presentation-state", "structured-report"])
def test_our_own_result_is_never_analysed(bench: Bench, kind: str) -> None:
    bench.process(bench.put(chest()))
    ours = pydicom.dcmread(pydicom.filebase.DicomBytesIO(bench.results()[kind]))
    # Even stripped of everything that tells whose it is: the ledger knows its UID.
    ours.Manufacturer, ours.Modality, ours.SOPClassUID = "SOMEBODY", "CR", "1.2.840.10008.5.1.4.1.1.1"
    ours.ImageType = ["ORIGINAL", "PRIMARY"]
    del ours.ContributingEquipmentSequence
    ours.file_meta.MediaStorageSOPClassUID = ours.SOPClassUID
    number = bench.put(ours)
    bench.process(number)
    assert (bench.row(number)["status"], bench.row(number)["reason"]) == ("not_analysed", "own output")


def failing(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (UnsupportedPixels("no pixel data"), "failed", "no pixel data"),
        (MemoryError(), "received", "unexpected MemoryError"),
        (ValueError("Doe^Jane"), "received", "unexpected ValueError"),
        (EngineFault("the model's engine failed (RuntimeError)"), "received", "the model's engine failed"),
    ],
)
def test_what_may_pass_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception, status: str, reason: str
) -> None:
    number = bench.put(chest())
    with monkeypatch.context() as broken:
        broken.setattr(bench.reader, "read", failing(error))
        bench.process(number)
    row = bench.row(number)
    assert row["status"] == status
    assert str(row["reason"]).startswith(reason)
    assert "Jane" not in str(row["reason"])
    bench.process(number)  # not due yet, or finished
    assert bench.row(number)["attempts"] == 1
    assert kinds(bench.ledger, number) == ["received", "failed" if status == "failed" else "postponed"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OutOfResources("disk full"), "disk full"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "unexpected OSError"),
        (EngineFault("the model's engine failed (RuntimeError)"), "the model's engine failed"),
    ],
)
def test_what_is_not_the_image_s_fault_costs_it_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    number = bench.put(chest())
    before = task_row(bench.ledger, number)
    assert before is not None
    with monkeypatch.context() as broken:
        broken.setattr(bench.reader, "read", failing(error))
        broken.setattr(bench.reader._batcher, "predict", failing(EngineFault("out of order")))
        for _ in range(5):
            with pytest.raises(SystemicFault, match=reason):
                bench.process(number)
    row = bench.row(number)
    assert (row["status"], row["attempts"]) == ("received", 0)
    assert str(row["reason"]).startswith(reason)
    assert task_row(bench.ledger, number) == before | {"reason": row["reason"]}
    assert kinds(bench.ledger, number) == ["received"]
    assert bench.queue.in_hand() == []
    bench.process(number)
    row = bench.row(number)
    assert (row["status"], row["attempts"], row["reason"]) == ("analysed", 1, "")


def make_due(bench: Bench) -> None:
    with bench.ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE task SET due_at = '2000-01-01 00:00:00.000000'")


def test_an_unforeseen_error_is_given_up_after_some_tries(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    number = bench.put(chest())
    monkeypatch.setattr(bench.reader, "read", lambda *_: 1 / 0)
    for attempts in range(1, 4):
        make_due(bench)
        bench.process(number)
        assert bench.row(number)["attempts"] == attempts
    row = bench.row(number)
    assert (row["status"], row["attempts"]) == ("failed", 3)
    assert str(row["reason"]).startswith("unexpected ZeroDivisionError at")
    monkeypatch.undo()
    assert bench.ledger.requeue([number], now()) == 1
    bench.process(number)
    assert bench.row(number)["status"] == "analysed"


def test_an_image_that_takes_its_worker_with_it_is_not_followed_for_ever(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, moment = bench.put(chest()), now()
    for _ in range(Settings().worker.max_crashes):
        assert Queue(bench.ledger).claim([Kind.ANALYSE], moment, among="any")  # and dies
        moment += dt.timedelta(seconds=LEASE)
    (task,) = bench.queue.claim([Kind.ANALYSE], moment, among="suspect")
    monkeypatch.setattr("worker.engines.pipeline.read_stored", lambda *_: pytest.fail("looked at"))
    bench.pipeline.process(task)
    row = bench.row(number)
    assert (row["status"], row["reason"]) == ("failed", "the worker died 3 times while it had this image in hand")


def test_a_missing_blob_is_failed_after_some_tries(bench: Bench) -> None:
    number = bench.put(chest())
    bench.blobs.path(str(bench.row(number)["sha256"])).unlink()
    for attempts in range(1, 4):
        assert bench.row(number)["status"] == "received"
        make_due(bench)
        bench.process(number)
        assert bench.row(number)["attempts"] == attempts
    row = bench.row(number)
    assert (row["status"], row["reason"]) == ("failed", "the file is missing from the storage folder")


def test_a_store_that_is_not_mounted_fails_no_image(bench: Bench) -> None:
    numbers = [bench.put(chest(name)) for name in "ab"]
    away = bench.blobs.folder.rename(bench.folder / "unmounted")
    for number in numbers * 4:
        with pytest.raises(SystemicFault, match="is its volume mounted"):
            bench.process(number)
    assert {(row["status"], row["attempts"]) for row in map(bench.row, numbers)} == {("received", 0)}
    away.rename(bench.blobs.folder)
    for number in numbers:
        bench.process(number)
    assert {row["status"] for row in map(bench.row, numbers)} == {"analysed"}


def test_an_outcome_that_a_locked_ledger_does_not_take_is_entered_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = bench.put(chest())
    (task,) = bench.queue.claim([Kind.ANALYSE], now())
    other = sqlite3.connect(bench.folder / "ledger.sqlite", isolation_level=None, check_same_thread=False)
    refused, read = threading.Event(), bench.reader.read
    readings: list[Dataset] = []
    record_finding = Receipts.record_finding

    def read_and_lock(dataset: Dataset) -> Any:
        readings.append(dataset)
        reading = read(dataset)
        other.execute("BEGIN IMMEDIATE")
        return reading

    def told(*arguments: Any, **options: Any) -> None:
        try:
            record_finding(*arguments, **options)
        except OutOfResources:
            refused.set()
            raise

    monkeypatch.setattr(bench.reader, "read", read_and_lock)
    monkeypatch.setattr(Receipts, "record_finding", told)
    worker = threading.Thread(target=bench.pipeline.process, args=(task,))
    worker.start()
    assert refused.wait(60)
    assert bench.row(number)["status"] == "received"
    assert bench.queue.in_hand() == [task]  # nobody else gets it meanwhile
    other.execute("ROLLBACK")
    worker.join()
    other.close()
    row = bench.row(number)
    assert (row["status"], row["attempts"], len(readings)) == ("analysed", 1, 1)
    assert kinds(bench.ledger, number) == ["received", "analysed"]


def test_an_unforeseen_error_is_described_without_its_message() -> None:
    try:
        dt.date.fromisoformat("Doe^Jane")
    except ValueError as error:
        said = unexpected(error)
    assert said.startswith(f"unexpected ValueError at engines/{Path(__file__).name}:")
    assert "Jane" not in said


# ---- read again by another model -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sterner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A newer model that flags everything."""
    made = Reader(Settings(), tiny(tmp_path_factory.mktemp("models") / "net", bias=60.0))
    yield made
    made.close()


@pytest.fixture(scope="module")
def milder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """An earlier model that flags nothing."""
    made = Reader(Settings(), tiny(tmp_path_factory.mktemp("models") / "net", version="0.9.0", bias=-60.0))
    yield made
    made.close()


def again(bench: Bench, reader: Reader, number: int, **settings: Any) -> None:
    """Have an image read again by a model."""
    Reanalyses(bench.ledger).request([number], reader.card.label, reader.identity.digest, "jd", now())
    bench.process(number, bench.pipeline_of(reader, **settings), Kind.REANALYSE)


def made_by(bench: Bench, reader: Reader) -> dict[str, Dataset]:
    """Return the objects of a model by their kind, reread from their bytes."""
    found = story(bench.ledger, "1")
    assert found is not None
    (own,) = [each["id"] for each in found["answers"] if each["model_sha256"] == reader.identity.digest]
    entries = [each for each in found["results"] if each["finding_id"] == own]
    return {each["kind"]: pydicom.dcmread(bench.blobs.path(each["sha256"])) for each in entries}


def test_a_newer_model_s_report_names_the_earlier_one(bench: Bench, sterner: Reader, tmp_path: Path) -> None:
    number = bench.put(chest())
    bench.process(number)
    Reanalyses(bench.ledger).request([number], sterner.card.label, sterner.identity.digest, "jd", now())
    waits = task_row(bench.ledger, number, Kind.REANALYSE)
    assert waits is not None
    bench.process(number, kind=Kind.REANALYSE)  # another model serves: it waits
    assert bench.row(number)["reanalysis"] == "waiting"
    assert task_row(bench.ledger, number, Kind.REANALYSE) == waits | {"reason": "another model serves"}
    bench.process(number, bench.pipeline_of(sterner), Kind.REANALYSE)
    old, new = made_by(bench, bench.reader), made_by(bench, sterner)
    assert list(old) == list(new) == ["secondary-capture", "presentation-state", "structured-report"]
    for kind, dataset in new.items():
        assert dataset.SOPInstanceUID != old[kind].SOPInstanceUID
        assert dataset.SeriesInstanceUID != old[kind].SeriesInstanceUID
        assert dataset.StudyInstanceUID == old[kind].StudyInstanceUID
        assert dataset.DeviceUID != old[kind].DeviceUID
        path = tmp_path / f"{kind}.dcm"
        dataset.save_as(path)
        verdict = subprocess.run([tool("dciodvfy"), path], check=False, capture_output=True, text=True)
        assert [line for line in verdict.stderr.splitlines() if line.startswith("Error")] == [], kind
    report, before = new["structured-report"], old["structured-report"]
    (study,) = report.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    (instance,) = series.ReferencedSOPSequence
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == (before.StudyInstanceUID, before.SeriesInstanceUID)
    assert (instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID) == (
        before.SOPClassUID,
        before.SOPInstanceUID,
    )
    assert "PredecessorDocumentsSequence" not in before
    # A worker that died before the outcome was entered does it again, to the last byte.
    first = bench.results()
    bench.once_more(number, Kind.REANALYSE, sterner.identity.digest)
    bench.process(number, bench.pipeline_of(sterner), Kind.REANALYSE)
    assert bench.results() == first
    assert bench.row(number)["answers"] == 2


def test_a_predecessor_that_was_never_made_is_not_named(bench: Bench, milder: Reader, sterner: Reader) -> None:
    number = bench.put(chest())
    bench.process(number, bench.pipeline_of(milder, results=Results(kinds=("secondary-capture",))))
    again(bench, sterner, number)
    assert "PredecessorDocumentsSequence" not in made_by(bench, sterner)["structured-report"]


@pytest.mark.parametrize("lost", [False, True])
def test_the_earlier_finding_stands_where_there_is_no_newer_one(bench: Bench, sterner: Reader, lost: bool) -> None:
    number = bench.put(chest())
    bench.process(number)
    before = bench.row(number)
    if lost:
        bench.blobs.path(str(before["sha256"])).write_bytes(b"no DICOM")
    again(bench, sterner, number, rules=RulesSettings(modalities=("DX",) if lost else ("CR",)))
    found = story(bench.ledger, str(number))
    assert found is not None
    expected = ("failed", "not a DICOM file") if lost else ("left_out", "modality")
    assert found["reanalysis"]["state"] == expected[0]
    assert found["reanalysis"]["reason"].startswith(expected[1])
    assert bench.row(number) == before | {"reanalysis": expected[0]}


def test_a_webhook_hears_of_what_has_become_flagged_and_of_what_is_so_no_longer(
    bench: Bench, milder: Reader, sterner: Reader
) -> None:
    hooks: dict[str, Any] = {"destinations": (WebhookDestination(name="hook", webhook="http://127.0.0.1:9/x"),)}

    def told(number: int) -> list[tuple[str, str | None]]:
        found = story(bench.ledger, str(number))
        assert found is not None
        assert {each["destination"] for each in found["deliveries"]} <= {"hook"}
        said = [each["sha256"] for each in found["results"] if each["kind"] == "notification"]
        bodies = [json.loads(bench.blobs.path(sha256, ".json").read_bytes()) for sha256 in said]
        return [(each["answer"], each["earlier_answer"]) for each in bodies]

    number = bench.put(chest())
    bench.process(number, bench.pipeline_of(milder, **hooks))
    assert told(number) == []
    again(bench, sterner, number, **hooks)
    assert told(number) == [("flagged", "not flagged")]
    # Whoever was told that it is flagged hears of it when it is so no longer.
    other = bench.put(chest("b"))
    bench.process(other, bench.pipeline_of(sterner, **hooks))
    assert told(other) == [("flagged", None)]
    again(bench, milder, other, **hooks)
    assert told(other) == [("flagged", None), ("not flagged", "flagged")]


def test_what_stays_flagged_is_no_news(bench: Bench, sterner: Reader, tmp_path: Path) -> None:
    hooks: dict[str, Any] = {"destinations": (WebhookDestination(name="hook", webhook="http://127.0.0.1:9/x"),)}
    number = bench.put(chest())
    bench.process(number, bench.pipeline_of(sterner, **hooks))
    sternest = Reader(Settings(), tiny(tmp_path / "models" / "net", version="9.1.0", bias=80.0))
    again(bench, sternest, number, **hooks)
    sternest.close()
    found = story(bench.ledger, str(number))
    assert found is not None
    assert [each["answer"] for each in found["answers"]] == ["flagged"] * 2
    assert [each["kind"] for each in found["results"]].count("notification") == 1
