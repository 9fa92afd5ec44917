"""Delivery to a destination: C-STORE and C-ECHO as a Service Class User (PS3.4 A and B)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit, JPEGExtended12Bit
from pynetdicom import AE, evt
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from dicom_io.errors import AssociationLost, AssociationRejected, Declined, NotSecure, PeerUnavailable, RefusedByPeer
from dicom_io.header.reading import read_dataset
from dicom_io.network.address import address
from dicom_io.network.answering_peer import bound, mend_acceptance
from dicom_io.network.nagle import send_at_once
from dicom_io.network.status import Verdict, verdict_of
from dicom_io.network.tls import ClientTls, client_context, words_to_server
from dicom_io.objects.jpeg import LOSSY, PICTURES, decompress, extend, is_jpeg_picture, lose
from dicom_io.pixels.compression import compress

MAXIMUM_PDU = 131072
"""Bytes of the largest PDU that we take from a peer."""
CONNECT = 10.0
"""Seconds that a connection may take at most."""
PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
"""What is uncompressed is offered in both, explicit first; the other is the default that every peer must take (PS3.5
10.1)."""


@dataclass(frozen=True)
class Peer:
    """A destination on the network, and how long we wait for it (seconds).

    `compression` is a transfer syntax that pictures are sent in where the peer accepts it; else they go uncompressed,
    and where it accepts neither, in the first of `fallbacks` that it does. All are of `pixels.compression.LOSSLESS`.
    Where it accepts none of them, or a picture can be brought into none, and `lossy` says so, pictures go as JPEG, as
    objects of their own. With `tls`, the peer's certificate must be for `host`.
    """

    host: str
    port: int
    ae_title: str
    calling_ae: str
    timeout: float
    compression: str = ""
    fallbacks: tuple[str, ...] = ()
    lossy: bool = False
    tls: ClientTls | None = None

    @property
    def compressions(self) -> tuple[str, ...]:
        """What pictures may be compressed to for this peer, as it is offered."""
        ways = (self.compression, *self.fallbacks, *(LOSSY if self.lossy else ()))
        return tuple(dict.fromkeys(str(each) for each in ways if each))


class StorageAssociation:
    """An open association that stores objects at one peer."""

    def __init__(self, association: Any, peer: Peer) -> None:
        self._association = association
        self._peer = peer
        self.sent_as = ""
        """The SOP Instance UID of what was last sent, where that is not the object's own: a lossy copy of it."""

    def accepts(self, sop_class_uid: str) -> bool:
        """Tell whether the peer took a presentation context for this SOP class."""
        return bool(self._accepted(sop_class_uid))

    def store(self, path: Path) -> int:
        """Send one object, in the next transfer syntax where it is refused in one, and return the peer's status.

        Raises
        ------
        AssociationLost
            When the association was lost or the peer did not answer in time.
        Declined
            When it can be brought into no transfer syntax that the peer accepts.
        """
        dataset = read_dataset(path)
        sop_class, own = dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID
        status, self.sent_as = None, ""
        own_uid = str(dataset.SOPInstanceUID)
        for number, syntax in enumerate(ways(sop_class, own, self._accepted(sop_class), self._peer)):
            if status is not None and syntax in LOSSY:
                break  # a peer that refused the picture whole is not asked to take a lossy copy
            if number:
                dataset = read_dataset(path)  # as it was before the attempt
            if not _bring(dataset, syntax):
                continue
            status = self._send(dataset)
            self.sent_as = str(dataset.SOPInstanceUID) if dataset.SOPInstanceUID != own_uid else ""
            if verdict_of(status) is not Verdict.REFUSED:
                break
        if status is None:
            raise Declined(f"the peer accepts {UID(sop_class).name} in no transfer syntax that it can be sent in")
        return status

    def _accepted(self, sop_class_uid: str) -> set[str]:
        contexts = self._association.accepted_contexts
        return {str(each.transfer_syntax[0]) for each in contexts if each.abstract_syntax == sop_class_uid}

    def _send(self, dataset: Dataset) -> int:
        try:
            answer = self._association.send_c_store(dataset)
        except RuntimeError as error:
            raise AssociationLost("the association was lost") from error
        if "Status" not in answer:
            raise AssociationLost("the peer broke off the association, or did not answer the C-STORE")
        return int(answer.Status)


def ways(sop_class_uid: str, own: str, accepted: Collection[str], peer: Peer) -> list[str]:
    """Return the transfer syntaxes that an object can be sent in, the best first.

    A picture that is JPEG goes so where the peer accepts that, and is decompressed else. A picture that is uncompressed
    goes in the peer's `compression`, else as it is, and in its `fallbacks` only where it does not accept that. Where it
    accepts none of these, or the picture cannot be brought into them, and the peer may have a lossy picture, that goes
    as JPEG.

    Parameters
    ----------
    own
        The transfer syntax that it is kept in.
    accepted
        The transfer syntaxes that the peer accepts for its SOP class.
    """
    first: list[str] = [own] if own in accepted and own not in PLAIN else []
    plain: list[str] = [str(each) for each in PLAIN if each in accepted][:1]
    if sop_class_uid not in PICTURES or own not in (*PLAIN, JPEGBaseline8Bit):
        return first or (plain if own in PLAIN else [])
    if peer.compression in accepted:
        first.append(peer.compression)
    if plain:
        return first + plain
    further = (*peer.fallbacks, *(LOSSY if peer.lossy else ()))
    return first + [str(each) for each in further if each in accepted and each not in first]


def _bring(dataset: Dataset, syntax: str) -> bool:
    """Bring an object into one of its `ways`, in its place; tell whether it could be done."""
    own = dataset.file_meta.TransferSyntaxUID
    if syntax == own:
        return True
    try:
        if syntax in LOSSY:
            if not is_jpeg_picture(dataset):
                lose(dataset)
            if syntax == JPEGExtended12Bit:
                extend(dataset)
            return True
        if is_jpeg_picture(dataset):
            decompress(dataset)
        if syntax not in PLAIN:  # else pynetdicom encodes it as the context says
            compress(dataset, syntax)
    except Exception:  # noqa: BLE001 - whatever ails the encoder: it goes in another way
        return False
    return True


@contextmanager
def storage_association(peer: Peer, kinds: Collection[tuple[str, str]]) -> Iterator[StorageAssociation]:
    """Open an association for objects of these kinds, and release it at the end.

    Parameters
    ----------
    kinds
        Pairs of SOP class and transfer syntax, as `proposed` takes them.

    Raises
    ------
    PeerUnavailable
        When the peer cannot be reached or rejects the association; the message says which.
    RefusedByPeer
        When it accepts none of the presentation contexts.
    """
    with associate(peer, proposed(peer, kinds)) as association:
        yield StorageAssociation(association, peer)


def proposed(peer: Peer, kinds: Collection[tuple[str, str]]) -> list[PresentationContext]:
    """Return the presentation contexts that a peer is offered for objects of these kinds.

    Parameters
    ----------
    kinds
        Pairs of SOP class and transfer syntax: so few that there are at most 128 contexts (PS3.8 9.3.2.2). What is
        uncompressed is offered in both of `PLAIN`, pictures in the peer's `compressions` too.
    """
    pairs = sorted(set(kinds))
    contexts = [build_context(sop_class, _offered(syntax)) for sop_class, syntax in pairs]
    pictures = sorted({sop_class for sop_class, _ in pairs if sop_class in PICTURES})
    # Contexts of their own: of several syntaxes in one, the peer would choose.
    further = [(each, syntax) for each in pictures for syntax in peer.compressions if (each, syntax) not in pairs]
    return contexts + [build_context(*each) for each in further]


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
    InvalidSettings
        A file of `peer.tls` cannot be read.
    """
    tls = client_context(peer.tls.ca_file, peer.tls.certificate, peer.tls.key) if peer.tls else None
    association = _entity(peer).associate(
        peer.host,
        peer.port,
        contexts=contexts,
        ae_title=peer.ae_title,
        max_pdu=MAXIMUM_PDU,
        ext_neg=list(roles),
        tls_args=(tls, peer.host) if tls else None,
        evt_handlers=[*_GUARDS, *handlers],
    )
    if not association.is_established:
        if association.rejected_contexts:  # pynetdicom aborts where there is nothing left to say
            *most, last = sorted({UID(str(context.abstract_syntax)).name for context in contexts})
            raise RefusedByPeer(f"the peer does not accept {', '.join(most)}{' or ' * bool(most)}{last}")
        if tls and tls.fault:
            raise NotSecure(f"{address(peer.host, peer.port)}: {words_to_server(tls.fault)}")
        raise (AssociationRejected if association.is_rejected else PeerUnavailable)(_why(association))
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


_GUARDS = [(evt.EVT_CONN_OPEN, send_at_once), (evt.EVT_CONN_OPEN, bound), (evt.EVT_ACCEPTED, mend_acceptance)]


def echo(peer: Peer) -> None:
    """Verify that the peer answers a C-ECHO (PS3.4 A).

    Raises
    ------
    AssociationRejected
        When it rejects our association.
    PeerUnavailable
        When it cannot be reached, or answers with anything but success.
    """
    with associate(peer, [build_context(Verification)]) as association:
        answer = association.send_c_echo()
    if answer.get("Status") != 0x0000:
        raise PeerUnavailable("the peer does not answer C-ECHO with success")


def _offered(syntax: str) -> list[str]:
    return list(PLAIN) if syntax in PLAIN else [syntax]


def _entity(peer: Peer) -> AE:
    entity = AE(peer.calling_ae)
    entity.connection_timeout = min(peer.timeout, CONNECT)
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
    peer = address(association.acceptor.address, association.acceptor.port)
    if association.is_rejected:
        primitive = association.acceptor.primitive
        text = _REJECTIONS.get((primitive.result_source, primitive.diagnostic), "it gives no reason")
        calling, called = association.requestor.ae_title, association.acceptor.ae_title
        return f"{peer} rejects the association: {text.format(calling=calling.strip(), called=called.strip())}"
    return f"{peer} cannot be reached"
