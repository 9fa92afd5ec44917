"""Associations that peers open at our node: pynetdicom's server, with our upper layer and our way with messages."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog
from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from dicom_io.memory import MemoryBudget, Share
from dicom_io.network import spool
from dicom_io.network.admission import Admission
from dicom_io.network.ending import Cause, Ending
from dicom_io.network.messages import Messages
from dicom_io.network.status import CLASS_NOT_SUPPORTED, DATASET_MISMATCH
from dicom_io.network.tls import HandshakeFailed, accepted, say_goodbye
from dicom_io.network.upper_layer import RELEASED_IN_TRANSFER, PeerLimits, UpperLayer
from dicom_io.uids import MOST_CHARACTERS, digest

if TYPE_CHECKING:
    from pynetdicom.ae import ApplicationEntity

log = structlog.get_logger("cxrd.scp")
_BACKLOG = 128
_LAST_WORDS = 3.0
"""Seconds that the upper layer may take to end when its association has ended."""
_HALT = 2.0
"""Seconds of silence in the middle of an object after which our end waits for it no longer."""
_UNEXPECTED = ("AA-1", "AA-7", "AA-8")
"""Actions of PS3.8 table 9-9 that answer a PDU at the wrong moment."""
_RECEIPTS = {
    "Evt3": "A-ASSOCIATE-AC",
    "Evt4": "A-ASSOCIATE-RJ",
    "Evt6": "A-ASSOCIATE-RQ",
    "Evt10": "P-DATA-TF",
    "Evt12": "A-RELEASE-RQ",
    "Evt13": "A-RELEASE-RP",
}
"""Which PDU an event tells of (PS3.8 table 9-10)."""


class NodeAssociation(Association):
    """One association that a peer opened, or a connection that is not one yet.

    Attributes
    ----------
    ending
        The cause of its end.
    extra_classes
        Proposed SOP classes that pynetdicom does not know and we take for storage.
    share
        Memory for what is kept of the message that is being served.
    """

    dul: UpperLayer
    dimse: Messages

    def __init__(
        self,
        entity: ApplicationEntity,
        peer: str,
        limits: PeerLimits,
        admission: Admission,
        over: Callable[[Cause], None],
        memory: MemoryBudget,
    ) -> None:
        super().__init__(entity, MODE_ACCEPTOR)
        self.peer = peer
        self.ending = Ending(peer)
        self.dul = UpperLayer(self, limits, self.ending)
        self.dimse = Messages(self, memory.share())
        self.share: Share = memory.share()
        # A complete request must come in time; the upper layer sees to that, and pynetdicom's own clock only follows.
        self.acse_timeout = limits.association_timeout + 5
        self.network_timeout = limits.network_timeout
        self._admission = admission
        self._over = over
        self._is_serving = False
        self.extra_classes: list[Any] = []

    @property
    def stalled_for(self) -> float:
        """Seconds for which it did nothing; see `dicom_io.network.admission.Place`."""
        is_busy = self._is_serving or not self.dimse.msg_queue.empty() or not self.is_established
        return 0.0 if is_busy else self.dul.stalled_for

    @property
    def is_receiving(self) -> bool:
        """Whether an object is arriving, and has not come to a halt, or a message is being served."""
        is_arriving = self.dimse.message is not None and self.dul.quiet_for < _HALT
        return self._is_serving or is_arriving or not self.dimse.msg_queue.empty()

    def give_way(self, reason: str) -> None:
        """End it; see `dicom_io.network.admission.Place`."""
        self.dul.hang_up(Cause.CROWDED, reason)

    def take_place(self) -> str:
        """Become an association; return in words why there is no place, or nothing."""
        return self._admission.associate(self)

    def reject(self, result: int, source: int, diagnostic: int, reason: str) -> None:
        """Reject the request (PS3.8 9.3.4), from a handler for EVT_REQUESTED."""
        self.ending.note(Cause.REJECTED, reason)
        self.acse.send_reject(result, source, diagnostic)
        self.kill()
        self._server.rejected(self.ending.calling, self.peer, reason)  # type: ignore[union-attr]

    def leave(self) -> None:
        """Give the place back: a peer that released may come again at once."""
        self._admission.leave(self)

    def run_reactor(self) -> None:
        """Serve the association until its end, and tell of that."""
        try:
            super().run_reactor()
        except Exception as error:  # noqa: BLE001 - the border of the thread
            self.ending.note(Cause.FAULT, f"unexpected {type(error).__name__}")
            self.dul.hang_up(Cause.FAULT, "")
        finally:
            self._end_upper_layer()
            spool.drop_unfinished_of(self)
            self.dimse.let_go()
            self.leave()
            self._over(self.ending.tell())

    def _end_upper_layer(self) -> None:
        """Wait for the upper layer to end, and have the connection closed in any case."""
        if self.dul.is_alive():  # else it has ended, or there was no thread to be had for it
            self.dul.join(_LAST_WORDS)
        if self.dul.socket is not None:  # it sends and nobody reads, or it never began
            self.dul.socket._shutdown_socket()  # noqa: SLF001 - `close` is for its own thread
        if self.dul.is_alive():
            self.dul.join(_LAST_WORDS)

    def _serve_request(self, msg: Any, context_id: int) -> None:
        """Serve one message; where that ends the association, say which one it was."""
        kind = str(getattr(msg, "msg_type", type(msg).__name__)).replace("_", "-")
        self._is_serving = True
        try:
            with self.share, self.dimse.serving(msg):
                if self._is_foreign(msg):
                    self._refuse_class(msg, context_id)
                else:
                    super()._serve_request(msg, context_id)
        finally:
            self._is_serving = False
            self.dul.touch()
        if self._sent_abort:
            accepted = context_id in self._accepted_cx
            words = (
                "cannot be served" if accepted else f"came on presentation context {context_id}, which is not accepted"
            )
            self.ending.note(Cause.UNSERVED, f"{kind} {words}")

    def _is_foreign(self, message: Any) -> bool:
        """Tell whether an object is to be stored of a class that has no service: pynetdicom would abort."""
        uid = message.AffectedSOPClassUID if isinstance(message, C_STORE) and message.is_valid_request else None
        if uid is None or uid in self.acceptor.accepted_common_extended:
            return False
        return not issubclass(uid_to_service_class(uid), StorageServiceClass)

    def _refuse_class(self, message: Any, context_id: int) -> None:
        """Answer that there is no such class (PS3.7 9.1.1.1.9), and drop the object."""
        file = message._dataset_file  # noqa: SLF001 - pynetdicom offers the file under this name only
        spool.drop(self, file)
        is_uid = len(message.AffectedSOPClassUID) <= MOST_CHARACTERS
        status, reason = (CLASS_NOT_SUPPORTED, "its SOP class is none of storage")
        if not is_uid:
            status, reason = DATASET_MISMATCH, f"its SOP class UID is longer than {MOST_CHARACTERS} characters"
        facts = {"sop": digest(str(message.AffectedSOPInstanceUID)), "calling_ae": self.ending.calling}
        log.warning("refused", status=f"0x{status:04X}", reason=reason, bytes=file.size, **facts)
        answer = C_STORE()
        answer.MessageIDBeingRespondedTo = message.MessageID
        answer.AffectedSOPClassUID, answer.AffectedSOPInstanceUID = (
            message.AffectedSOPClassUID,
            message.AffectedSOPInstanceUID,
        )
        answer.Status = status
        self.dimse.send_msg(answer, context_id)


class Handshake:
    """A connection that waits for a TLS handshake; see `dicom_io.network.admission.Place`."""

    stalled_for = 0.0

    def __init__(self, peer: str, connection: socket.socket) -> None:
        self.peer = peer
        self.reason = ""
        self._descriptor = connection.fileno()

    def give_way(self, reason: str) -> None:
        """End it: its thread then finds the connection closed."""
        self.reason = reason
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._descriptor)) as connection:
            connection.shutdown(socket.SHUT_RDWR)


class NodeSocket(AssociationSocket):
    """A connection whose peer is told that TLS ends; it is closed also where the peer is gone already."""

    def _shutdown_socket(self) -> None:
        connection = self.socket
        if not isinstance(connection, ssl.SSLSocket):
            super()._shutdown_socket()
            return
        say_goodbye(connection)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            connection.close()


class NodeRequestHandler(RequestHandler):
    """Makes an association of a connection."""

    server: NodeServer
    _association: NodeAssociation | None = None

    def handle(self) -> None:
        """Begin an association; one that cannot begin, as where there are no threads left, takes no place."""
        if self.server.tls is not None and not self._secure(self.server.tls):
            return
        try:
            super().handle()
        except Exception:
            if self._association is not None:
                self._association.leave()
            raise

    def _secure(self, context: ssl.SSLContext) -> bool:
        """Do the TLS handshake, in this connection's own thread; return whether there is one."""
        server, ending = self.server, Ending(self.remote.address)
        handshake = Handshake(ending.peer, self.request)
        server.admission.connect(handshake)
        try:
            self.request = accepted(self.request, context, server.limits.association_timeout)
        except HandshakeFailed as error:
            reason = handshake.reason or str(error)
            cause = Cause.CROWDED if handshake.reason else Cause.INSECURE if reason else Cause.SILENT
            ending.note(cause, reason or "the peer closed the connection before a TLS handshake")
            server.over(ending.tell())
            if cause is Cause.INSECURE:
                server.rejected("", ending.peer, reason)
            return False
        finally:
            server.admission.leave(handshake)
        return True

    def _create_association(self) -> NodeAssociation:
        """Do as pynetdicom does, with classes of ours; presentation contexts are looked up when they are proposed."""
        server = self.server
        association = NodeAssociation(
            self.ae, self.remote.address, server.limits, server.admission, server.over, server.memory
        )
        association._server = server  # noqa: SLF001 - as pynetdicom's own does
        association.name = f"AcceptorThread@{self.remote.address}"  # pynetdicom tells its own by this name
        self.request.settimeout(server.limits.network_timeout)
        association.set_socket(NodeSocket(association, client_socket=self.request))
        association.acceptor.maximum_length = self.ae.maximum_pdu_size
        association.acceptor.ae_title = server.ae_title
        association.acceptor.address_info = self.local
        association.acceptor.implementation_class_uid = self.ae.implementation_class_uid
        association.acceptor.implementation_version_name = self.ae.implementation_version_name
        association.requestor.address_info = self.remote
        bound: dict[Any, Any] = server._handlers  # noqa: SLF001
        for event, handlers in bound.items():
            if event.is_intervention and handlers:
                association.bind(event, *handlers)
            elif isinstance(event, evt.NotificationEvent):
                for handler, arguments in handlers:
                    association.bind(event, handler, arguments)
        association.bind(evt.EVT_FSM_TRANSITION, _note_wrong_moment)
        association.bind(evt.EVT_RELEASED, _note_release)
        self._association = association
        server.admission.connect(association)
        return association


class NodeServer(ThreadedAssociationServer):
    """Listens, and hands each connection to a thread.

    Attributes
    ----------
    limits, admission, memory, over
        What each association gets; `over` is called with the cause of its end. Set before it serves.
    rejected
        Called with calling AE title, address and our reason, for each association that is rejected, and for each
        connection without a TLS handshake; the title is empty then.
    tls
        What it speaks TLS by; None for none. The handshake is done in the thread of its connection.
    """

    daemon_threads = True
    request_queue_size = _BACKLOG
    limits: PeerLimits
    admission: Admission
    memory: MemoryBudget
    over: Callable[[Cause], None]
    tls: ssl.SSLContext | None = None
    rejected: Callable[[str, str, str], None]

    def serve(self) -> None:
        """Accept connections, in a thread of its own, until `shutdown`."""
        threading.Thread(target=self.serve_forever, name="node-server", daemon=True).start()
        self.ae._servers.append(self)  # noqa: SLF001 - pynetdicom's shutdown takes it out of there

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Tell of a connection that no association could be made for; socketserver would print a traceback."""
        ending = Ending(str(client_address[0]))
        ending.note(Cause.FAULT, "no association could be made of the connection")
        self.over(ending.tell())


def _note_wrong_moment(event: Any) -> None:
    name = _RECEIPTS.get(event.fsm_event, event.fsm_event)
    if event.action in _UNEXPECTED and event.fsm_event not in ("Evt15", "Evt19"):
        event.assoc.ending.note(Cause.MALFORMED, f"{name} at the wrong moment (state {event.current_state})")
    elif event.action == "AE-6" and event.next_state == "Sta13":
        event.assoc.ending.note(Cause.REJECTED, "the peer's protocol version is not supported")


def _note_release(event: Any) -> None:
    event.assoc.leave()
    unfinished = event.assoc.dul.in_transfer
    event.assoc.ending.note(Cause.RELEASED, RELEASED_IN_TRANSFER if unfinished else "")
