"""The upper layer of an association that a peer opened (PS3.8): pynetdicom's, with limits on what a peer may cost us.

pynetdicom reads a PDU in one go, however long it says it is and however long it takes, and meanwhile does nothing else.
Here it is read as it comes: its length is checked before room is made for it, the peer must send at a certain rate, and
we can end the association at any moment. Each end gets its cause.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import A_ABORT_RQ
from pynetdicom.pdu_primitives import A_P_ABORT

from dicom_io.network.association_request import MOST_BYTES, MalformedRequest, read_request, titles
from dicom_io.network.ending import Cause, Ending
from dicom_io.network.pace import Pace
from dicom_io.network.tls import received, say_goodbye

if TYPE_CHECKING:
    from pynetdicom.association import Association

SLACK = 524_288
"""Bytes by which a P-DATA-TF PDU may exceed the length that we stated: some senders take no notice of it."""
MOST_QUEUED = 16
"""Messages that a peer may send ahead of our answers; then we read no further until one is answered."""
LINGER = 1.0
"""Seconds that a peer may take to close the connection when the association has ended (PS3.8 9.1.4)."""
_CHUNK = 1 << 18
_REQUEST, _ACCEPT, _DATA, _ABORT = 1, 2, 4, 7
_NAMES = {
    _REQUEST: "A-ASSOCIATE-RQ",
    _ACCEPT: "A-ASSOCIATE-AC",
    3: "A-ASSOCIATE-RJ",
    _DATA: "P-DATA-TF",
    5: "A-RELEASE-RQ",
    6: "A-RELEASE-RP",
    _ABORT: "A-ABORT",
}
_SHORT = 1024
"""Bytes of all other PDUs; they have four."""
_FOREIGN = {
    0x16: "a TLS handshake; this port speaks DICOM without TLS",
    0x47: "an HTTP request",
    0x50: "an HTTP request",
}
_UNSPECIFIED, _UNRECOGNISED, _INVALID = 0, 1, 6
"""Reasons of A-ABORT (PS3.8 9.3.8)."""
_OPEN, _RELEASING, _CLOSING = "Sta2", "Sta8", "Sta13"
"""States of PS3.8 table 9-10: no A-ASSOCIATE-RQ yet, release requested, waiting for the connection to close."""
RELEASED_IN_TRANSFER = "the peer released in the middle of an object"


@dataclass(frozen=True)
class PeerLimits:
    """What a peer may cost us.

    Attributes
    ----------
    maximum_pdu
        Bytes of a P-DATA-TF PDU, as we state it.
    association_timeout
        Seconds from the connection to a complete A-ASSOCIATE-RQ.
    network_timeout
        Seconds without a byte on an association; the period over which `least_rate` is measured, too.
    least_rate
        Bytes a second in the middle of a PDU or of a message.
    """

    maximum_pdu: int
    association_timeout: float
    network_timeout: float
    least_rate: float


class UpperLayer(DULServiceProvider):
    """Reads and sends the PDUs of one association, in a thread of its own.

    Parameters
    ----------
    ending
        Is told the cause of an end, and the AE titles once they are known.
    """

    def __init__(self, association: Association, limits: PeerLimits, ending: Ending) -> None:
        super().__init__(association)
        self.daemon = True  # an unforeseen hang must not keep the process
        self._limits = limits
        self._ending = ending
        self._incoming = bytearray()
        self._pace = Pace(limits.least_rate, limits.network_timeout)
        self._opened_at = time.monotonic()
        self._quiet_since: float | None = None
        """When we began to wait for the peer; None where it is for us to act."""
        self._closing_at: float | None = None
        self._verdict: tuple[Cause, str] | None = None

    # ---- asked by other threads --------------------------------------------------------------------------------------

    def hang_up(self, cause: Cause, reason: str) -> None:
        """End the association at the next turn of the loop, by A-ABORT."""
        self._verdict = (cause, reason)

    @property
    def in_transfer(self) -> bool:
        """Whether a PDU or a message has begun and not ended."""
        return bool(self._incoming) or self.assoc.dimse.message is not None

    @property
    def stalled_for(self) -> float:
        """Seconds since anything came or went; in the middle of a transfer, seconds for which it was too slow."""
        if self.in_transfer:
            return self._pace.waited if self._pace.is_slow() else 0.0
        return self.quiet_for

    @property
    def quiet_for(self) -> float:
        """Seconds for which we have waited for the peer; 0 where it is for us to act."""
        since = self._quiet_since
        return 0.0 if since is None else time.monotonic() - since

    def idle_timer_expired(self) -> bool:
        """Tell pynetdicom, which aborts then, whether we have waited for the peer for too long."""
        if self.quiet_for < self._limits.network_timeout:
            return False
        where = ", in the middle of an object" if self.in_transfer else ""
        self._ending.note(Cause.IDLE, f"nothing came for {self._limits.network_timeout:g} s{where}")
        return True

    def touch(self) -> None:
        """Count what we did for the peer as life: its silence meanwhile is no fault."""
        self._quiet_since = None

    # ---- the loop ----------------------------------------------------------------------------------------------------

    def run_reactor(self) -> None:
        """Run the loop until the connection is closed; no error of it goes further."""
        try:
            super().run_reactor()
        except Exception as error:  # noqa: BLE001 - the border of the thread: pynetdicom's states have gaps
            self._ending.note(Cause.MALFORMED, f"a PDU that nothing can be done about ({type(error).__name__})")
            self._tell_of_abort(_UNSPECIFIED)
        finally:
            self._close()
            self.to_user_queue.put(None)  # who waits for a request must not wait longer

    def _process_recv_primitive(self) -> bool:
        """Send nothing more once the association has ended: pynetdicom's states know no way there."""
        if self.state_machine.current_state == _CLOSING:
            while not self.to_provider_queue.empty():
                self.to_provider_queue.get(block=False)
            return False
        return super()._process_recv_primitive()

    def _is_transport_event(self) -> bool:
        """Stand in for pynetdicom's blocking read; return whether anything came."""
        if self.socket is None or self.socket.socket is None:
            return False
        if self.state_machine.current_state == _CLOSING:
            return self._linger()
        if not self.event_queue.empty():  # what comes next must find the state that follows from it
            return False
        if self._verdict is not None:
            cause, reason = self._verdict
            self._end(cause, reason, _UNSPECIFIED)
            return False
        if self.assoc.dimse.msg_queue.qsize() >= MOST_QUEUED:
            self._pace.busy(time.monotonic())
            self.touch()
            return False
        return self._read()

    def _read(self) -> bool:
        came = 0
        while (wrapper := self.socket) is not None and wrapper.ready and wrapper.socket is not None:
            left = self._missing()
            try:
                data = received(wrapper.socket, min(left, _CHUNK))
            except TimeoutError:
                break
            except OSError as error:
                self._lose(error.strerror or type(error).__name__)
                return False
            if not data:
                self._lose("the peer closed the connection")
                return False
            self._incoming += data
            self._pace.came(len(data))
            came += len(data)
            if len(data) == left and (len(self._incoming) > 6 or not self._check_header()):
                self._take()
                return True
            if self.state_machine.current_state == _CLOSING:
                return True
        moment = time.monotonic()
        if came:
            self.touch()
        elif self._quiet_since is None:
            self._quiet_since = moment
        self._check_time(moment)
        return came > 0

    def _missing(self) -> int:
        """Return the bytes that the header, or the PDU, lacks."""
        have = len(self._incoming)
        return 6 - have if have < 6 else 6 + self._stated() - have

    def _stated(self) -> int:
        return int(struct.unpack_from(">I", self._incoming, 2)[0])

    def _check_header(self) -> bool:
        """Check type and length before anything is read; return whether there is anything to read."""
        kind, length = self._incoming[0], self._stated()
        if kind not in _NAMES:
            what = _FOREIGN.get(kind, f"a PDU of the unknown type 0x{kind:02X}")
            self._end(Cause.MALFORMED, what, _UNRECOGNISED)
            return True
        most = self._limits.maximum_pdu + SLACK if kind == _DATA else MOST_BYTES if kind <= _ACCEPT else _SHORT
        if length > most:
            self._end(Cause.OVERSIZED, f"{_NAMES[kind]} of {length} bytes; at most {most} are taken", _INVALID)
            return True
        return length > 0

    def _take(self) -> None:
        """Decode a complete PDU, and have it acted upon."""
        raw, self._incoming = self._incoming, bytearray()
        self.touch()
        try:
            if raw[0] == _REQUEST:
                if self.state_machine.current_state == _OPEN:  # what cannot be read for the rest has them too
                    self._ending.calling, self._ending.called = titles(bytes(raw))
                request = read_request(bytes(raw))
                raw = bytearray(request.pdu)
            pdu, event = self._decode_pdu(raw)
        except MalformedRequest as error:
            self._end(Cause.MALFORMED, str(error), _INVALID)
            return
        except Exception as error:  # noqa: BLE001 - what a hostile PDU can make the decoder raise has no end
            name = _NAMES[raw[0]]
            self._end(Cause.MALFORMED, f"{name} that cannot be read ({type(error).__name__})", _INVALID)
            return
        if raw[0] == _ABORT:
            self._ending.note(Cause.ABORTED, f"the peer aborted ({_abort_words(pdu)})")
        self._recv_pdu.put(pdu)
        self.event_queue.put(event)

    def _check_time(self, moment: float) -> None:
        """End what takes too long."""
        state = self.state_machine.current_state
        if state == _OPEN:
            most = self._limits.association_timeout
            if moment - self._opened_at > most:
                have = len(self._incoming)
                words = f"{have} bytes of an A-ASSOCIATE-RQ" if have else "no A-ASSOCIATE-RQ"
                self._end(Cause.LATE, f"{words} within {most:g} s")
        elif not self.in_transfer:
            self._pace.rest()
        elif self._pace.wait(moment):
            words = f"{self._pace.count} bytes in {self._pace.period:g} s, in the middle of an object"
            self._end(Cause.SLOW, words, _UNSPECIFIED)

    def _send(self, pdu: Any) -> None:
        self.touch()
        super()._send(pdu)

    # ---- ends --------------------------------------------------------------------------------------------------------

    def _end(self, cause: Cause, reason: str, diagnostic: int | None = None) -> None:
        """End the association by A-ABORT, or by closing the connection alone, as action AA-8 does (PS3.8 table 9-9)."""
        self._ending.note(cause, reason)
        self._incoming.clear()
        if diagnostic is not None:
            self._tell_of_abort(diagnostic)
        if self.state_machine.current_state != _OPEN:
            primitive = A_P_ABORT()
            primitive.provider_reason = diagnostic or _UNSPECIFIED
            self.to_user_queue.put(primitive)
            self.assoc.dimse.msg_queue.put((None, None))
        self.artim_timer.restart()
        self.state_machine.transition(_CLOSING)

    def _tell_of_abort(self, diagnostic: int) -> None:
        pdu = A_ABORT_RQ()
        pdu.source, pdu.reason_diagnostic = 2, diagnostic
        if self.socket is not None and self.socket.socket is not None:
            self._send(pdu)

    def _lose(self, reason: str) -> None:
        """Note that the connection is gone, and where in the talk."""
        have, state = len(self._incoming), self.state_machine.current_state
        if state == _OPEN:
            cause = Cause.LOST if have else Cause.SILENT
            words = f"{reason} after {have} bytes, before A-ASSOCIATE-RQ"
        elif state == _RELEASING:  # it did not wait for our answer
            cause, words = Cause.RELEASED, RELEASED_IN_TRANSFER if self.in_transfer else ""
        else:
            where = ", in the middle of an object" if self.in_transfer else " without a release"
            cause, words = Cause.LOST, reason + where
        self._ending.note(cause, words)
        self.event_queue.put("Evt17")

    def _linger(self) -> bool:
        """Let the peer read our last words: a connection that is closed while data waits unread takes them with it."""
        connection = self.socket.socket if self.socket is not None else None
        if self.socket is None or connection is None:
            return False
        moment = time.monotonic()
        try:
            if self._closing_at is None:
                self._closing_at = moment
                say_goodbye(connection)
                connection.shutdown(socket.SHUT_WR)
            is_open = moment - self._closing_at < LINGER
            while is_open and self.socket.ready:
                is_open = bool(connection.recv(_CHUNK)) and time.monotonic() - self._closing_at < LINGER
        except OSError:
            is_open = False
        if not is_open:
            self.socket.close()
        return False

    def _close(self) -> None:
        if self.socket is not None and self.socket.socket is not None:
            self.socket.close()
        self.artim_timer.stop()


def _abort_words(pdu: Any) -> str:
    source = {0: "the user's wish", 2: "its upper layer"}.get(pdu.source, f"source {pdu.source}")
    return f"{source}, reason {pdu.reason_diagnostic}" if pdu.source else source
