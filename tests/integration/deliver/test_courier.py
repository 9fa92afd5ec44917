"""The outbox against real peers: delivered once, tried again while it may pass, failed when it will not."""

from __future__ import annotations

import socket
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless
from pynetdicom import evt
from sqlalchemy import text

from dicom_io.errors import PeerUnavailable
from dicom_io.network.storage_scu import Peer, StorageAssociation, echo, storage_association
from dicom_io.objects.common import encode
from tests.support import databases
from tests.support.dcmtk import storescp
from tests.support.ledgers import record_finding
from tests.support.peers import Receiver, chest, receiving, wait_for
from tests.unit.worker.ledger.test_receipts import FINDING, NEW
from worker.clock import now
from worker.deliver.courier import Courier, Office
from worker.deliver.dicom import DicomSender, node_of
from worker.deliver.routing import destinations_for
from worker.destination_settings import DicomDestination
from worker.engines.couriers import Couriers
from worker.engines.outcome import Outcomes
from worker.ledger.deliveries import Deliveries
from worker.ledger.queries import story
from worker.ledger.receipts import Ledger
from worker.ledger.records import NewResult
from worker.queue.breaker import Breakers
from worker.queue.claim import Queue
from worker.settings import OutboxSettings, Settings
from worker.storage.blobs import Blobs

DX = "1.2.840.10008.5.1.4.1.1.1.1"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


class Outbox:
    """A ledger with results that are due at the destination `pacs`."""

    def __init__(self, folder: Path) -> None:
        engine = databases.opened(f"sqlite:///{folder / 'ledger.sqlite'}", busy_timeout=0.1)
        self.ledger, self.blobs = Ledger(engine), Blobs(folder / "objects")
        self.couriers: list[Courier] = []
        self.receipt = self.ledger.receive(replace(NEW, received_at=now())) or 0
        self.results: list[NewResult] = []

    def add(self, count: int = 1) -> None:
        for _ in range(count):
            dataset = chest(f"result-{len(self.results)}")
            data = encode(dataset)
            kind = str(len(self.results))
            sha256 = self.blobs.put(data)
            self.results.append(
                NewResult(kind, DX, dataset.SOPInstanceUID, dataset.SeriesInstanceUID, sha256, len(data), ("pacs",))
            )
        record_finding(self.ledger, self.receipt, FINDING, self.results, now())

    def nudged(self, state: str) -> bool:
        """Wake the couriers, so that no test waits for the next look; tell whether all deliveries are in a state."""
        for courier in self.couriers:
            courier.wake()
        return self.states() == {state}

    def events(self) -> list[str]:
        """Return the kinds of the events that belong to no receipt."""
        with self.ledger.reading() as connection:
            return list(connection.scalars(text("SELECT kind FROM event WHERE receipt_id IS NULL ORDER BY id")))

    def courier(self, port: int, **settings: float) -> Courier:
        place = DicomDestination(
            name="pacs", host="127.0.0.1", port=port, ae_title="RECEIVER", timeout=5, compression="none"
        )
        options = OutboxSettings(**{"retry_first": 0.05, "retry_max": 0.2} | settings)
        office = Office(
            Deliveries(self.ledger, Queue(self.ledger)),
            self.blobs,
            Breakers(self.ledger, first=options.retry_first, most=options.retry_max),
            options,
            now,
            Outcomes(threading.Event()).enter,
        )
        made = Courier("pacs", DicomSender(place, Settings()), office, timeout=place.timeout)
        self.couriers.append(made)
        made.start()
        return made

    def deliveries(self) -> list[dict[str, object]]:
        found = story(self.ledger, str(self.receipt))
        assert found is not None
        return list(found["deliveries"])

    def states(self) -> set[object]:
        return {each["state"] for each in self.deliveries()}


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outbox]:
    monkeypatch.setattr("worker.deliver.courier.POLL", 0.05)
    made = Outbox(tmp_path)
    yield made
    for courier in made.couriers:
        courier.stop()
        courier.join()


def test_several_results_go_on_one_association(office: Outbox) -> None:
    office.add(5)
    with receiving([DX]) as receiver:
        office.courier(receiver.port)
        wait_for(lambda: office.states() == {"sent"})
        assert receiver.associations == 1
        assert [each.SOPInstanceUID for each in receiver.objects] == [each.sop_instance_uid for each in office.results]
        assert {each["status"] for each in office.deliveries()} == {"0x0000"}


def test_a_long_queue_is_split_over_associations(office: Outbox) -> None:
    office.add(5)
    with receiving([DX]) as receiver:
        office.courier(receiver.port, per_association=2)
        wait_for(lambda: office.states() == {"sent"})
        assert receiver.associations == 3


def test_a_busy_peer_is_tried_again(office: Outbox) -> None:
    office.add()
    with receiving([DX]) as receiver:
        receiver.answers = [0xA700, 0x0110, 0xB000]
        office.courier(receiver.port)
        wait_for(lambda: office.states() == {"sent"})
    (delivery,) = office.deliveries()
    assert (delivery["attempts"], delivery["status"]) == (3, "0xB000")


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0x0122])
def test_a_refusal_is_final_and_the_others_go_on(office: Outbox, status: int) -> None:
    office.add(2)
    with receiving([DX]) as receiver:
        receiver.answers = [status]
        office.courier(receiver.port)
        wait_for(lambda: "pending" not in office.states())
    first, second = office.deliveries()
    assert (first["state"], first["attempts"], first["status"]) == ("failed", 1, f"0x{status:04X}")
    assert second["state"] == "sent"


@pytest.mark.parametrize("others", [[], ["1.2.840.10008.5.1.4.1.1.2"]])
def test_a_peer_that_takes_no_session_for_such_a_class_is_waited_for(office: Outbox, others: list[str]) -> None:
    """It may only be starting up: nothing fails for it, and a person sees why it waits."""
    office.add(2)
    with receiving(others) as receiver:
        office.courier(receiver.port)
        wait_for(lambda: any(each["error"] for each in office.deliveries()))
        port = receiver.port
    error = str(office.deliveries()[0]["error"])
    assert error.startswith("the peer does not accept ")
    assert "Digital X-Ray Image Storage" in error
    assert [(each["state"], each["attempts"]) for each in office.deliveries()] == [("pending", 0)] * 2
    ready = Receiver([DX])
    ready.start(port)
    wait_for(lambda: office.nudged("sent"))
    ready.stop()


@pytest.mark.parametrize("title", ["RECEIVER", "OTHER"])
def test_a_rejected_association_fails_nothing(office: Outbox, title: str) -> None:
    """Whatever the reason for an A-ASSOCIATE-RJ is, somebody will put it right, or `give_up_after_hours` is over."""
    office.add(3)
    with receiving([DX]) as receiver:
        receiver._entity.require_calling_aet = ["FRIEND"] if title == "RECEIVER" else []
        receiver._entity.require_called_aet = True
        receiver._entity.ae_title = title
        receiver._server.ae_title = title
        office.courier(receiver.port)
        wait_for(lambda: "rejects the association" in str(office.deliveries()[0]["error"]))
        assert [(each["state"], each["attempts"]) for each in office.deliveries()] == [("pending", 0)] * 3
        receiver._entity.require_calling_aet, receiver._entity.require_called_aet = [], False
        wait_for(lambda: office.nudged("sent"))
    assert office.events() == ["destination_down", "destination_up"]


def test_a_class_that_is_refused_while_others_are_not_is_refused_for_good(office: Outbox) -> None:
    """Also where it is all that waits: the association offers all that goes there."""
    office.add(2)
    with receiving([CAPTURE]) as receiver:
        office.courier(receiver.port)
        wait_for(lambda: office.states() == {"failed"})
    assert {str(each["error"]) for each in office.deliveries()} == {
        "the peer does not accept Digital X-Ray Image Storage - For Presentation"
    }
    assert office.events() == []


def test_dcmtk_that_refuses_associations_is_waited_for(office: Outbox, tmp_path: Path) -> None:
    office.add(3)
    with storescp(tmp_path / "refusing", "RECEIVER", "--refuse") as port:
        office.courier(port)
        wait_for(lambda: "rejects the association" in str(office.deliveries()[0]["error"]))
        assert [(each["state"], each["attempts"]) for each in office.deliveries()] == [("pending", 0)] * 3
    with storescp(tmp_path / "ready", "RECEIVER", port=port):
        wait_for(lambda: office.nudged("sent"))
    assert len(list((tmp_path / "ready").iterdir())) == 3


@pytest.mark.parametrize("option", ["--abort-after", "--abort-during"])
def test_dcmtk_that_aborts_costs_no_result(office: Outbox, tmp_path: Path, option: str) -> None:
    office.add(6)
    with storescp(tmp_path / "aborting", "RECEIVER", option) as port:
        office.courier(port)
        wait_for(lambda: "destination_down" in office.events())
        assert office.states() == {"pending"}
        assert [each["attempts"] for each in office.deliveries()][3:] == [0] * 3
    with storescp(tmp_path / "ready", "RECEIVER", port=port):
        wait_for(lambda: office.nudged("sent"))
    assert len(list((tmp_path / "ready").iterdir())) == 6


def test_a_peer_that_aborts_at_one_class_gets_the_others_at_once(office: Outbox) -> None:
    office.add(10)
    with receiving([DX]) as receiver:
        bad = {each.sop_instance_uid for each in office.results[::2]}
        stored = receiver._store

        def abort(event: Any) -> int:
            if event.request.AffectedSOPInstanceUID in bad:
                event.assoc.abort()
                return 0xC000
            return stored(event)

        receiver._server.bind(evt.EVT_C_STORE, abort)
        office.courier(receiver.port, retry_first=600.0, retry_max=600.0)
        wait_for(lambda: len(receiver.objects) == 5)
        wait_for(lambda: [each["attempts"] for each in office.deliveries()] == [2, 1] * 5)
        assert [each["state"] for each in office.deliveries()] == ["pending", "sent"] * 5
        assert office.events() == []


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007])
def test_a_warning_counts_as_stored(office: Outbox, status: int) -> None:
    office.add()
    with receiving([DX]) as receiver:
        receiver.answers = [status]
        office.courier(receiver.port)
        wait_for(lambda: office.states() == {"sent"})
    assert office.deliveries()[0]["status"] == f"0x{status:04X}"


def test_a_peer_that_comes_back_gets_everything(office: Outbox) -> None:
    office.add(2)
    receiver = Receiver([DX])
    receiver.start()
    port = receiver.port
    receiver.stop()
    office.courier(port)
    wait_for(lambda: "cannot be reached" in str(office.deliveries()[0]["error"]))
    assert [(each["state"], each["attempts"]) for each in office.deliveries()] == [("pending", 0)] * 2
    receiver = Receiver([DX])
    receiver.start(port)
    wait_for(lambda: office.nudged("sent"))
    assert len(receiver.objects) == 2
    assert {each["attempts"] for each in office.deliveries()} == {1}
    receiver.stop()
    assert office.events() == ["destination_down", "destination_up"]


def test_patience_ends(office: Outbox) -> None:
    office.add()
    with receiving([DX]) as receiver:
        receiver.answers = [0xA700] * 1000
        office.courier(receiver.port, give_up_after_hours=0.0001)
        wait_for(lambda: office.nudged("failed"))
        assert "given up after" in str(office.deliveries()[0]["error"])
        receiver.answers = []
        assert Deliveries(office.ledger).redeliver(now()) == 1
        wait_for(lambda: office.nudged("sent"))


def test_a_destination_that_never_answers_delays_no_other(tmp_path: Path) -> None:
    """All results are with the one while the first call to the other, which takes connections, is still open."""
    with socket.create_server(("127.0.0.1", 0)) as hole, receiving([DX]) as receiver:
        hole.settimeout(60)
        place = {"host": "127.0.0.1", "ae_title": "RECEIVER", "timeout": 120, "compression": "none"}
        ports = {"dead": int(hole.getsockname()[1]), "pacs": receiver.port}
        places = [place | {"name": name, "port": port} for name, port in ports.items()]
        storage = {"folder": tmp_path, "min_free_mb": 0}
        couriers = Couriers(Settings.model_validate({"storage": storage, "destinations": places}))
        office, images = couriers._office, []

        def add(number: int) -> None:
            dataset = chest(f"result-{number}")
            data = encode(dataset)
            uids = str(dataset.SOPInstanceUID), str(dataset.SeriesInstanceUID)
            new = NewResult("a", DX, *uids, office.blobs.put(data), len(data), tuple(ports), office.blobs.store)
            receipt = couriers.ledger.receive(replace(NEW, sop_instance_uid=f"1.2.{number}", received_at=now()))
            assert receipt is not None
            record_finding(couriers.ledger, receipt, FINDING, [new], now())
            images.append(receipt)

        couriers.start()
        add(0)
        call, _ = hole.accept()
        for number in range(1, 10):
            add(number)
            couriers._wake()
            wait_for(lambda: len(receiver.objects) == len(images))
        wait_for(lambda: len(couriers.queue.in_hand()) <= 1)
        deliveries = [each for number in images for each in (story(couriers.ledger, str(number)) or {})["deliveries"]]
        assert [each["state"] for each in deliveries if each["destination"] == "pacs"] == ["sent"] * 10
        assert {(each["state"], each["error"]) for each in deliveries if each["destination"] == "dead"} == {
            ("pending", "")
        }
        assert couriers._office.breakers.of("dead") is None  # it has not even been found out
        call.close()
        couriers.stop()


def test_echo_says_why_not() -> None:
    with receiving() as receiver:
        echo(Peer("127.0.0.1", receiver.port, "RECEIVER", calling_ae="CXRD", timeout=30))
        receiver._entity.require_called_aet = True
        with pytest.raises(PeerUnavailable, match="does not answer to the AE title OTHER"):
            echo(Peer("127.0.0.1", receiver.port, "OTHER", calling_ae="CXRD", timeout=30))
        receiver._entity.require_calling_aet = ["FRIEND"]
        with pytest.raises(PeerUnavailable, match="does not know our calling AE title CXRD"):
            echo(Peer("127.0.0.1", receiver.port, "RECEIVER", calling_ae="CXRD", timeout=30))
        port = receiver.port
    with pytest.raises(PeerUnavailable, match=f"127.0.0.1:{port} cannot be reached"):
        echo(Peer("127.0.0.1", port, "RECEIVER", timeout=2, calling_ae="CXRD"))


def test_a_peer_that_never_answers_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(PeerUnavailable, match="cannot be reached"):
        echo(Peer("127.0.0.1", silent.getsockname()[1], "SILENT", timeout=0.5, calling_ae="CXRD"))


def test_destinations_may_depend_on_the_sender() -> None:
    both = DicomDestination(name="both", host="h", port=1, ae_title="A")
    some = DicomDestination(name="some", host="h", port=1, ae_title="A", for_calling=("CT1",), calling_ae="ME")
    assert destinations_for("CT1", (both, some)) == ["both", "some"]
    assert destinations_for("CR2", (both, some)) == ["both"]
    assert [node_of(each, Settings()).calling_ae for each in (some, both)] == ["ME", "CXRD"]


@pytest.mark.parametrize("trouble", ["gone", "damaged"])
def test_a_result_that_cannot_be_read_does_not_hold_up_the_others(office: Outbox, trouble: str) -> None:
    office.add(3)
    path = office.blobs.path(office.results[0].sha256)
    if trouble == "gone":
        path.unlink()
    else:
        path.write_bytes(b"no DICOM")
    with receiving([DX]) as receiver:
        office.courier(receiver.port)
        left = "pending" if trouble == "gone" else "failed"  # a file that is gone may be put back
        wait_for(lambda: sorted(str(each["state"]) for each in office.deliveries()) == sorted([left, "sent", "sent"]))
        assert len(receiver.objects) == 2
    assert office.deliveries()[0]["error"]
    assert office.deliveries()[0]["attempts"]


def test_a_store_that_is_not_there_costs_no_attempt(office: Outbox) -> None:
    office.add(2)
    folder, away = office.blobs.folder, office.blobs.folder.with_name("unmounted")
    folder.rename(away)
    with receiving([DX]) as receiver:
        office.courier(receiver.port)
        assert not threading.Event().wait(0.3)
        assert receiver.associations == 0
        assert [(each["state"], each["attempts"]) for each in office.deliveries()] == [("pending", 0)] * 2
        away.rename(folder)
        wait_for(lambda: office.nudged("sent"))
    assert office.events() == []


def test_a_result_that_nobody_foresaw_waits_its_turn(office: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    office.add(2)
    bad = office.blobs.path(office.results[0].sha256)
    store = StorageAssociation.store

    def surprising(self: StorageAssociation, path: Path) -> int:
        if path == bad:
            raise MemoryError
        return store(self, path)

    monkeypatch.setattr(StorageAssociation, "store", surprising)
    with receiving([DX]) as receiver:
        office.courier(receiver.port)
        wait_for(lambda: sorted(str(each["state"]) for each in office.deliveries()) == ["pending", "sent"])
        assert "unexpected MemoryError" in str(office.deliveries())


def test_a_result_is_sent_once_however_long_the_ledger_is_locked(office: Outbox, tmp_path: Path) -> None:
    office.add()
    other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None, check_same_thread=False)
    with receiving([DX]) as receiver:
        stored = receiver._store

        def lock(event: Any) -> int:
            other.execute("BEGIN IMMEDIATE")
            return stored(event)

        receiver._server.bind(evt.EVT_C_STORE, lock)
        courier = office.courier(receiver.port)
        wait_for(lambda: receiver.objects)
        for _ in range(20):
            courier.wake()
            assert not threading.Event().wait(0.05)
        assert office.states() == {"pending"}
        other.execute("ROLLBACK")
        wait_for(lambda: office.states() == {"sent"})
        assert len(receiver.objects) == 1
    other.close()


@pytest.mark.parametrize("trouble", ["encoder", "refusal"])
def test_a_picture_that_does_not_go_compressed_goes_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    dataset = chest("plain", SOPClassUID=CAPTURE)
    dataset.file_meta.MediaStorageSOPClassUID = UID(CAPTURE)
    path = tmp_path / "a.dcm"
    path.write_bytes(encode(dataset))

    def failing(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("no encoder")

    if trouble == "encoder":
        monkeypatch.setattr(Dataset, "compress", failing)
    with receiving([CAPTURE], [RLELossless]) as receiver:
        receiver.answers = [0xC000] if trouble == "refusal" else []
        peer = Peer("127.0.0.1", receiver.port, "RECEIVER", timeout=5, compression=RLELossless, calling_ae="CXRD")
        with storage_association(peer, {(CAPTURE, ExplicitVRLittleEndian)}) as delivery:
            assert delivery.store(path) == 0
        assert not receiver.objects[-1].file_meta.TransferSyntaxUID.is_compressed
