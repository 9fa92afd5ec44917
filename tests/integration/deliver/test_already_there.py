"""A node that says it has a result already (0x0111) is believed after a look; else the result has failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any, cast

import pytest
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]
from sqlalchemy import text

from dicom_io.dicomweb.stow import WebPeer
from dicom_io.network.status import Verdict
from tests.integration.deliver.test_courier import DX, Outbox, office
from tests.support.dicomweb import dicomweb
from tests.support.peers import chest, wait_for
from worker.deliver.dicomweb import DicomwebSession
from worker.ledger.records import DueDelivery

__all__ = ["office"]


class Node:
    """A node that answers each C-STORE with 0x0111, and a C-FIND in its own way."""

    def __init__(self, *, holds: bool, status: int = 0x0000, finds: bool = True) -> None:
        self.queries: list[Dataset] = []
        self._holds, self._status = holds, status
        self._entity = AE("RECEIVER")
        self._entity.add_supported_context(DX)
        if finds:
            self._entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)

    @contextmanager
    def listening(self) -> Iterator[int]:
        handlers: list[Any] = [(evt.EVT_C_STORE, lambda _: 0x0111), (evt.EVT_C_FIND, self._find)]
        server: Any = self._entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()

    def _find(self, event: Any) -> Iterator[Any]:
        self.queries.append(event.identifier)
        if self._holds:
            yield 0xFF00, event.identifier
        yield self._status, None


@pytest.fixture(autouse=True)
def _without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.deliver.port.SETTLE", 0.01)


def remarks(outbox: Outbox) -> list[str]:
    with outbox.ledger.reading() as connection:
        rows = connection.execute(text("SELECT json_extract(detail, '$.remark') FROM event WHERE kind = 'delivered'"))
        return [str(remark) for (remark,) in rows]


def test_what_the_node_finds_is_delivered(office: Outbox) -> None:
    office.add()
    node = Node(holds=True)
    with node.listening() as port:
        office.courier(port)
        wait_for(lambda: office.states() == {"sent"})
    assert [each["status"] for each in office.deliveries()] == ["0x0111"]
    assert remarks(office) == ["it was there already: found by C-FIND"]
    (query,) = node.queries
    assert query.QueryRetrieveLevel == "IMAGE"
    assert query.SOPInstanceUID == office.results[0].sop_instance_uid
    assert query.SeriesInstanceUID == office.results[0].series_instance_uid


def test_what_the_node_does_not_find_has_failed(office: Outbox) -> None:
    office.add()
    node = Node(holds=False)
    with node.listening() as port:
        office.courier(port)
        wait_for(lambda: office.states() == {"failed"})
    (delivery,) = office.deliveries()
    assert delivery["error"] == (
        "the peer says that it is there already (status 0x0111), but does not find it by C-FIND"
    )
    assert len(node.queries) == 2


@pytest.mark.parametrize("node", [Node(holds=False, finds=False), Node(holds=False, status=0x0124)])
def test_where_nobody_can_look_it_is_delivered_and_the_audit_says_so(office: Outbox, node: Node) -> None:
    office.add()
    with node.listening() as port:
        office.courier(port)
        wait_for(lambda: office.states() == {"sent"})
    assert remarks(office) == ["it was there already: not looked at, since C-FIND is not offered"]


def test_a_node_that_cannot_answer_now_is_asked_again(office: Outbox) -> None:
    office.add()
    node = Node(holds=False, status=0xA700)
    with node.listening() as port:
        office.courier(port)
        wait_for(lambda: len(node.queries) > 2)
        assert office.states() == {"pending"}
    (delivery,) = office.deliveries()
    assert "the peer answers the C-FIND with 0xA700" in str(delivery["error"])


def test_matches_without_end_are_not_collected(office: Outbox) -> None:
    office.add()
    node = Node(holds=True)
    node._find = lambda event: repeat((0xFF00, event.identifier), 100_000)  # type: ignore[method-assign]
    with node.listening() as port:
        office.courier(port)
        wait_for(lambda: "without end" in str(office.deliveries()[0]["error"]))


class _Client:
    """A session with a DICOMweb server that has everything already."""

    def store(self, path: Path) -> int:
        assert path.exists()
        return 0x0111


class _Blobs:
    def __init__(self, path: Path) -> None:
        self.find = lambda _: path


@pytest.mark.parametrize("is_there", [True, False])
def test_a_dicomweb_server_is_asked_too(tmp_path: Path, is_there: bool) -> None:
    dataset = chest()
    dataset.save_as(tmp_path / "result.dcm", enforce_file_format=True)
    delivery: Any = DueDelivery(cast("Any", None), 1, DX, dataset.SOPInstanceUID, "")
    with dicomweb([dataset if is_there else chest("another")]) as server:
        session = DicomwebSession(
            cast("Any", _Client()), cast("Any", _Blobs(tmp_path / "result.dcm")), WebPeer(server.url)
        )
        outcome = session.send(delivery)
    assert outcome.status == 0x0111
    if is_there:
        assert (outcome.verdict, outcome.remark) == (Verdict.SENT, "it was there already: found by QIDO-RS")
    else:
        assert outcome.verdict is Verdict.REFUSED
        assert outcome.reason.endswith("does not find it by QIDO-RS")
