"""The task: idempotent, and honest about what went wrong."""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from worker.engines.local import LocalEngine

from dicom_io.errors import OutOfResources, UnsupportedPixels
from dicom_io.objects.common import encode
from tests.support.models import tiny
from tests.support.peers import chest, wait_for
from tests.support.tools import tool
from tests.unit.worker.ledger.test_receipts import NEW
from worker.clock import now
from worker.database.connection import connect
from worker.destination_settings import DicomDestination, WebhookDestination
from worker.engines.pipeline import Pipeline
from worker.inference.analyzer import Reader
from worker.ledger import migrations
from worker.ledger.queries import Filter, findings, story
from worker.ledger.reanalyses import Reanalyses
from worker.ledger.receipts import Ledger
from worker.ledger.records import Claim
from worker.logs import unexpected
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
        engine = connect(f"sqlite:///{folder / 'ledger.sqlite'}", busy_timeout=0.1)
        migrations.upgrade(engine)
        self.ledger, self.blobs, self.reader = Ledger(engine), Blobs(folder / "objects"), reader
        self.pipeline = Pipeline(Settings(), self.ledger, self.blobs, lent(reader), lambda: None)

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
    bench.pipeline.process(number)
    first = bench.results()
    assert list(first) == ["secondary-capture", "presentation-state", "structured-report"]
    assert bench.row(number)["status"] == "analysed"
    with bench.ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE receipt SET state = 'received'")
    bench.pipeline.process(number)
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
    bench.pipeline.process(number)
    assert bench.row(number)["status"] == "analysed"
    found = story(bench.ledger, str(number))
    assert found is not None
    assert [each["kind"] for each in found["results"]] == kinds
    assert [each["state"] for each in found["deliveries"]] == ["pending"] * len(kinds)
    (event,) = [str(each["detail"]) for each in found["events"] if each["kind"] == "analysed"]
    assert all((kind in event) == (kind not in kinds) for kind in KINDS)


def test_a_finished_receipt_is_left_alone(bench: Bench) -> None:
    number = bench.put(chest())
    bench.pipeline.process(number)
    before = bench.row(number)
    bench.pipeline.process(number)
    bench.pipeline.process(999)
    assert bench.row(number) == before


@pytest.mark.parametrize("kind", ["secondary-capture", "presentation-state", "structured-report"])
def test_our_own_result_is_never_analysed(bench: Bench, kind: str) -> None:
    bench.pipeline.process(bench.put(chest()))
    ours = pydicom.dcmread(pydicom.filebase.DicomBytesIO(bench.results()[kind]))
    # Even stripped of everything that tells whose it is: the ledger knows its UID.
    ours.Manufacturer, ours.Modality, ours.SOPClassUID = "SOMEBODY", "CR", "1.2.840.10008.5.1.4.1.1.1"
    ours.ImageType = ["ORIGINAL", "PRIMARY"]
    del ours.ContributingEquipmentSequence
    ours.file_meta.MediaStorageSOPClassUID = ours.SOPClassUID
    number = bench.put(ours)
    bench.pipeline.process(number)
    assert (bench.row(number)["status"], bench.row(number)["reason"]) == ("not_analysed", "own output")


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (UnsupportedPixels("no pixel data"), "failed", "no pixel data"),
        (OutOfResources("disk full"), "received", "disk full"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "received", "unexpected OSError"),
        (MemoryError(), "received", "unexpected MemoryError"),
        (ValueError("Doe^Jane"), "received", "unexpected ValueError"),
    ],
)
def test_what_may_pass_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception, status: str, reason: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    number = bench.put(chest())
    with monkeypatch.context() as broken:
        broken.setattr(bench.reader, "read", fail)
        bench.pipeline.process(number)
    row = bench.row(number)
    assert row["status"] == status
    assert str(row["reason"]).startswith(reason)
    assert "Jane" not in str(row["reason"])
    bench.pipeline.process(number)  # not due yet, or finished
    assert bench.row(number)["attempts"] == 1


def test_an_unforeseen_error_is_given_up_after_some_tries(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    number = bench.put(chest())
    monkeypatch.setattr(bench.reader, "read", lambda *_: 1 / 0)
    for _ in range(3):
        with bench.ledger.writing() as connection:
            connection.exec_driver_sql("UPDATE receipt SET next_attempt_at = '2000-01-01 00:00:00.000000'")
        bench.pipeline.process(number)
    row = bench.row(number)
    assert (row["status"], row["attempts"]) == ("failed", 3)
    assert str(row["reason"]).startswith("unexpected ZeroDivisionError at")
    monkeypatch.undo()
    assert bench.ledger.requeue([number], now()) == 1
    bench.pipeline.process(number)
    assert bench.row(number)["status"] == "analysed"


def test_a_missing_blob_is_failed(bench: Bench) -> None:
    number = bench.put(chest())
    bench.blobs.path(str(bench.row(number)["sha256"])).unlink()
    bench.pipeline.process(number)
    assert (bench.row(number)["status"], bench.row(number)["reason"]) == ("failed", "the file is missing")


def test_the_engine_sweeps_up_what_was_never_submitted() -> None:
    done: list[int] = []
    put_back: list[int] = []
    waiting = {3, 1, 2}

    def process(number: int) -> None:
        if number == 2 and 2 not in done:
            done.append(2)
            raise OutOfResources("locked")
        done.append(number)
        waiting.discard(number)

    engine = LocalEngine(process, lambda: sorted(waiting), put_back.append, threads=2, sweep_seconds=0.05)
    engine.start()
    engine.submit(7)
    wait_for(lambda: not waiting and 7 in done)
    engine.stop()
    assert sorted(set(done)) == [1, 2, 3, 7]
    assert put_back == [2]


def test_an_outcome_that_a_locked_ledger_does_not_take_is_entered_later(bench: Bench) -> None:
    number = bench.put(chest())
    engine = LocalEngine(
        bench.pipeline.process,
        lambda: bench.ledger.unfinished(now()),
        lambda receipt_id: bench.ledger.put_back(receipt_id, now()),
        threads=1,
        sweep_seconds=0.3,
    )
    other = sqlite3.connect(bench.folder / "ledger.sqlite", isolation_level=None, check_same_thread=False)
    claim = bench.ledger.claim

    def claim_and_lock(receipt_id: int, moment: dt.datetime) -> Claim | None:
        claimed = claim(receipt_id, moment)
        if claimed is not None and claimed.attempts == 1:
            other.execute("BEGIN IMMEDIATE")
        return claimed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.ledger, "claim", claim_and_lock)
        engine.start()
        wait_for(lambda: engine._to_put_back == {number})
        assert bench.row(number)["status"] == "working"
        other.execute("ROLLBACK")
        wait_for(lambda: bench.row(number)["status"] == "analysed")
    engine.stop()
    other.close()
    assert bench.row(number)["attempts"] == 2


def test_the_engine_runs_several_at_once_and_stops_after_the_work_in_hand() -> None:
    running, most, lock = [0], [0], threading.Lock()

    def process(_: int) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.05)
        with lock:
            running[0] -= 1

    engine = LocalEngine(process, list, lambda _: None, threads=3, sweep_seconds=60)
    engine.start()
    for number in range(9):
        engine.submit(number)
    time.sleep(0.02)
    engine.stop()
    assert most[0] == 3
    assert running[0] == 0


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


def again(bench: Bench, reader: Reader, number: int, **settings: Any) -> Pipeline:
    """Wish that a model reads an image again; return the pipeline that does it."""
    work = Reanalyses(bench.ledger)
    work.request([number], reader.card.label, reader.identity.digest, "jd", now())
    return Pipeline(Settings(**settings), bench.ledger, bench.blobs, lent(reader), lambda: None, tasks=work)


def made_by(bench: Bench, reader: Reader) -> dict[str, Dataset]:
    """Return the objects of a model by their kind, reread from their bytes."""
    found = story(bench.ledger, "1")
    assert found is not None
    (own,) = [each["id"] for each in found["answers"] if each["model_sha256"] == reader.identity.digest]
    entries = [each for each in found["results"] if each["finding_id"] == own]
    return {each["kind"]: pydicom.dcmread(bench.blobs.path(each["sha256"])) for each in entries}


def test_a_newer_model_s_report_names_the_earlier_one(bench: Bench, sterner: Reader, tmp_path: Path) -> None:
    number = bench.put(chest())
    bench.pipeline.process(number)
    second = again(bench, sterner, number)
    Pipeline(
        Settings(), bench.ledger, bench.blobs, lent(bench.reader), lambda: None, tasks=Reanalyses(bench.ledger)
    ).process(number)  # another model serves: it waits
    assert bench.row(number)["reanalysis"] == "waiting"
    second.process(number)
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
    with bench.ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE reanalysis SET state = 'waiting'")
    second.process(number)
    assert bench.results() == first
    assert bench.row(number)["answers"] == 2


def test_a_predecessor_that_was_never_made_is_not_named(bench: Bench, milder: Reader, sterner: Reader) -> None:
    number = bench.put(chest())
    Pipeline(
        Settings(results=Results(kinds=("secondary-capture",))), bench.ledger, bench.blobs, lent(milder), lambda: None
    ).process(number)
    again(bench, sterner, number).process(number)
    assert "PredecessorDocumentsSequence" not in made_by(bench, sterner)["structured-report"]


@pytest.mark.parametrize("lost", [False, True])
def test_the_earlier_finding_stands_where_there_is_no_newer_one(bench: Bench, sterner: Reader, lost: bool) -> None:
    number = bench.put(chest())
    bench.pipeline.process(number)
    before = bench.row(number)
    second = again(bench, sterner, number, rules=RulesSettings(modalities=("DX",) if lost else ("CR",)))
    if lost:
        bench.blobs.path(str(before["sha256"])).unlink()
    second.process(number)
    found = story(bench.ledger, str(number))
    assert found is not None
    expected = ("failed", "the file is missing") if lost else ("left_out", "modality")
    assert found["reanalysis"]["state"] == expected[0]
    assert found["reanalysis"]["reason"].startswith(expected[1])
    assert bench.row(number) == before | {"reanalysis": expected[0]}


def test_a_webhook_hears_only_of_what_has_become_flagged(bench: Bench, milder: Reader, sterner: Reader) -> None:
    hooks: dict[str, Any] = {"destinations": (WebhookDestination(name="hook", webhook="http://127.0.0.1:9/x"),)}
    number = bench.put(chest())
    Pipeline(Settings(**hooks), bench.ledger, bench.blobs, lent(milder), lambda: None).process(number)
    again(bench, sterner, number, **hooks).process(number)
    found = story(bench.ledger, str(number))
    assert found is not None
    (told,) = [each for each in found["results"] if each["kind"] == "notification"]
    said = json.loads(bench.blobs.path(told["sha256"], ".json").read_bytes())
    assert (said["answer"], said["earlier_answer"]) == ("flagged", "not flagged")
    assert [each["destination"] for each in found["deliveries"]] == ["hook"]
    # The other way round, or flagged as before: no news.
    other = bench.put(chest("b"))
    Pipeline(Settings(**hooks), bench.ledger, bench.blobs, lent(sterner), lambda: None).process(other)
    again(bench, milder, other, **hooks).process(other)
    found = story(bench.ledger, str(other))
    assert found is not None
    assert [each["kind"] for each in found["results"]].count("notification") == 1
