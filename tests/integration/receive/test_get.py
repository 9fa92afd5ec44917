"""C-GET: what a PACS sends on our own association goes through the receipt, whatever becomes of the association."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from dicom_io.errors import OutOfResources, PeerUnavailable, RefusedByPeer
from dicom_io.network import status
from dicom_io.network.query_retrieve import Get, Receipt, Series, archive
from dicom_io.network.storage_scp import Arrival
from dicom_io.network.storage_scu import Peer
from tests.support.peers import chest
from worker.settings import RulesSettings

CLASSES = RulesSettings().sop_classes


class Pacs:
    """Holds three images; `mood` decides how it answers a C-GET."""

    def __init__(self, mood: str) -> None:
        self.mood = mood
        self.images = [chest(f"get-{number}", rows=200, cols=200) for number in range(3)]
        entity = AE("PACS")
        entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        if mood != "none":
            entity.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
        for sop_class in CLASSES:
            entity.add_supported_context(sop_class, scu_role=True, scp_role=True)
        handlers: list[Any] = [(evt.EVT_C_GET, self._get)]
        server: Any = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.server = server
        self.peer = Peer("127.0.0.1", server.server_address[1], "PACS", timeout=5, calling_ae="CXRD")

    def _get(self, event: Any) -> Iterator[Any]:
        if self.mood == "refuses":
            yield 1
            yield 0xA900, Dataset()
            return
        yield len(self.images)
        for number, image in enumerate(self.images):
            if self.mood == "aborts" and number == 2:
                event.assoc.abort()
                return
            yield 0xFF00, image


@contextmanager
def pacs(mood: str = "") -> Iterator[Pacs]:
    made = Pacs(mood)
    try:
        yield made
    finally:
        made.server.shutdown()


class Kept:
    """A receipt that keeps what it gets, and answers as told."""

    def __init__(self, folder: Path, *answers: int) -> None:
        self.got: list[Arrival] = []
        self.sizes: list[int] = []
        self._answers = list(answers)
        folder.mkdir()
        self.folder = folder
        self.get = Get(Receipt(self._receive, folder, "CXRD"), CLASSES)

    def _receive(self, arrival: Arrival) -> int:
        arrival.file.seal()
        self.got.append(arrival)
        self.sizes.append(arrival.file.path.stat().st_size)
        return self._answers.pop(0) if self._answers else status.SUCCESS


def series(of: Pacs) -> Series:
    return Series(of.images[0].StudyInstanceUID, of.images[0].SeriesInstanceUID, "DX")


def test_each_image_is_streamed_to_the_receipt(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "spool")
    with pacs() as there:
        with archive(there.peer, kept.get) as source:
            assert source.fetch(series(there), []) == ""
        assert [arrival.sop_instance_uid for arrival in kept.got] == [each.SOPInstanceUID for each in there.images]
        assert {(each.calling_ae, each.called_ae, each.peer_address) for each in kept.got} == {
            ("PACS", "CXRD", "127.0.0.1")
        }
    assert min(kept.sizes) > 200 * 200
    assert list(kept.folder.iterdir()) == []


def test_what_could_not_be_stored_is_told(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "spool", status.SUCCESS, status.CANNOT_UNDERSTAND)
    with pacs() as there, archive(there.peer, kept.get) as source:
        assert source.fetch(series(there), []) == "the PACS answers the C-GET with 0xB000, 1 failed"
    kept = Kept(tmp_path / "full", status.OUT_OF_RESOURCES)
    with pacs() as there, archive(there.peer, kept.get) as source, pytest.raises(OutOfResources, match="disk full"):
        source.fetch(series(there), [])


def test_an_association_that_breaks_off_keeps_what_came(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "spool")
    with pacs("aborts") as there, archive(there.peer, kept.get) as source, pytest.raises(PeerUnavailable):
        source.fetch(series(there), [])
    assert len(kept.got) == 2
    assert list(kept.folder.iterdir()) == []


def test_a_refusal_is_told(tmp_path: Path) -> None:
    with pacs("refuses") as there, archive(there.peer, Kept(tmp_path / "spool").get) as source:
        assert "the C-GET with 0xA900" in source.fetch(series(there), [])
    with (
        pacs("none") as there,
        pytest.raises(RefusedByPeer, match=r"does not offer Study Root .* GET"),
        archive(there.peer, Kept(tmp_path / "other").get),
    ):
        pass
