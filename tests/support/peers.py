"""Real peers for the tests: a sender, and a node whose answers a test can choose."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context

from dicom_io.objects.radiograph import radiograph
from worker.demo.phantom import draw


@cache
def picture(seed: int, rows: int, cols: int) -> NDArray[np.uint8]:
    """Return a drawn chest, uint8 [rows, cols]: drawn once, for that takes a tenth of a second whatever its size."""
    drawn = draw(seed, rows, cols)
    drawn.setflags(write=False)
    return drawn


def chest(name: str = "a", *, rows: int = 64, cols: int = 48, **attributes: Any) -> Dataset:
    """Return a small drawn radiograph with UIDs of its own."""
    return radiograph(picture(1, rows, cols), uid_seed=f"test-{name}", **attributes)


def wait_for(what: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until `what` is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise AssertionError("it did not come about in time")
        time.sleep(0.02)


def send(port: int, datasets: Sequence[Dataset], *, calling: str = "SENDER", called: str = "CXRD") -> list[int]:
    """C-STORE objects on one association; return the statuses."""
    entity = AE(calling)
    kinds = {(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID) for dataset in datasets}
    contexts = [build_context(sop_class, syntax) for sop_class, syntax in sorted(kinds)]
    association = entity.associate("127.0.0.1", port, contexts=contexts, ae_title=called)
    assert association.is_established
    try:
        return [int(association.send_c_store(dataset).Status) for dataset in datasets]
    finally:
        association.release()


def store_request(data: bytes, sop_class: str, sop_instance: str) -> C_STORE:
    """Return a C-STORE request for an encoded data set, whatever is in it."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = UID(sop_class), UID(sop_instance)
    request.DataSet = io.BytesIO(data)
    return request


def store_bytes(association: Any, context_id: int, data: bytes, sop_class: str, sop_instance: str) -> int:
    """C-STORE an encoded data set as it is; return the status."""
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(store_request(data, sop_class, sop_instance), context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    return int(answer.Status)


# Secondary Capture, Comprehensive 3D SR, Grayscale Softcopy Presentation State
RESULT_CLASSES = ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.11.1")


class Receiver:
    """A destination that keeps its `objects`. Each C-STORE gets the next of `answers`: 0x0000 where there is none."""

    def __init__(self, sop_classes: Sequence[str], further_syntaxes: Sequence[str] = (), *, plain: bool = True) -> None:
        self.answers: list[int] = []
        self.objects: list[Dataset] = []
        self.associations = 0
        self._lock = threading.Lock()
        self._entity = AE("RECEIVER")
        for uid in sop_classes:
            if plain:
                self._entity.add_supported_context(uid)
            for syntax in further_syntaxes:
                self._entity.add_supported_context(uid, syntax)
        self._entity.add_supported_context("1.2.840.10008.1.1")
        self._server: Any = None
        self.port = 0

    def takes(self, sop_classes: Sequence[str], syntax: str) -> None:
        """Take these classes too, in one syntax alone."""
        for uid in sop_classes:
            self._entity.add_supported_context(uid, syntax)
        self._server.contexts = self._entity.supported_contexts

    @contextmanager
    def as_it_is(self) -> Iterator[list[Any]]:
        """Yield the presentation contexts that it supports, to be changed for the length of a block."""
        contexts = list(self._server.contexts)
        before, self._server.contexts = self._server.contexts, contexts
        try:
            yield contexts
        finally:
            if self._server is not None:
                self._server.contexts = before

    def admits(self, title: str) -> None:
        """Reject associations that call another AE title; none where this one is empty."""
        self._entity.ae_title = title or "RECEIVER"
        self._entity.require_called_aet = bool(title)

    def start(self, port: int = 0) -> None:
        """Listen."""
        handlers: list[Any] = [(evt.EVT_C_STORE, self._store), (evt.EVT_ESTABLISHED, self._count)]
        self._server = self._entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        self.port = int(self._server.server_address[1])

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _count(self, _event: evt.Event) -> None:
        self.associations += 1

    def _store(self, event: Any) -> int:
        with self._lock:
            status = self.answers.pop(0) if self.answers else 0x0000
            if status in (0x0000, 0xB000):
                # A node of ours in the same process makes pynetdicom stream what every node receives.
                dataset = dcmread(event.dataset_path) if event.request._dataset_file else event.dataset
                dataset.file_meta = event.file_meta
                self.objects.append(dataset)
            return status


@contextmanager
def receiving(
    sop_classes: Sequence[str] = RESULT_CLASSES, further_syntaxes: Sequence[str] = (), *, plain: bool = True
) -> Iterator[Receiver]:
    """Run a `Receiver` for the length of a block; not `plain`, it takes the further syntaxes alone."""
    receiver = Receiver(sop_classes, further_syntaxes, plain=plain)
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop()
