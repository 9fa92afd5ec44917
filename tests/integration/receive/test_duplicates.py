"""The same SOP Instance UID received again: 0x0000 says that these very bytes are kept, and nothing is left lying."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pynetdicom.dimse_messages
import pytest
from pydicom import Dataset
from sqlalchemy import text

from dicom_io.network.content import content_sha256
from dicom_io.network.spool_file import SpoolFile
from dicom_io.network.storage_scp import Arrival
from tests.integration.receive.test_intake import Station, body
from tests.support.ledgers import leave_out
from tests.support.peers import chest, send
from tests.unit.worker.queue.test_claim import all_at_once
from worker.clock import now
from worker.engines.receiver import Receiver
from worker.ledger import verification
from worker.ledger.queries import refusals, story
from worker.ledger.receipts import Ledger
from worker.ledger.retention import Retention
from worker.receive.backfill import direct_receipt
from worker.receive.commitments import Keeper
from worker.settings import Settings
from worker.storage.blobs import is_confirmed


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    made = Station(tmp_path)
    yield made
    made.node.stop(grace=1)


@pytest.fixture
def other_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each object that arrives File Meta Information of its own, as another version of pynetdicom would."""
    make, numbers = vars(pynetdicom.dimse_messages)["create_file_meta"], itertools.count()

    def create(**options: Any) -> Any:
        meta = make(**options)
        meta.ImplementationVersionName = f"OTHER_{next(numbers)}"
        return meta

    monkeypatch.setattr(pynetdicom.dimse_messages, "create_file_meta", create)


def files(station: Station) -> list[Path]:
    """Return all files of the store; nothing half made may be among them."""
    every = [each for each in station.blobs.folder.rglob("*") if each.is_file() and each.parent.name != "turns"]
    assert [each for each in every if each.suffix not in (".dcm", "")] == []
    return sorted(each for each in every if each.suffix == ".dcm")


def stored(station: Station) -> list[Path]:
    """Return the files that rows own, the newest first; they are confirmed."""
    paths = [station.blobs.path(str(row["sha256"])) for row in station.rows()]
    assert all(is_confirmed(path.stat().st_mode) for path in paths)
    return paths


def steps(station: Station, number: object) -> list[str]:
    whole = story(station.ledger, str(number))
    assert whole is not None
    with station.ledger.reading() as connection:
        assert verification.verify(connection)[1] == []
    return [each["kind"] for each in whole["events"]]


def delete(station: Station, number: int) -> None:
    """Delete an image's file as retention does with one that is done with."""
    leave_out(station.ledger, number, "view position LL", now())
    retention = Retention(station.ledger, station.blobs.store)
    (deletion,) = retention.mark([number], ["received"], now(), "age")
    for sha256 in deletion.sha256:
        station.blobs.path(sha256).unlink()


VARIANTS: list[Callable[[], Dataset]] = [
    lambda: chest("one", PatientName="Corrected^Name", AccessionNumber="CORR1"),
    lambda: chest("one", SeriesInstanceUID="1.2.3.4"),
    lambda: chest("one", StudyInstanceUID="1.2.3.5", PatientID="OTHER"),
    lambda: chest("one", PixelData=bytes(64 * 48 * 2)),
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_another_content_is_kept_as_a_version(station: Station, variant: Callable[[], Dataset], tmp_path: Path) -> None:
    first, second = chest("one"), variant()
    assert first.SOPInstanceUID == second.SOPInstanceUID
    assert send(station.node.port, [first, second]) == [0x0000, 0x0000]
    new, old = station.rows()
    assert station.submitted == [old["receipt_id"], new["receipt_id"]]
    assert (old["version"], old["replaced_by"], new["version"]) == (1, new["receipt_id"], 2)
    assert sorted(stored(station)) == files(station)
    for dataset, path in ((second, stored(station)[0]), (first, stored(station)[1])):
        dataset.save_as(tmp_path / "sent.dcm", enforce_file_format=True)
        assert body(path) == body(tmp_path / "sent.dcm")
    # Either is known from now on, and nothing more comes of it.
    assert send(station.node.port, [first, second]) == [0x0000, 0x0000]
    assert steps(station, old["receipt_id"]) == steps(station, new["receipt_id"]) == ["received", "received_again"]
    assert len(station.submitted) == 2


@pytest.mark.usefixtures("other_meta")
def test_the_same_data_set_is_the_same_whatever_wrote_its_file_meta(station: Station) -> None:
    assert send(station.node.port, [chest("one"), chest("one")]) == [0x0000, 0x0000]
    (row,) = station.rows()
    assert stored(station) == files(station)
    whole = story(station.ledger, str(row["receipt_id"]))
    assert whole is not None
    assert json.loads(whole["events"][1]["detail"])["same_bytes"] is False
    assert whole["versions"][0]["content_sha256"] == content_sha256(files(station)[0]) != row["sha256"]


@pytest.mark.usefixtures("other_meta")
@pytest.mark.parametrize("variant", [lambda: chest("one"), VARIANTS[0]])
def test_what_an_earlier_version_of_cxrd_received_is_read_to_compare(
    station: Station, variant: Callable[[], Dataset]
) -> None:
    send(station.node.port, [chest("one")])
    with station.ledger.writing() as connection:
        connection.execute(text("UPDATE receipt SET content_sha256 = NULL"))
    assert send(station.node.port, [variant()]) == [0x0000]
    same = variant() == chest("one")
    assert len(station.rows()) == (1 if same else 2)
    assert sorted(stored(station)) == files(station)
    whole = story(station.ledger, "1")
    assert whole is not None
    assert whole["versions"][0]["content_sha256"] == content_sha256(station.blobs.path(whole["finding"]["sha256"]))


def test_another_content_is_refused_where_the_site_wants_that(tmp_path: Path) -> None:
    made = Station(tmp_path, duplicates="refuse")
    for variant in VARIANTS:
        assert send(made.node.port, [chest("one"), variant()]) == [0x0000, 0x0111]
    assert len(made.rows()) == 1
    assert stored(made) == files(made)
    assert [each["status"] for each in refusals(made.ledger, 9)] == ["0x0111"] * len(VARIANTS)
    assert "scp.duplicates" in refusals(made.ledger, 1)[0]["reason"]
    made.node.stop(grace=1)


@pytest.mark.parametrize(("duplicates", "status"), [("version", 0x0000), ("refuse", 0x0111)])
def test_receiver_and_pull_do_as_the_settings_say(tmp_path: Path, duplicates: str, status: int) -> None:
    settings = Settings.model_validate(
        {"scp": {"port": 0, "duplicates": duplicates}, "storage": {"folder": tmp_path, "min_free_mb": 0}}
    )
    receiver = Receiver(settings)
    receiver.start()
    assert send(receiver.port, [chest("one"), VARIANTS[0]()]) == [0x0000, status]
    receiver.stop()
    other, data = VARIANTS[1](), BytesIO()
    other.save_as(data, enforce_file_format=True)
    with direct_receipt(settings, receiver.ledger) as receipt:
        file = SpoolFile(receipt.folder)
        file.write(data.getvalue())
        uids = str(other.SOPClassUID), str(other.SOPInstanceUID), str(other.file_meta.TransferSyntaxUID)
        assert receipt.receive(Arrival(file, *uids, "PACS", "CXRD", "127.0.0.1", now())) == status
        file.discard()
    receiver.ledger.engine.dispose()


# ---- what is not there any more ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("other_meta")
@pytest.mark.parametrize("why", ["deleted", "lost", "damaged"])
@pytest.mark.parametrize("duplicates", ["version", "refuse"])
def test_a_file_that_is_gone_is_stored_anew(tmp_path: Path, why: str, duplicates: str) -> None:
    made = Station(tmp_path, duplicates=duplicates)
    dataset = chest("one")
    uid, sop_class = str(dataset.SOPInstanceUID), str(dataset.SOPClassUID)
    send(made.node.port, [dataset])
    (path,) = files(made)
    if why == "deleted":
        delete(made, 1)
    elif why == "lost":
        path.unlink()
    else:
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-100])
    keeper = Keeper(made.ledger, made.blobs)
    assert keeper.held([uid]) == {}
    assert send(made.node.port, [dataset]) == [0x0000]
    assert keeper.held([uid]) == {uid: sop_class}
    (row,) = made.rows()
    (again,) = stored(made)
    assert again.exists()
    assert [each for each in files(made) if each != path] == [again]
    assert steps(made, 1)[-1] == "restored"
    assert send(made.node.port, [dataset]) == [0x0000]
    assert steps(made, 1)[-1] == "received_again"
    assert row["version"] == 1
    made.node.stop(grace=1)


@pytest.mark.parametrize("looked", [True, False], ids=["in this store", "through another store"])
def test_a_file_that_is_deleted_while_a_copy_arrives_is_stored_anew(
    station: Station, monkeypatch: pytest.MonkeyPatch, looked: bool
) -> None:
    """Retention marks and removes it after the copy was looked up and before it is entered."""
    receive, versions_of = Ledger.receive, Ledger.versions_of
    send(station.node.port, [chest("one")])

    def late(self: Ledger, *arguments: Any, **options: Any) -> int | None:
        monkeypatch.setattr(Ledger, "receive", receive)
        if looked:
            delete(station, 1)
        return receive(self, *arguments, **options)

    if not looked:
        delete(station, 1)
        monkeypatch.setattr(Ledger, "versions_of", lambda self, uid: versions_of(self, uid) and [])
    monkeypatch.setattr(Ledger, "receive", late)
    assert send(station.node.port, [chest("one")]) == [0x0000]
    assert steps(station, 1) == ["received", "not_analysed", "deleted", "restored"]
    assert stored(station) == files(station) != []
    with station.ledger.reading() as connection:
        assert connection.scalar(text("SELECT count(*) FROM receipt WHERE deleted_at IS NOT NULL")) == 0


def test_of_an_earlier_row_without_a_digest_the_file_s_own_counts(station: Station) -> None:
    """Its file is gone, and cannot be read to compare."""
    send(station.node.port, [chest("one")])
    delete(station, 1)
    with station.ledger.writing() as connection:
        connection.execute(text("UPDATE receipt SET content_sha256 = NULL"))
    assert send(station.node.port, [chest("one"), VARIANTS[0]()]) == [0x0000, 0x0000]
    assert [row["version"] for row in station.rows()] == [2, 1]
    assert sorted(stored(station)) == files(station)
    assert steps(station, 1)[-1] == "restored"


def test_a_volume_that_is_gone_is_not_taken_for_a_lost_file(station: Station) -> None:
    send(station.node.port, [chest("one")])
    station.blobs.folder.rename(station.folder / "elsewhere")
    assert send(station.node.port, [chest("one")]) == [0xA700]
    assert steps(station, 1) == ["received"]
    (station.folder / "elsewhere").rename(station.blobs.folder)
    assert send(station.node.port, [chest("one")]) == [0x0000]


def test_we_commit_to_an_image_only_if_no_version_of_it_is_lost(station: Station) -> None:
    dataset = chest("one")
    uid, sop_class = str(dataset.SOPInstanceUID), str(dataset.SOPClassUID)
    send(station.node.port, [dataset, VARIANTS[0]()])
    keeper, (new, old) = Keeper(station.ledger, station.blobs), stored(station)
    assert keeper.held([uid]) == {uid: sop_class}
    for path in (new, old):
        path.rename(path.with_suffix(".away"))
        assert keeper.held([uid]) == {}
        path.with_suffix(".away").rename(path)
    delete(station, 1)
    assert keeper.held([uid]) == {uid: sop_class}  # the one that is still kept


# ---- at once -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgres"])
def busy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Station]:
    made = Station(tmp_path, request.getfixturevalue(f"{request.param}_ledger_url"), busy_timeout=60)
    yield made
    made.node.stop(grace=1)
    made.ledger.engine.dispose()


def senders(station: Station, datasets: list[Dataset]) -> list[Callable[[], int]]:
    def sender(dataset: Dataset) -> Callable[[], int]:
        return lambda: send(station.node.port, [dataset])[0]

    return [sender(each) for each in datasets]


@pytest.mark.usefixtures("other_meta")
def test_of_many_copies_at_once_one_is_kept(busy: Station) -> None:
    assert all_at_once(senders(busy, [chest("one") for _ in range(12)])) == [0x0000] * 12
    (row,) = busy.rows()
    assert stored(busy) == files(busy)
    assert steps(busy, row["receipt_id"]) == ["received"] + ["received_again"] * 11
    assert busy.submitted == [row["receipt_id"]]


def test_of_many_contents_at_once_each_is_kept(busy: Station) -> None:
    datasets = [chest("one", AccessionNumber=f"A{number % 6}") for number in range(12)]
    assert all_at_once(senders(busy, datasets)) == [0x0000] * 12
    rows = busy.rows()
    assert [row["version"] for row in rows] == [6, 5, 4, 3, 2, 1]
    assert {row["accession_number"] for row in rows} == {f"A{number}" for number in range(6)}
    assert sorted(stored(busy)) == files(busy)


def test_what_another_machine_entered_meanwhile_leaves_no_file_here(
    busy: Station, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stores of one ledger: both have looked before either enters."""
    (tmp_path / "other").mkdir()
    other = Station(tmp_path / "other", str(busy.ledger.engine.url.render_as_string(hide_password=False)), 60)
    both = threading.Barrier(2)
    receive = Ledger.receive

    def late(self: Ledger, *arguments: Any, **options: Any) -> int | None:
        both.wait(30)
        return receive(self, *arguments, **options)

    with monkeypatch.context() as slow:
        slow.setattr(Ledger, "receive", late)
        answers = all_at_once([*senders(busy, [chest("one")]), *senders(other, [chest("one")])])
    assert answers == [0x0000, 0x0000]
    assert len(busy.rows()) == 1
    assert len(files(busy)) + len(files(other)) == 1
    assert len(busy.submitted + other.submitted) == 1
    other.node.stop(grace=1)
    other.ledger.engine.dispose()
