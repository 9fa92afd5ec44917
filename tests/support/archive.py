"""A small PACS for the tests: C-FIND, C-MOVE and C-GET over objects in memory, and a place to stop at."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from tests.support.dicomweb import fits

_KEYS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
_MATCHED = ("PatientID", "AccessionNumber", "StudyDate", *_KEYS.values())


class Pacs:
    """Answers from `objects`; sends to `port` of this machine what it is to move.

    At the SOP instance `stall` it stops until `go`: in the middle of its pixel data where it sends it by C-GET, before
    it where it sends it by C-MOVE, on an association of its own; that one it does not send afterwards.
    """

    def __init__(self, objects: list[Dataset], port: int = 0) -> None:
        self.objects = objects
        self.stall = ""
        self.sent: list[str] = []
        self.stalled, self.go = threading.Event(), threading.Event()
        self._destination = ("127.0.0.1", port)
        self._in_hand = ""
        entity = AE("PACS")
        for model in (
            StudyRootQueryRetrieveInformationModelFind,
            StudyRootQueryRetrieveInformationModelGet,
            StudyRootQueryRetrieveInformationModelMove,
        ):
            entity.add_supported_context(model)
        for sop_class in {str(each.SOPClassUID) for each in objects}:
            entity.add_supported_context(sop_class, scu_role=True, scp_role=True)
            entity.add_requested_context(sop_class)
        handlers: list[Any] = [
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_C_GET, self._get),
            (evt.EVT_C_MOVE, self._move),
            (evt.EVT_PDU_SENT, self._pdu_sent),
        ]
        self._server = cast("Any", entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers))
        self.port = int(self._server.server_address[1])

    def stop(self) -> None:
        """Stop listening."""
        self.go.set()
        self._server.shutdown()

    def _matching(self, query: Dataset) -> list[Dataset]:
        conditions = {key: [str(query.get(key))] for key in _MATCHED if query.get(key)}
        return [each for each in self.objects if fits(each, conditions)]

    def _find(self, event: Any) -> Iterator[Any]:
        query = event.identifier
        key = _KEYS[query.QueryRetrieveLevel]
        for each in {str(each[key].value): each for each in self._matching(query)}.values():
            match = Dataset()
            match.QueryRetrieveLevel = query.QueryRetrieveLevel
            for keyword in (*_KEYS.values(), "Modality"):
                match[keyword] = each[keyword]
            match.ModalitiesInStudy = each.Modality
            yield 0xFF00, match

    def _get(self, event: Any) -> Iterator[Any]:
        matching = self._matching(event.identifier)
        yield len(matching)
        for each in matching:
            self._in_hand = str(each.SOPInstanceUID)
            self.sent.append(self._in_hand)
            yield 0xFF00, each

    def _move(self, event: Any) -> Iterator[Any]:
        matching = self._matching(event.identifier)
        yield self._destination
        yield len(matching)
        for each in matching:
            if str(each.SOPInstanceUID) == self.stall:
                self.stalled.set()
                self.go.wait(120)
                return
            self.sent.append(str(each.SOPInstanceUID))
            yield 0xFF00, each

    def _pdu_sent(self, event: Any) -> None:
        """Stop after a first part of an image: this is the thread that sends."""
        large = isinstance(event.pdu, P_DATA_TF) and len(event.pdu) > 10_000
        if large and self._in_hand == self.stall:
            self.stalled.set()
            self.go.wait(120)


@contextmanager
def pacs(objects: list[Dataset], port: int = 0) -> Iterator[Pacs]:
    """Run a `Pacs` for the length of a block."""
    node = Pacs(objects, port)
    try:
        yield node
    finally:
        node.stop()
