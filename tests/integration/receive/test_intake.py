"""Receipt over a real association: bytes as they came, one row, and a status that the sender can rely on."""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless, generate_uid
from pynetdicom import AE
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.presentation import build_context

from dicom_io.network import spool
from dicom_io.network.spool_file import Limits, SpoolFile
from dicom_io.network.storage_scp import ANY_SYNTAX, READABLE_SYNTAXES, StorageNode
from tests.support import databases
from tests.support.peers import Receiver, chest, send, store_bytes, store_request, wait_for
from worker.clock import now
from worker.engines.receiver import node_options
from worker.ledger.queries import Filter, findings, refusals
from worker.ledger.receipts import Ledger
from worker.queue.claim import Queue
from worker.queue.task import Kind, Priority
from worker.receive.intake import Intake
from worker.settings import Scp
from worker.storage.blobs import Blobs
from worker.storage.pseudonym import PatientKey


class Station:
    """A node with its ledger and store, and the ids that it handed on."""

    def __init__(self, folder: Path, url: str = "", busy_timeout: float = 0.1, **options: object) -> None:
        self.folder = folder
        self.submitted: list[int] = []
        engine = databases.opened(url or f"sqlite:///{folder / 'ledger.sqlite'}", busy_timeout=busy_timeout)
        self.ledger = Ledger(engine)
        self.blobs = Blobs(folder / "objects")
        scp = Scp.model_validate({"port": 0} | options)
        key = PatientKey(folder, "hash")
        one = scp.duplicates == "refuse"
        intake = Intake(self.ledger, self.blobs, key, self.submitted.append, urgent=scp.urgent_calling, one_version=one)
        node = node_options(scp)
        self.node = StorageNode(node, self.blobs.incoming, intake.receive)
        self.node.start()

    def rows(self) -> list[dict[str, object]]:
        return findings(self.ledger, Filter())


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    made = Station(tmp_path)
    yield made
    made.node.stop(grace=1)


def body(path: Path) -> bytes:
    """Return the data set's bytes of a file, without the preamble and the meta information."""
    raw = path.read_bytes()
    return raw[144 + struct.unpack("<L", raw[140:144])[0] :]


def test_the_bytes_are_stored_as_they_came(station: Station, tmp_path: Path) -> None:
    dataset = chest(PatientName="Doe^Jane", AccessionNumber="A7")
    dataset.save_as(tmp_path / "sent.dcm", enforce_file_format=True)
    assert send(station.node.port, [dataset]) == [0x0000]
    (row,) = station.rows()
    stored = station.blobs.path(str(row["sha256"]))
    assert body(stored) == body(tmp_path / "sent.dcm")
    meta = pydicom.dcmread(stored).file_meta
    assert meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    assert station.submitted == [row["receipt_id"]]
    assert (row["calling_ae"], row["called_ae"], row["accession_number"]) == ("SENDER", "CXRD", "A7")
    assert row["status"] == "received"
    assert list(station.blobs.incoming.iterdir()) == []


def test_the_urgent_go_before_the_others(tmp_path: Path) -> None:
    """As the sender's request says (PS3.7 E.1), or as the site does of the sender."""
    made = Station(tmp_path, urgent_calling=("EMERGENCY",))
    asked = [("WARD", 2), ("WARD", 0), ("WARD", 1), ("EMERGENCY", 2)]
    for number, (calling, priority) in enumerate(asked):
        dataset = chest(str(number))
        entity = AE(calling)
        entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
        association = entity.associate("127.0.0.1", made.node.port, ae_title="CXRD")
        assert association.send_c_store(dataset, priority=priority).Status == 0x0000
        association.release()
    tasks = Queue(made.ledger).claim([Kind.ANALYSE], now(), limit=9)
    assert [(task.subject, task.priority) for task in tasks] == [
        (4, Priority.STAT), (3, Priority.HIGH), (2, Priority.MEDIUM), (1, Priority.LOW),
    ]  # fmt: skip
    made.node.stop(grace=1)


def test_the_patient_is_a_keyed_hash(station: Station) -> None:
    send(station.node.port, [chest("a", PatientID="P1"), chest("b", PatientID="P1"), chest("c", PatientID="P2")])
    keys = [str(row["patient_key"]) for row in station.rows()]
    assert keys[1] == keys[2] != keys[0]
    assert len(keys[0]) == 64
    assert (station.folder / "secret.key").stat().st_mode & 0o777 == 0o600
    assert PatientKey(station.folder, "plain").of("P1") == "P1"
    assert PatientKey(station.folder, "none").of("P1") == ""


def test_a_second_copy_is_accepted_and_changes_nothing(station: Station) -> None:
    dataset = chest()
    assert send(station.node.port, [dataset, dataset]) == [0x0000, 0x0000]
    assert send(station.node.port, [dataset], calling="OTHER") == [0x0000]
    assert len(station.rows()) == len(station.submitted) == 1


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_the_sender_of_a_cut_object_hears_of_it_and_a_whole_one_is_taken_later(
    station: Station, tmp_path: Path, syntax: UID, place: float
) -> None:
    dataset = chest("cut", rows=128, cols=96)
    if syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(tmp_path / "whole.dcm", enforce_file_format=True)
    whole = body(tmp_path / "whole.dcm")
    cut = whole[: round(place * (len(whole) - 8))]
    entity = AE("SENDER")
    entity.add_requested_context(dataset.SOPClassUID, syntax)
    association = entity.associate("127.0.0.1", station.node.port, ae_title="CXRD")
    context = int(association.accepted_contexts[0].context_id or 0)
    uids = str(dataset.SOPClassUID), str(dataset.SOPInstanceUID)
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(store_request(cut, *uids), context)
    answer: Any = association.dimse.get_msg(block=True)[1]
    association._reactor_checkpoint.set()
    assert answer.Status == 0xC000
    assert "the object is cut short at " in answer.ErrorComment
    assert station.rows() == []
    assert list(station.blobs.incoming.iterdir()) == []
    (refusal,) = refusals(station.ledger, 9)
    assert "cut short at " in str(refusal["reason"])
    assert store_bytes(association, context, whole, *uids) == 0x0000
    association.release()
    assert [row["status"] for row in station.rows()] == ["received"]


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("empty", [True, False])
def test_a_data_set_that_lacks_a_uid_is_refused(station: Station, keyword: str, empty: bool) -> None:
    dataset = chest()
    kept = {name: dataset[name].value for name in ("SOPClassUID", "SOPInstanceUID")}
    if empty:
        setattr(dataset, keyword, "")
    else:
        delattr(dataset, keyword)
    assert raw_store(station.node.port, dataset, kept["SOPClassUID"], kept["SOPInstanceUID"]) == 0xA900
    assert station.rows() == []


def test_a_data_set_that_contradicts_its_context_is_refused(station: Station) -> None:
    dataset = chest()
    assert raw_store(station.node.port, dataset, "1.2.840.10008.5.1.4.1.1.2", dataset.SOPInstanceUID) == 0xA900
    assert raw_store(station.node.port, dataset, dataset.SOPClassUID, "1.2.3.4") == 0xA900
    assert raw_store(station.node.port, dataset, dataset.SOPClassUID, dataset.SOPInstanceUID) == 0x0000


def test_what_cannot_be_parsed_is_refused(station: Station) -> None:
    sop_class = "1.2.840.10008.5.1.4.1.1.1"
    for garbage in (b"\x08\x00\x16\x00UI\xff\xff1.2", b"no DICOM at all, just a text" * 9):
        assert raw_store(station.node.port, garbage, sop_class, "1.2.3") in (0xA900, 0xC000)
    assert station.rows() == []
    assert [each["calling_ae"] for each in refusals(station.ledger, 9)] == ["SENDER", "SENDER"]


def raw_store(port: int, data: pydicom.Dataset | bytes, sop_class: str, sop_instance: str) -> int:
    """C-STORE a data set under a SOP class and instance that need not be its own."""
    if isinstance(data, pydicom.Dataset):
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_dataset(buffer, data)
        data = buffer.getvalue()
    context = build_context(sop_class, ExplicitVRLittleEndian)
    association = AE("SENDER").associate("127.0.0.1", port, contexts=[context], ae_title="CXRD")
    status = store_bytes(association, 1, data, sop_class, sop_instance)
    association.release()
    return status


def test_a_full_disk_is_answered_with_0xa700(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(SpoolFile):
        def __init__(self, folder: Path, limits: Limits) -> None:
            super().__init__(folder, limits)
            self.close()
            self._handle = open("/dev/full", "wb", buffering=4096)  # noqa: PTH123, SIM115

    with monkeypatch.context() as full:
        full.setattr(spool, "SpoolFile", Full)
        assert send(station.node.port, [chest()]) == [0xA700]
    assert station.rows() == []
    assert list(station.blobs.incoming.iterdir()) == []
    assert send(station.node.port, [chest()]) == [0x0000]


def test_too_little_free_space_is_answered_with_0xa700(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(station.blobs, "_min_free", 1 << 62)
    assert send(station.node.port, [chest()]) == [0xA700]


def test_a_failing_rename_is_answered_with_0xa700(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(Blobs, "_place", fail)
        assert send(station.node.port, [chest()]) == [0xA700]
    assert station.rows() == []


def test_a_locked_ledger_is_answered_with_0xa700(station: Station) -> None:
    other = sqlite3.connect(station.folder / "ledger.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert send(station.node.port, [chest()]) == [0xA700]
    other.execute("ROLLBACK")
    other.close()
    assert send(station.node.port, [chest()]) == [0x0000]
    assert len(station.rows()) == 1


def test_an_error_that_nobody_foresaw_leaves_the_sender_its_copy(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Ledger, "receive", lambda *_: 1 / 0)
        assert send(station.node.port, [chest()]) == [0xA700]


def test_every_storage_class_and_syntax_is_taken(station: Station) -> None:
    classes = [
        "1.2.840.10008.5.1.4.1.1.1",  # CR
        "1.2.840.10008.5.1.4.1.1.1.1.1",  # DX for processing
        "1.2.840.10008.5.1.4.1.1.2",  # CT
        "1.2.840.10008.5.1.4.1.1.88.11",  # Basic Text SR
        "1.2.840.10008.5.1.4.1.1.104.1",  # Encapsulated PDF
        "1.2.840.10008.5.1.4.1.1.6",  # retired ultrasound
        "1.3.12.2.1107.5.9.1",  # private: Siemens CSA Non-Image
    ]
    for syntax in READABLE_SYNTAXES:
        entity = AE("SENDER")
        association = entity.associate(
            "127.0.0.1", station.node.port, contexts=[build_context(uid, syntax) for uid in classes]
        )
        assert len(association.accepted_contexts) == len(classes), syntax.name
        association.release()
    assert len(ANY_SYNTAX) > len(READABLE_SYNTAXES)


def test_a_private_class_is_stored(station: Station) -> None:
    dataset = chest()
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID("1.3.12.2.1107.5.9.1")
    assert send(station.node.port, [dataset]) == [0x0000]
    assert station.rows()[0]["sop_class_uid"] == "1.3.12.2.1107.5.9.1"


def test_a_print_class_is_not_taken(station: Station) -> None:
    contexts = [build_context("1.2.840.10008.1.1"), build_context("1.2.840.10008.5.1.1.9")]
    association = AE("SENDER").associate("127.0.0.1", station.node.port, contexts=contexts)
    assert [context.abstract_syntax for context in association.accepted_contexts] == ["1.2.840.10008.1.1"]
    association.release()


def test_a_sender_that_vanishes_leaves_nothing_behind(station: Station) -> None:
    association = AE("SENDER").associate(
        "127.0.0.1", station.node.port, contexts=[build_context("1.2.840.10008.5.1.4.1.1.1", ExplicitVRLittleEndian)]
    )
    request = store_request(b"\x08\x00" * 500_000, "1.2.840.10008.5.1.4.1.1.1", generate_uid())
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    for number, fragment in enumerate(message.encode_msg(1, 16382)):
        if number == 20:
            break
        association.dul.send_pdu(fragment)
    wait_for(lambda: list(station.blobs.incoming.iterdir()))
    association.abort()
    wait_for(lambda: not list(station.blobs.incoming.iterdir()))
    assert send(station.node.port, [chest()]) == [0x0000]


def test_garbage_on_the_port_does_no_harm(station: Station) -> None:
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00\x00\x00\x00\x04abcd", b"\x04\x00\x00\x00\x00\x02zz"):
        with socket.create_connection(("127.0.0.1", station.node.port)) as connection:
            connection.sendall(garbage)
    time.sleep(0.2)
    assert send(station.node.port, [chest()]) == [0x0000]


def test_what_an_earlier_process_left_in_the_spool_is_removed(tmp_path: Path) -> None:
    (tmp_path / "objects" / "incoming").mkdir(parents=True)
    (tmp_path / "objects" / "incoming" / "x.part").write_bytes(b"half")
    made = Station(tmp_path)
    assert list(made.blobs.incoming.iterdir()) == []
    made.node.stop(grace=1)


def test_a_port_is_free_for_another_node_of_the_process_afterwards(tmp_path: Path) -> None:
    """The other one's objects do not go into the spool of the node that was there before."""
    made = Station(tmp_path)
    port = made.node.port
    made.node.stop(grace=1)
    dataset = chest()
    receiver = Receiver([dataset.SOPClassUID], [ExplicitVRLittleEndian])
    receiver.start(port)
    try:
        assert send(port, [dataset]) == [0x0000]
    finally:
        receiver.stop()
    (got,) = receiver.objects
    assert got.SOPInstanceUID == dataset.SOPInstanceUID
    assert list(made.blobs.incoming.iterdir()) == []


def test_only_those_who_may_send(tmp_path: Path) -> None:
    made = Station(tmp_path, allowed_calling=("PACS",), require_called=True)
    for calling, called, taken in [("PACS", "CXRD", True), ("OTHER", "CXRD", False), ("PACS", "WRONG", False)]:
        association = AE(calling).associate(
            "127.0.0.1", made.node.port, contexts=[build_context("1.2.840.10008.1.1")], ae_title=called
        )
        assert association.is_established is taken
        if taken:
            association.release()
    made.node.stop(grace=1)
