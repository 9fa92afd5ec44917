"""Delivery to a destination: C-STORE and C-ECHO as a Service Class User (PS3.4 A and B)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
from pynetdicom import AE
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from dicom_io.errors import PeerUnavailable, RefusedByPeer
from dicom_io.files import read_dataset
from dicom_io.jpeg_picture import PICTURES, decompress, is_jpeg_picture
from dicom_io.status import Outcome, outcome

# None of them loses anything, so that an object keeps its UID whichever way it travels (PS3.3 C.7.6.1.1.5). A picture
# that is JPEG from the start (`dicom_io.jpeg_picture`) goes so where the peer takes that.
COMPRESSIONS = {"rle": RLELossless, "jpeg-2000": JPEG2000Lossless}


@dataclass(frozen=True)
class Peer:
    """A destination on the network, and how long we wait for it (seconds).

    `compression` is a transfer syntax that pictures are sent in where the peer accepts it; else they go uncompressed.
    """

    host: str
    port: int
    ae_title: str
    calling_ae: str = "CXRD"
    timeout: float = 30.0
    compression: str = ""


class Delivery:
    """An open association that stores objects at one peer."""

    def __init__(self, association: Any, peer: Peer) -> None:
        self._association = association
        self._peer = peer

    def accepts(self, sop_class_uid: str, syntax: str | None = None) -> bool:
        """Tell whether the peer took a presentation context for this SOP class, and for this syntax if one is named."""
        return any(
            context.abstract_syntax == sop_class_uid and (syntax is None or syntax in context.transfer_syntax)
            for context in self._association.accepted_contexts
        )

    def store(self, path: Path) -> int:
        """Send one object and return the peer's status.

        Raises
        ------
        PeerUnavailable
            When the association was lost or the peer did not answer in time.
        """
        dataset = read_dataset(path)
        if is_jpeg_picture(dataset):
            if self.accepts(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID):
                status = self._send(dataset)
                if outcome(status) is not Outcome.REFUSED or not self._accepts_plain(dataset.SOPClassUID):
                    return status
            decompress(dataset)
        if self._peer.compression and self.accepts(dataset.SOPClassUID, self._peer.compression):
            compressed = self._sent_compressed(dataset)
            if compressed is not None and outcome(compressed) is not Outcome.REFUSED:
                return compressed
            dataset = read_dataset(path)  # as it was before the attempt
            if is_jpeg_picture(dataset):
                decompress(dataset)
        return self._send(dataset)

    def _accepts_plain(self, sop_class_uid: str) -> bool:
        return any(self.accepts(sop_class_uid, syntax) for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian))

    def _send(self, dataset: Dataset) -> int:
        try:
            answer = self._association.send_c_store(dataset)
        except RuntimeError as error:
            raise PeerUnavailable("the association was lost") from error
        if "Status" not in answer:
            raise PeerUnavailable("the peer did not answer the C-STORE")
        return int(answer.Status)

    def _sent_compressed(self, dataset: Dataset) -> int | None:
        """Compress a picture in its place, send it and return the status; None where it cannot be compressed."""
        try:
            dataset.compress(self._peer.compression, generate_instance_uid=False)
        except Exception:  # noqa: BLE001 - whatever ails the encoder: the picture goes as it is
            return None
        return self._send(dataset)


@contextmanager
def deliver(peer: Peer, kinds: Collection[tuple[str, str]]) -> Iterator[Delivery]:
    """Open an association for objects of these kinds, and release it at the end.

    Parameters
    ----------
    kinds
        Pairs of SOP class and transfer syntax, at most 128 different ones (PS3.8 9.3.2.2). What is uncompressed is
        offered as explicit and implicit VR little endian, the default that every peer must take (PS3.5 10.1).

    Raises
    ------
    PeerUnavailable
        When the peer cannot be reached or rejects the association; the message says which.
    RefusedByPeer
        When it accepts none of the presentation contexts.
    """
    wanted = sorted(set(kinds))
    contexts = [build_context(sop_class, _offered(syntax)) for sop_class, syntax in wanted]
    if peer.compression:
        # Contexts of their own: of several syntaxes in one, the peer would choose.
        pictures = sorted({sop_class for sop_class, _ in wanted if sop_class in PICTURES})
        contexts += [build_context(sop_class, peer.compression) for sop_class in pictures]
    with associate(peer, contexts) as association:
        yield Delivery(association, peer)


@contextmanager
def associate(
    peer: Peer, contexts: list[PresentationContext], *, roles: Sequence[Any] = (), handlers: Sequence[Any] = ()
) -> Iterator[Any]:
    """Open an association with these presentation contexts, and release it at the end.

    Parameters
    ----------
    roles, handlers
        SCP/SCU Role Selection items (PS3.7 D.3.3.4) and pynetdicom's event handlers, for what the peer asks of us.

    Raises
    ------
    PeerUnavailable
        When the peer cannot be reached or rejects the association; the message says which.
    RefusedByPeer
        When it accepts none of the presentation contexts.
    """
    association = _entity(peer).associate(
        peer.host,
        peer.port,
        contexts=contexts,
        ae_title=peer.ae_title,
        max_pdu=131072,
        ext_neg=list(roles),
        evt_handlers=list(handlers),
    )
    if not association.is_established:
        if association.rejected_contexts:  # pynetdicom aborts where there is nothing left to say
            names = sorted({UID(str(context.abstract_syntax)).name for context in contexts})
            raise RefusedByPeer(f"the peer does not accept {' or '.join(names)}")
        raise PeerUnavailable(_why(association))
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def echo(peer: Peer) -> None:
    """Verify that the peer answers a C-ECHO (PS3.4 A).

    Raises
    ------
    PeerUnavailable
        When it cannot be reached, rejects us, or answers with anything but success.
    """
    with associate(peer, [build_context(Verification)]) as association:
        answer = association.send_c_echo()
    if answer.get("Status") != 0x0000:
        raise PeerUnavailable("the peer does not answer C-ECHO with success")


def _offered(syntax: str) -> list[str]:
    plain: list[str] = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
    return plain if syntax in plain else [syntax]


def _entity(peer: Peer) -> AE:
    entity = AE(peer.calling_ae)
    entity.connection_timeout = min(peer.timeout, 10.0)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = peer.timeout
    return entity


# PS3.8 table 9-21: why an association was rejected, in words that name what to change.
_REJECTIONS = {
    (1, 1): "it gives no reason",
    (1, 2): "it does not support our application context",
    (1, 3): "it does not know our calling AE title {calling}",
    (1, 7): "it does not answer to the AE title {called}",
    (3, 1): "it is congested",
    (3, 2): "it has too many associations",
}


def _why(association: Any) -> str:
    peer = f"{association.acceptor.address}:{association.acceptor.port}"
    if association.is_rejected:
        primitive = association.acceptor.primitive
        text = _REJECTIONS.get((primitive.result_source, primitive.diagnostic), "it gives no reason")
        calling, called = association.requestor.ae_title, association.acceptor.ae_title
        return f"{peer} rejects the association: {text.format(calling=calling.strip(), called=called.strip())}"
    return f"{peer} cannot be reached"
