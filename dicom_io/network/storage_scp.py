"""The storage node: Verification and Storage SCP (PS3.4 A and B), one callback an object, never a decode on the way.

Where it is given what for, it takes part in storage commitment too (PS3.4 J): see `commitment_scp`.
"""

from __future__ import annotations

import datetime as dt
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from pydicom import Dataset
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID, AllTransferSyntaxes, ExplicitVRLittleEndian
from pynetdicom import AE, evt, register_uid
from pynetdicom import _config as pynetdicom_config
from pynetdicom.presentation import AllStoragePresentationContexts, PresentationContext, build_context
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from dicom_io.errors import ObjectTooLarge
from dicom_io.network import spool, status
from dicom_io.network.commitment_scp import Commitment, CommitmentService
from dicom_io.network.nagle import send_at_once
from dicom_io.network.operations import serve_in_turn

log = structlog.get_logger("cxrd.scp")

# pynetdicom's own log handlers can print data sets; the node tells its own story.
pynetdicom_config.LOG_HANDLER_LEVEL = "none"

# Syntaxes that pydicom decodes with the packages we depend on. A radiograph that is offered in several is taken in one
# of these; anything that is not a radiograph is stored in whatever it comes.
_UNREADABLE = re.compile(
    "MPEG|HEVC|JPIP|Multi-component|JPEG XL|SMPTE|Encapsulated Uncompressed|Papyrus|RFC 2557|XML", re.IGNORECASE
)
# Explicit comes first: pynetdicom takes the first of ours that is offered, and implicit would lose what private
# elements are.
_READABLE = [uid for uid in AllTransferSyntaxes if not _UNREADABLE.search(uid.name)]
READABLE_SYNTAXES = sorted(_READABLE, key=lambda uid: uid != ExplicitVRLittleEndian)
ANY_SYNTAX = READABLE_SYNTAXES + [uid for uid in AllTransferSyntaxes if _UNREADABLE.search(uid.name)]
RADIOGRAPHS = ("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1.1")
MAXIMUM_MESSAGE = 4 * 1024 * 1024
"""Bytes of a data set that is not stored, such as a request for commitment: it is collected in memory."""
_register_lock = threading.Lock()


@dataclass(frozen=True)
class Arrival:
    """One object as it came off the network, its bytes already on disk but not yet made durable."""

    file: spool.SpoolFile
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae: str
    called_ae: str
    peer_address: str
    received_at: dt.datetime
    priority: int = 0
    """(0000,0700) Priority of the request: 0 medium, 1 high, 2 low (PS3.7 E.1)."""


@dataclass(frozen=True)
class NodeOptions:
    """How the node shows itself on the network.

    ``port`` 0 takes a free port. ``allowed_calling`` empty admits every calling AE title. ``maximum_pdu`` is the
    largest PDU in bytes that we accept; large ones save work on large images. ``max_object_mb`` is the size of an
    object at most, in units of 1,000,000 bytes.
    """

    ae_title: str
    host: str
    port: int
    allowed_calling: tuple[str, ...]
    require_called: bool
    maximum_associations: int
    maximum_pdu: int
    network_timeout: float
    max_object_mb: int


class StorageNode:
    """A listening application entity that hands each stored object to `receive` and answers with what it returns.

    Parameters
    ----------
    options
        Title, address and limits.
    folder
        Where objects lie while they arrive. At `start` what dead processes left there is removed.
    receive
        Called in the association's thread with one `Arrival`; returns a C-STORE status (`network.status`). It
        owns the arrival's file: what it does not rename away is removed afterwards.
    check_space
        Raises OutOfResources where too little space is free; called while an object arrives.
    commitment
        What it does about storage commitment; by default nothing, and the presentation context is not accepted.
    """

    def __init__(
        self,
        options: NodeOptions,
        folder: Path,
        receive: Callable[[Arrival], int],
        commitment: Commitment | None = None,
        *,
        check_space: Callable[[], None] = lambda: None,
    ) -> None:
        self.options = options
        self._folder = folder
        self._receive = receive
        self._limits = spool.Limits(options.max_object_mb, check_space)
        self._commitment = commitment or Commitment()
        self._service = CommitmentService(self._commitment)
        self._server: Any = None
        self._entity = self._build()
        self._busy = 0
        self._busy_lock = threading.Lock()
        self._turned_at = time.monotonic()

    @property
    def port(self) -> int:
        """The port that the node listens on, once started."""
        return int(self._server.server_address[1])

    @property
    def silent_for(self) -> float:
        """Seconds since the loop that accepts connections last turned; it turns twice a second."""
        return time.monotonic() - self._turned_at

    def start(self) -> None:
        """Begin to listen.

        Raises
        ------
        OSError
            When the address cannot be bound.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        spool.remove_leftovers(self._folder)
        handlers: list[Any] = [
            (evt.EVT_C_ECHO, lambda _event: status.SUCCESS),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_CONN_OPEN, send_at_once),
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_ACCEPTED, _on_accepted),
            (evt.EVT_CONN_CLOSE, spool.drop_unfinished),
            *self._service.handlers,
        ]
        spool.use(self.options.port, self._folder, self._limits)
        self._server = self._entity.start_server(
            (self.options.host, self.options.port), block=False, evt_handlers=handlers
        )
        spool.use(self.port, self._folder, self._limits)  # another one where port 0 took a free port
        self._server.service_actions = self._noting(self._server.service_actions)
        self._service.start()

    def stop(self, grace: float = 10.0) -> None:
        """Stop listening, let objects on their way arrive for up to `grace` seconds, then close the associations."""
        if self._server is None:
            return
        ports = {self.options.port, self.port}
        self._server.shutdown()
        self._server = None
        deadline = time.monotonic() + grace
        while self._receiving() and time.monotonic() < deadline:
            time.sleep(0.02)
        self._service.stop(max(1.0, deadline - time.monotonic()))
        for association in self._entity.active_associations:
            association.abort()
        for port in ports:
            spool.leave(port, self._folder)

    def _noting(self, act: Callable[[], None]) -> Callable[[], None]:
        """Return what the loop calls at each turn: that it turned is noted too."""

        def note_and_act() -> None:
            self._turned_at = time.monotonic()
            act()

        return note_and_act

    def _receiving(self) -> bool:
        """Tell whether an object is arriving or being stored."""
        arriving = any(each.dimse.message is not None for each in self._entity.active_associations)
        return arriving or self._busy > 0

    def _build(self) -> AE:
        options = self.options
        entity = AE(options.ae_title)
        entity.maximum_associations = options.maximum_associations
        entity.maximum_pdu_size = options.maximum_pdu
        entity.network_timeout = options.network_timeout
        entity.dimse_timeout = options.network_timeout
        entity.require_called_aet = options.require_called
        entity.require_calling_aet = list(options.allowed_calling)
        entity.supported_contexts = supported()
        for each in self._commitment.contexts:  # one by one: a list loses their roles
            entity.add_supported_context(str(each.abstract_syntax), each.transfer_syntax, each.scu_role, each.scp_role)
        return entity

    def _on_requested(self, event: Any) -> None:
        """Take retired and private storage classes too: an auto-routing rule sends whole studies."""
        acceptor = event.assoc.acceptor
        supported_classes = {context.abstract_syntax for context in acceptor.supported_contexts}
        extra = []
        for proposed in event.assoc.requestor.primitive.presentation_context_definition_list:
            uid = UID(proposed.abstract_syntax)
            if uid not in supported_classes and _may_be_storage(uid):
                _register(uid)
                context = PresentationContext()
                context.abstract_syntax = uid
                context.transfer_syntax = list(ANY_SYNTAX)
                extra.append(context)
        if extra:
            acceptor.supported_contexts = [*acceptor.supported_contexts, *extra]

    def _on_store(self, event: Any) -> int | Dataset:
        file = spool.take(event)
        with self._busy_lock:
            self._busy += 1
        try:
            return _answer(self._receive(self._arrival(event, file)), file)
        finally:
            with self._busy_lock:
                self._busy -= 1
            file.discard()

    @staticmethod
    def _arrival(event: Any, file: spool.SpoolFile) -> Arrival:
        request, requestor = event.request, event.assoc.requestor
        return Arrival(
            file=file,
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            calling_ae=requestor.ae_title.strip(),
            called_ae=event.assoc.requestor.primitive.called_ae_title.strip(),
            peer_address=str(requestor.address),
            received_at=dt.datetime.now(dt.UTC),
            priority=int(request.Priority or 0),
        )


def _answer(code: int, file: spool.SpoolFile) -> int | Dataset:
    """Return a status, with a comment where it alone would mislead: `cannot understand` an object that is too large."""
    if not isinstance(file.error, ObjectTooLarge):
        return code
    answer = Dataset()
    answer.Status, answer.ErrorComment = code, str(file.error)[:64]  # PS3.4 B.2.3 names (0000,0902); LO, PS3.5 6.2
    return answer


def supported() -> list[PresentationContext]:
    """Return the presentation contexts that the node accepts; storage classes that are not among them come on top."""
    contexts = [build_context(Verification)]
    for context in AllStoragePresentationContexts:
        sop_class = str(context.abstract_syntax)
        syntaxes = READABLE_SYNTAXES if sop_class in RADIOGRAPHS else ANY_SYNTAX
        contexts.append(build_context(sop_class, list(syntaxes)))
    return contexts


def _may_be_storage(uid: UID) -> bool:
    name = UID_dictionary.get(uid, ("",))[0]
    if not name:  # private, or newer than our dictionary: only a storage class is proposed to a storage node
        return uid.is_valid
    return "Storage" in name and "Commitment" not in name


def _register(uid: UID) -> None:
    with _register_lock:
        register_uid(uid, "Extra_" + re.sub(r"\W", "_", uid), StorageServiceClass)


def _on_accepted(event: Any) -> None:
    """Guard the reactor: pynetdicom lets a malformed command kill its thread, and the slot with it."""
    serve_in_turn(event.assoc)
    provider = event.assoc.dimse
    original = provider.receive_primitive

    def guarded(primitive: Any) -> None:
        try:
            spool.check_turn(provider.message, primitive)
            original(primitive)
            message = provider.message
            if message is not None and _collected(message) > MAXIMUM_MESSAGE:
                raise OverflowError  # what is stored goes to the disk instead
        except Exception as error:  # noqa: BLE001 - whatever a hostile command does, the association ends cleanly
            log.warning("malformed_command", error=type(error).__name__)
            provider.message = None
            spool.drop_unfinished(event)
            provider.dul.event_queue.put("Evt19")  # PS3.8 9.2: unrecognised or invalid PDU, so abort

    provider.receive_primitive = guarded


def _collected(message: Any) -> int:
    """Return how many bytes of an unfinished message lie in memory."""
    return int(message.encoded_command_set.tell() + message.data_set.tell())
