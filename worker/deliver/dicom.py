"""Delivery to a DICOM node by C-STORE, and what `cxrd check` asks of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit, SecondaryCaptureImageStorage

from dicom_io.errors import Declined, InvalidSettings
from dicom_io.header.reading import read_header, syntax_of
from dicom_io.network import capabilities
from dicom_io.network.address import address
from dicom_io.network.status import DUPLICATE_INSTANCE, Verdict, verdict_of
from dicom_io.network.storage_scu import PLAIN, Peer, StorageAssociation, echo, storage_association, ways
from dicom_io.network.tls import client_context
from dicom_io.objects.jpeg import LOSSY, PICTURES
from dicom_io.objects.kinds import BY_NAME
from dicom_io.pixels.compression import COMPRESSIONS, LOSSLESS, is_available
from worker.clock import now
from worker.deliver.port import Observation, Outcome, already_there, outcome_of, refusal
from worker.deliver.trial import stored, trial_object
from worker.destination_settings import DicomDestination
from worker.ledger.records import DueDelivery
from worker.settings import Settings
from worker.storage.blobs import Blobs


def node_of(destination: DicomDestination, settings: Settings) -> Peer:
    """Return the node of a destination as the network knows it.

    Raises
    ------
    InvalidSettings
        Nothing here can compress as the destination asks for.
    """
    compression = COMPRESSIONS.get(destination.compression, "")
    if compression and not is_available(compression):
        raise InvalidSettings(f"destination {destination.name}: nothing here can compress to {destination.compression}")
    fallbacks = () if destination.compression == "none" else tuple(each for each in LOSSLESS if is_available(each))
    return Peer(
        host=destination.host,
        port=destination.port,
        ae_title=destination.ae_title,
        calling_ae=destination.calling_ae or settings.scp.ae_title,
        timeout=destination.timeout,
        compression=compression,
        fallbacks=fallbacks,
        lossy=destination.compression not in ("none", "lossless"),
        tls=destination.tls.client if destination.tls else None,
    )


class DicomSession:
    """An open association with a node."""

    def __init__(self, association: StorageAssociation, blobs: Blobs, node: Peer) -> None:
        self._association = association
        self._node = node
        self._blobs = blobs

    def carries(self, delivery: DueDelivery) -> bool:
        """Tell whether the node accepted a presentation context for the object's SOP class."""
        return self._association.accepts(delivery.sop_class_uid)

    def send(self, delivery: DueDelivery) -> Outcome:
        """Send one object; see `worker.deliver.port.Session`."""
        if not self.carries(delivery):
            return refusal(f"the peer does not accept {UID(delivery.sop_class_uid).name}")
        path = self._blobs.find(delivery.sha256)
        try:
            status = self._association.store(path)
        except Declined as error:
            return refusal(str(error))
        sent_as = self._association.sent_as
        if status == DUPLICATE_INSTANCE:
            return replace(self._look(path, sent_as or delivery.sop_instance_uid), sent_as=sent_as)
        return outcome_of(status, sent_as)

    def _look(self, path: Path, sop_instance_uid: str) -> Outcome:
        """Look for what the node says is there already, on an association of its own."""
        header = read_header(path)
        return already_there(lambda: capabilities.holds(self._node, header, sop_instance_uid), "C-FIND")


class DicomSender:
    """A DICOM node. Raises as `node_of` does, and where a file of its `tls` cannot be used."""

    def __init__(self, destination: DicomDestination, settings: Settings) -> None:
        self._node = node_of(destination, settings)
        if tls := self._node.tls:  # each association reads the files anew; this one tells of them at the start
            try:
                client_context(tls.ca_file, tls.certificate, tls.key)
            except InvalidSettings as error:
                raise InvalidSettings(f"destination {destination.name}: {error}") from error
        self._compression = destination.compression
        self._commitment = destination.commitment
        self._sop_classes = [BY_NAME[kind].sop_class for kind in destination.select(settings.results.kinds)]
        self._jpeg = settings.results.jpeg_quality is not None

    @contextmanager
    def open(self, due: Sequence[DueDelivery], blobs: Blobs) -> Iterator[DicomSession]:
        """Open an association that can carry what is due, and all else that goes there.

        A node that takes pictures and no reports then refuses reports alone, and not the association.
        """
        sop_classes = {*self._sop_classes, *(delivery.sop_class_uid for delivery in due)}
        kinds = {(sop_class, ExplicitVRLittleEndian) for sop_class in sop_classes}
        for delivery in due:  # a JPEG picture is offered as such, and uncompressed
            if delivery.sop_class_uid in PICTURES:
                kinds.add((delivery.sop_class_uid, UID(syntax_of(blobs.path(delivery.sha256)))))
        with storage_association(self._node, kinds) as association:
            yield DicomSession(association, blobs, self._node)

    def check(self, *, closely: bool, store: bool) -> Iterator[Observation]:
        """Ask for a C-ECHO; closely, for its transfer syntaxes and services too."""
        node = self._node
        echo(node)
        yield Observation(True, f"{node.ae_title} at {address(node.host, node.port)} answers C-ECHO")
        if not closely:
            return
        offer = capabilities.negotiate(node, self._sop_classes)
        for sop_class, syntaxes in offer.syntaxes.items():
            yield self._accepted(sop_class, syntaxes)
        if node.compression and SecondaryCaptureImageStorage in offer.syntaxes:
            yield self._compressed(offer.syntaxes[SecondaryCaptureImageStorage])
        required = self._commitment is True
        yield Observation(offer.commitment or not required, f"storage commitment: {_offered(offer.commitment)}")
        yield Observation(True, f"query (C-FIND): {_offered(offer.query)}")
        yield Observation(True, f"retrieval: C-MOVE {_offered(offer.move)}, C-GET {_offered(offer.get)}")
        if store:
            yield from self._try_storing(search=offer.query)
        else:
            yield Observation(True, "no test object was sent; --store leaves one there and looks for it")

    def _accepted(self, sop_class: str, syntaxes: tuple[str, ...]) -> Observation:
        """Say in which transfer syntaxes a class is accepted, and which one is used where none is uncompressed."""
        name = UID(sop_class).name
        if not syntaxes:
            return Observation(False, f"{name}: not accepted")
        jpeg = self._jpeg and sop_class in PICTURES
        usable = ways(sop_class, JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian, syntaxes, self._node)
        end = ""
        if not usable:
            end = "; in none of these can it be sent"
        elif usable[0] not in PLAIN:
            end = f"; sent in {UID(usable[0]).name}"
            if usable[0] in LOSSY and not jpeg:
                end += ", with loss and under a UID of its own"
        return Observation(bool(usable), f"{name}: {', '.join(UID(each).name for each in syntaxes)}{end}")

    def _compressed(self, syntaxes: tuple[str, ...]) -> Observation:
        """Say whether pictures can go in the compression that the settings ask for."""
        accepted = self._node.compression in syntaxes
        instead = "; pictures go uncompressed" if set(PLAIN) & set(syntaxes) and not accepted else ""
        return Observation(accepted, f"compression {self._compression}: {'' if accepted else 'not '}accepted{instead}")

    def _try_storing(self, *, search: bool) -> Iterator[Observation]:
        """Leave a test object at the node, and search for it where the node can be asked."""
        dataset = trial_object(now().astimezone())
        with storage_association(self._node, [(SecondaryCaptureImageStorage, ExplicitVRLittleEndian)]) as association:
            status = stored(association, dataset)
        ok = verdict_of(status) is Verdict.SENT
        yield Observation(ok, f"a test object of patient {dataset.PatientID} is answered with 0x{status:04X}")
        if ok and search:
            there = capabilities.finds(self._node, dataset)
            yield Observation(there, f"the test object is {'' if there else 'not '}found again by C-FIND")


def _offered(there: bool) -> str:
    return "offered" if there else "not offered"
