"""What a destination answers when it is asked, for `cxrd check`: each kind in its own way."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit, SecondaryCaptureImageStorage

from dicom_io.dicomweb.stow import WebDelivery, WebPeer, deliver_web, reach
from dicom_io.dicomweb.wado import copy_of
from dicom_io.errors import Declined, PeerUnavailable
from dicom_io.finding import Finding, ModelIdentity
from dicom_io.network import capabilities
from dicom_io.network.address import address as written
from dicom_io.network.query_retrieve import Series
from dicom_io.network.status import Outcome, outcome
from dicom_io.network.storage_scu import CONNECT, PLAIN, Delivery, Peer, deliver, echo, ways
from dicom_io.network.tls import client_context, secured
from dicom_io.objects.common import encode
from dicom_io.objects.jpeg import LOSSY, PICTURES
from worker.clock import now
from worker.deliver import hl7, webhook
from worker.deliver.destinations import AnyPeer, kinds_of
from worker.deliver.mllp import Hl7Peer, deliver_hl7
from worker.results.result_set import SOP_CLASSES
from worker.settings import Destination, Settings

Seen = tuple[bool, str]
"""Whether it is well, and what was seen."""

_FINDING = Finding(0.0, "NORMAL", 1.0)
_IDENTITY = ModelIdentity("cxrd-check", "0", "0" * 64)


def reached(
    peer: AnyPeer, destination: Destination, settings: Settings, *, closely: bool, store: bool
) -> Iterator[Seen]:
    """Ask a destination, by the protocol that results travel by.

    Parameters
    ----------
    closely
        Ask what it takes and offers too.
    store
        Leave a test object or a test message there, of a patient who does not exist.

    Raises
    ------
    CxrdError
        It does not answer, or not as it should.
    """
    if isinstance(peer, webhook.WebhookPeer):
        return _hook(peer, store=store)
    if isinstance(peer, Hl7Peer):
        return _receiver(peer, settings, store=store)
    if isinstance(peer, WebPeer):
        return _server(peer, store=store)
    return _node(peer, destination, settings, closely=closely, store=store)


def _node(peer: Peer, destination: Destination, settings: Settings, *, closely: bool, store: bool) -> Iterator[Seen]:
    echo(peer)
    yield True, f"{peer.ae_title} at {written(peer.host, peer.port)} answers C-ECHO"
    if not closely:
        return
    offer = capabilities.ask(peer, [SOP_CLASSES[kind] for kind in kinds_of(destination, settings)])
    for sop_class, syntaxes in offer.syntaxes.items():
        yield _taken(sop_class, syntaxes, peer, settings)
    if peer.compression and SecondaryCaptureImageStorage in offer.syntaxes:
        ok = peer.compression in offer.syntaxes[SecondaryCaptureImageStorage]
        plain = set(PLAIN) & set(offer.syntaxes[SecondaryCaptureImageStorage])
        instead = "; pictures go uncompressed" if plain and not ok else ""
        yield ok, f"compression {destination.compression}: {'' if ok else 'not '}accepted{instead}"
    yield True, f"storage commitment: {_offered(offer.commitment)}"
    yield True, f"query (C-FIND): {_offered(offer.query)}"
    yield True, f"retrieval: C-MOVE {_offered(offer.move)}, C-GET {_offered(offer.get)}"
    if not store:
        yield True, "no test object was sent; --store leaves one there and looks for it"
    else:
        dataset = capabilities.test_object(now().astimezone())
        with deliver(peer, [(SecondaryCaptureImageStorage, ExplicitVRLittleEndian)]) as delivery:
            status = _stored(delivery, dataset)
        ok = outcome(status) is Outcome.DELIVERED
        yield ok, f"a test object of patient {capabilities.TEST_PATIENT} is answered with 0x{status:04X}"
        if ok and offer.query:
            found = capabilities.find(peer, dataset)
            yield found, f"the test object is {'' if found else 'not '}found again by C-FIND"


def _taken(sop_class: str, syntaxes: tuple[str, ...], peer: Peer, settings: Settings) -> Seen:
    """Say in which transfer syntaxes a class is accepted, and which one is used where that is no uncompressed one."""
    if not syntaxes:
        return False, f"{UID(sop_class).name}: not accepted"
    quality = settings.results.jpeg_quality if sop_class in PICTURES else None
    used = ways(sop_class, JPEGBaseline8Bit if quality else ExplicitVRLittleEndian, syntaxes, peer)
    how = ""
    if not used:
        how = "; in none of these can it be sent"
    elif used[0] not in PLAIN:
        how = f"; sent in {UID(used[0]).name}"
        if used[0] in LOSSY and not quality:
            how += ", with loss and under a UID of its own"
    return bool(used), f"{UID(sop_class).name}: {', '.join(UID(each).name for each in syntaxes)}{how}"


def _offered(there: bool) -> str:
    return "offered" if there else "not offered"


def _server(peer: WebPeer, *, store: bool) -> Iterator[Seen]:
    reach(peer)
    yield True, f"{peer.url} answers a search (QIDO-RS)"
    if not store:
        return
    dataset = capabilities.test_object(now().astimezone())
    with deliver_web(peer) as delivery:
        status = _stored(delivery, dataset)
    ok = outcome(status) is Outcome.DELIVERED
    told = f"0x{status:04X}" if status else "success"
    yield ok, f"a test object of patient {capabilities.TEST_PATIENT} is answered with {told} (STOW-RS)"
    if not ok:
        return
    series = Series(dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.Modality)
    with tempfile.TemporaryDirectory() as folder:
        there, syntax = copy_of(peer, series, dataset.SOPInstanceUID, Path(folder))
    yield there, f"the test object is {'' if there else 'not '}found again (QIDO-RS)"
    if there:
        back = f"comes back in {UID(syntax).name}" if syntax else "does not come back"
        yield bool(syntax), f"it {back} (WADO-RS)"


def _stored(delivery: Delivery | WebDelivery, dataset: Dataset) -> int:
    """Send an object, as results are sent: from a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.dcm"
        path.write_bytes(encode(dataset))
        return delivery.store(path)


def _hook(peer: webhook.WebhookPeer, *, store: bool) -> Iterator[Seen]:
    """Connect, with TLS where the address says so; calling it would set something off."""
    address = urlsplit(peer.url)
    secure = address.scheme == "https"
    host, port = address.hostname or "", address.port or (443 if secure else 80)
    try:
        with socket.create_connection((host, port), timeout=min(peer.timeout, CONNECT)) as connection:
            if secure:
                secured(connection, host, client_context(None), written(host, port)).close()
    except OSError as error:
        raise PeerUnavailable(f"{written(host, port)} cannot be reached ({type(error).__name__})") from error
    yield True, f"{written(host, port)} takes {'TLS ' if secure else ''}connections; the webhook itself was not called"
    if store:
        with webhook.deliver_hook(peer) as delivery:
            status = delivery.post(webhook.test_notification())
        yield status == 0, f"a notification of type {webhook.TEST} is {'taken' if status == 0 else 'refused'}"


def _receiver(peer: Hl7Peer, settings: Settings, *, store: bool) -> Iterator[Seen]:
    with deliver_hl7(peer) as delivery:
        delivery.open()
        yield (
            True,
            f"{written(peer.host, peer.port)} takes {'TLS ' if peer.tls else ''}connections; no message was sent",
        )
        if store:
            moment = now().astimezone()
            source: Dataset = capabilities.test_object(moment)
            sender = settings.scp.ae_title
            _, told = hl7.message(source, _FINDING, _IDENTITY, created=moment, sender=sender, processing="T")
            try:
                code = delivery.send(told)
            except Declined as error:
                yield False, f"a test message (processing ID T, patient {capabilities.TEST_PATIENT}): {error}"
            else:
                yield (
                    True,
                    f"a test message (processing ID T, patient {capabilities.TEST_PATIENT}) is answered with {code}",
                )
