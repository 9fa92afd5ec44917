"""The storage node: Verification and Storage SCP (PS3.4 A and B), one callback an object, never a decode on the way.

Where it is given what for, it takes part in storage commitment too (PS3.4 J): see `commitment_scp`.
"""

from __future__ import annotations

import copy
import datetime as dt
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID, AllTransferSyntaxes, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom import _config as pynetdicom_config
from pynetdicom.pdu_primitives import SOPClassCommonExtendedNegotiation
from pynetdicom.presentation import AllStoragePresentationContexts, PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from dicom_io.errors import ObjectCutShort, ObjectTooLarge
from dicom_io.memory import MemoryBudget, Share, unbounded
from dicom_io.network import spool, status
from dicom_io.network.admission import Admission, most_of_one_peer
from dicom_io.network.callers import Titles, fault_of
from dicom_io.network.certificates import days_left
from dicom_io.network.commands import answer_long_uids
from dicom_io.network.commitment_scp import Commitment, CommitmentService
from dicom_io.network.ending import Cause
from dicom_io.network.nagle import send_at_once
from dicom_io.network.node_options import NodeOptions
from dicom_io.network.node_server import NodeAssociation, NodeRequestHandler, NodeServer
from dicom_io.network.operations import serve_in_turn
from dicom_io.network.spool_file import Limits, SpoolFile, remove_leftovers
from dicom_io.network.tls import server_context

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
STORAGE_SERVICE = "1.2.840.10008.4.2"
"""The service class of storage (PS3.6 A)."""
_NO_LIMIT = 1_000_000
_LAST_WORDS = 3.0
"""Seconds that associations may take to end when the node stops."""
_LIMIT_EXCEEDED = (2, 3, 2)
"""Result, source and reason of a rejection (PS3.8 table 9-21)."""


@dataclass(frozen=True)
class Arrival:
    """One object as it came off the network, its bytes already on disk but not yet made durable."""

    file: SpoolFile
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae: str
    called_ae: str
    peer_address: str
    received_at: dt.datetime
    priority: int = 0
    """(0000,0700) Priority of the request: 0 medium, 1 high, 2 low (PS3.7 E.1)."""
    share: Share = field(default_factory=unbounded, compare=False)
    """Memory for what is read of it; given back when it was answered."""


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
    over
        Called with the cause of each association's end, in its thread.
    rejected
        Called with calling AE title, address and our reason, for each association that is rejected; with an empty title
        for each TLS handshake that fails.
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
        over: Callable[[Cause], None] = lambda _: None,
        rejected: Callable[[str, str, str], None] = lambda *_: None,
    ) -> None:
        self.options = options
        self._over, self._rejected = over, rejected
        self._folder = folder
        self._receive = receive
        self._limits = Limits(options.max_object_mb, check_space, options.max_objects or None)
        self._memory = MemoryBudget(options.max_memory_mb * 1_000_000)
        self._commitment = commitment or Commitment()
        self._service = CommitmentService(self._commitment)
        self._servers: list[Any] = []
        self._entity = self._build()
        self._contexts = {str(each.abstract_syntax): each for each in self._entity.supported_contexts}
        self._calling = Titles(options.allowed_calling, options.networks)
        self._called = Titles(options.allowed_called, options.called_networks)
        self._turned_at = {0: time.monotonic()}

    @property
    def port(self) -> int:
        """The port that the node listens on, once started."""
        return int(self._servers[0].server_address[1])

    @property
    def tls_port(self) -> int | None:
        """The port where it speaks TLS, once started; it may be the same."""
        return next((int(each.server_address[1]) for each in self._servers if each.tls is not None), None)

    @property
    def silent_for(self) -> float:
        """Seconds since a loop that accepts connections last turned; it turns twice a second."""
        return time.monotonic() - min(self._turned_at.values())

    def start(self) -> None:
        """Begin to listen.

        Raises
        ------
        OSError
            When the address cannot be bound.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self._folder)
        answer_long_uids()
        handlers: list[Any] = [
            (evt.EVT_C_ECHO, lambda _event: status.SUCCESS),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_CONN_OPEN, send_at_once),
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_SOP_COMMON, _services_of_extra),
            (evt.EVT_ACCEPTED, lambda event: serve_in_turn(event.assoc)),
            (evt.EVT_CONN_CLOSE, spool.drop_unfinished),
            *self._service.handlers,
        ]
        places = self._places()
        try:
            for number, (port, context) in enumerate(self._listeners()):
                self._servers.append(self._listen_at(number, port, context, handlers, places))
        except OSError:
            for each in self._servers:
                each.server_close()
            self._servers = []
            raise
        for each in self._servers:
            each.serve()
        self._service.start()

    def _listeners(self) -> list[tuple[int, ssl.SSLContext | None]]:
        """Return where to listen, and by what TLS is spoken there."""
        options = self.options
        if options.tls is None:
            return [(options.port, None)]
        secure = (options.tls.port, server_context(options.tls))
        return [secure] if options.tls.port == options.port != 0 else [(options.port, None), secure]

    def renew_certificate(self) -> float | None:
        """Take our certificate and its key from their files again, for connections from now on; others go on.

        Returns
        -------
        float or None
            For how many days it holds; None where no TLS is spoken.

        Raises
        ------
        InvalidSettings
            A file cannot be used; the certificate of before still serves.
        """
        if self.options.tls is None:
            return None
        context = server_context(self.options.tls)
        for each in self._servers:
            if each.tls is not None:
                each.tls = context
        return days_left(self.options.tls.certificate, dt.datetime.now(dt.UTC))

    def _listen_at(self, number: int, port: int, tls: ssl.SSLContext | None, handlers: Any, places: Admission) -> Any:
        """Return what listens at a port, and does not serve yet."""
        spool.use(port, self._folder, self._limits)
        server: Any = self._entity.make_server(
            (self.options.host, port),
            evt_handlers=handlers,
            server_class=NodeServer,
            request_handler=NodeRequestHandler,
        )
        spool.use(int(server.server_address[1]), self._folder, self._limits)  # another one where port 0 took a free one
        server.limits, server.admission, server.over, server.tls = self.options.limits, places, self._over, tls
        server.rejected, server.memory = self._rejected, self._memory
        server.service_actions = self._noting(number, server.service_actions)
        return server

    def stop(self, grace: float = 10.0) -> None:
        """Stop listening, let objects on their way arrive for up to `grace` seconds, then close the associations."""
        if not self._servers:
            return
        ports = {self.options.port, *(int(each.server_address[1]) for each in self._servers)}
        for each in self._servers:
            each.shutdown()
        deadline = time.monotonic() + grace
        while any(each.is_receiving for each in self._associations) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._service.stop(max(1.0, deadline - time.monotonic()))
        self._end_associations()
        self._servers = []
        for port in ports:
            spool.leave(port, self._folder)

    def _places(self) -> Admission:
        most = self.options.maximum_associations
        return Admission(most, most_of_one_peer(most, self.options.associations_per_peer))

    def _end_associations(self) -> None:
        """End all that is still connected, whatever its peer does."""
        deadline = time.monotonic() + _LAST_WORDS
        associations = self._associations
        for each in associations:
            each.dul.hang_up(Cause.STOPPED, "this node is stopping")
        for each in associations:
            each.join(max(0.0, deadline - time.monotonic()))

    @property
    def _associations(self) -> list[NodeAssociation]:
        """What is connected with the node."""
        active = self._entity.active_associations
        return [each for each in active if isinstance(each, NodeAssociation) and each._server in self._servers]  # noqa: SLF001

    def _noting(self, number: int, act: Callable[[], None]) -> Callable[[], None]:
        """Return what a loop calls at each turn: that it turned is noted too."""

        def note_and_act() -> None:
            self._turned_at[number] = time.monotonic()
            act()

        self._turned_at[number] = time.monotonic()

        return note_and_act

    def _build(self) -> AE:
        options = self.options
        entity = AE(options.ae_title)
        entity.maximum_pdu_size = options.maximum_pdu
        entity.network_timeout = options.network_timeout
        entity.dimse_timeout = options.network_timeout
        entity.maximum_associations = _NO_LIMIT  # `Admission` counts them, without connections that are none yet
        entity.supported_contexts = supported()
        for each in self._commitment.contexts:  # one by one: a list loses their roles
            entity.add_supported_context(str(each.abstract_syntax), each.transfer_syntax, each.scu_role, each.scp_role)
        return entity

    def _on_requested(self, event: Any) -> None:
        """Reject who does not belong here or finds no place; else look up what we accept of what is proposed."""
        association = event.assoc
        fault = fault_of(association.ending, self._calling, self._called)
        if fault is not None:
            association.reject(*fault)
        elif no_place := association.take_place():
            association.reject(*_LIMIT_EXCEEDED, no_place)
        else:
            self._look_up_contexts(association)

    def _look_up_contexts(self, association: Any) -> None:
        """Offer what is proposed and known; retired and private classes of storage too: rules send whole studies."""
        contexts, extra = [], []
        proposed = association.requestor.primitive.presentation_context_definition_list
        for uid in dict.fromkeys(UID(each.abstract_syntax) for each in proposed):
            if uid in self._contexts:
                contexts.append(copy.deepcopy(self._contexts[uid]))
            elif _may_be_storage(uid):
                extra.append(uid)
                contexts.append(build_context(uid, list(ANY_SYNTAX)))
        association.acceptor.supported_contexts = contexts
        association.extra_classes = extra

    def _on_store(self, event: Any) -> int | Dataset:
        file = spool.take(event)
        try:
            return _answer(self._receive(self._arrival(event, file)), file)
        finally:
            file.discard()

    @staticmethod
    def _arrival(event: Any, file: SpoolFile) -> Arrival:
        request, ending = event.request, event.assoc.ending
        return Arrival(
            file=file,
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            calling_ae=ending.calling,
            called_ae=ending.called,
            peer_address=ending.peer,
            received_at=dt.datetime.now(dt.UTC),
            priority=int(request.Priority or 0),
            share=event.assoc.share,
        )


def _answer(code: int, file: SpoolFile) -> int | Dataset:
    """Return a status, with a comment where it alone would mislead: an object that is too large, or cut short."""
    if not isinstance(file.error, ObjectTooLarge | ObjectCutShort):
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


def _services_of_extra(event: Any) -> dict[UID, SOPClassCommonExtendedNegotiation]:
    """Tell pynetdicom that classes which it does not know are of storage, for this association alone."""
    services = {}
    for uid in event.assoc.extra_classes:
        services[uid] = SOPClassCommonExtendedNegotiation()
        services[uid].sop_class_uid, services[uid].service_class_uid = uid, STORAGE_SERVICE
    return services
