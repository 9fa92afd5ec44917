"""Delivers HL7 v2 messages over MLLP (HL7 v2 Transport Specification, release 1), with or without TLS."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dicom_io.errors import AssociationLost, Declined, NotNow, PeerUnavailable
from dicom_io.network.storage_scu import CONNECT
from dicom_io.network.tls import secured
from worker.deliver.hl7_message import escaped

_START, _END = b"\x0b", b"\x1c"
_MOST = 1 << 16
"""Bytes of an acknowledgement, at most."""
# HL7 table 0357. What the receiver does not speak is refused by AR too (2.5.1, 2.9.2.2), and will not pass later ...
_NEVER = {"200", "201", "202", "203"}  # unsupported message type, event code, processing id, version id
# ... and what has nothing to do with the message's content may come as AE.
_PASSING = {"206", "207"}  # application record locked, application internal error
_CODES = _NEVER | _PASSING | {"100", "101", "102", "103", "104", "204", "205"}


@dataclass(frozen=True)
class Hl7Peer:
    """A receiver: its address, how it wants to be called (MSH-5, MSH-6), how long we wait (seconds), and TLS if any."""

    host: str
    port: int
    application: str = ""
    facility: str = ""
    timeout: float = 30.0
    tls: ssl.SSLContext | None = field(default=None, repr=False)


class Hl7Connection:
    """Sends messages on one connection, which is made when it is needed."""

    def __init__(self, peer: Hl7Peer) -> None:
        self._peer = peer
        self._socket: socket.socket | None = None

    def send(self, message: bytes) -> str:
        """Send one message and return its acknowledgement code: AA or CA.

        Raises
        ------
        Declined
            The receiver will never take this message (AE, CE, or an AR for what it does not speak).
        NotNow
            It does not take it now (AR, CR, or an error that passes), or answers with anything but an acknowledgement
            of this message. It may have taken it: it is sent again under the same Message Control ID.
        AssociationLost
            It breaks off, or does not answer in time. It may have taken the message, as above.
        PeerUnavailable
            It cannot be reached, or does not speak MLLP.
        """
        routed = addressed(message, self._peer)
        try:
            answer = self._exchange(routed)
            return judged(answer, _field(routed.decode("utf-8", "replace"), "MSH", 10))
        except (PeerUnavailable, NotNow):
            self.close()  # whatever else comes on this connection belongs to another message
            raise

    def open(self) -> None:
        """Connect, where there is no connection that can be used.

        Raises
        ------
        PeerUnavailable
            The receiver cannot be reached, or its certificate does not hold.
        """
        if self._socket is not None and not _silent(self._socket):
            self.close()  # the receiver has closed it, as many do after each message, or has said more than it should
        if self._socket is None:
            peer = self._peer
            try:
                connection = socket.create_connection((peer.host, peer.port), timeout=min(peer.timeout, CONNECT))
            except OSError as error:
                raise PeerUnavailable(f"the HL7 receiver cannot be reached ({type(error).__name__})") from error
            self._socket = secured(connection, peer.host, peer.tls, "the HL7 receiver") if peer.tls else connection

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            with contextlib.suppress(OSError, ValueError):
                if isinstance(self._socket, ssl.SSLSocket):
                    self._socket.setblocking(False)
                    self._socket.unwrap()  # says goodbye, and does not wait for an answer
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None

    def _exchange(self, message: bytes) -> str:
        self.open()
        assert self._socket is not None  # noqa: S101 - `open` has seen to it
        until = time.monotonic() + self._peer.timeout
        frame = bytearray()
        try:
            self._socket.settimeout(self._peer.timeout)
            self._socket.sendall(_START + message + _END + b"\r")
            while _END not in frame:
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self._socket.settimeout(left)
                piece = self._socket.recv(4096)
                if not piece:
                    raise AssociationLost("the HL7 receiver closes the connection without an answer")
                frame += piece
                # The end of an earlier frame may still have been on its way.
                if (not frame.lstrip(b"\r\n").startswith(_START) and frame.strip(b"\r\n")) or len(frame) > _MOST:
                    raise PeerUnavailable("what answers there does not speak MLLP")
        except TimeoutError as error:
            raise AssociationLost("the HL7 receiver does not answer in time") from error
        except OSError as error:
            # An alert says what TLS lacks, such as a certificate of ours, as late as here.
            name = getattr(error, "reason", None) or type(error).__name__
            raise AssociationLost(f"the connection to the HL7 receiver was lost ({name})") from error
        answer, _, rest = bytes(frame).partition(_START)[2].partition(_END)
        if rest.strip(b"\r\n"):
            self.close()  # more than one answer: the next must not be taken for that of the next message
        return answer.decode("utf-8", "replace")


def _silent(connection: socket.socket) -> bool:
    """Tell whether a connection is open and nothing has come on it; session tickets of TLS 1.3 are nothing."""
    try:
        connection.setblocking(False)
        connection.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        pass
    return False


@contextmanager
def connect(peer: Hl7Peer) -> Iterator[Hl7Connection]:
    """Open what sends to a receiver, and close it at the end."""
    connection = Hl7Connection(peer)
    try:
        yield connection
    finally:
        connection.close()


def addressed(message: bytes, peer: Hl7Peer) -> bytes:
    """Return a message with the receiver's names in MSH-5 and MSH-6: one message serves several destinations."""
    header, end, rest = message.partition(b"\r")
    fields = header.split(b"|")
    fields[4:6] = [escaped(name).encode() for name in (peer.application, peer.facility)]
    return b"|".join(fields) + end + rest


def judged(answer: str, control: str) -> str:
    """Return the code of an acknowledgement that says that the message with this control ID was taken.

    AE (and CE) says that the message is wrong, which repeating does not cure; AR (and CR) that it was rejected for a
    reason that has nothing to do with its content, which may pass (HL7 2.5.1, 2.9.2.2). The error codes of table 0357
    overrule both where they know better.

    Raises
    ------
    Declined, NotNow
        As `Hl7Connection.send` tells.
    """
    code = _field(answer, "MSA", 1)
    about = _field(answer, "MSA", 2)
    negative = code in ("AE", "AR", "CE", "CR")
    # Who could not read a message does not know its control ID.
    if (code not in ("AA", "CA") and not negative) or (about != control and (about or not negative)):
        raise NotNow("the HL7 receiver does not acknowledge this message")
    if not negative:
        return code
    errors = _errors(answer)
    why = f"the HL7 receiver answers {code}{''.join(f', error {each}' for each in sorted(errors))}"
    if errors & _NEVER or (code in ("AE", "CE") and not errors & _PASSING):
        raise Declined(why)
    raise NotNow(why)


def _errors(answer: str) -> set[str]:
    """Return the error codes that we know: of ERR-3 (from 2.5 on), ERR-1 and MSA-6 (before). Others might be text."""
    codes = set()
    for segment in _segments(answer):
        fields = segment.split("|")
        if fields[0] == "ERR":
            codes.update(fields[3].split("^")[:1] if len(fields) > 3 else [])
            codes.update(part for part in re.split(r"[\^&]", fields[1]) if len(fields) > 1)
        elif fields[0] == "MSA" and len(fields) > 6:
            codes.update(fields[6].split("^")[:1])
    return codes & _CODES


def _segments(text: str) -> list[str]:
    """Return a message's segments, with | between the fields, whatever the sender has there (MSH-1)."""
    segments = [each for each in re.split(r"[\r\n]+", text) if each]
    separator = segments[0][3:4] if segments and segments[0].startswith("MSH") else ""
    return [each.replace(separator, "|") for each in segments] if separator else []


def _field(text: str, segment: str, number: int) -> str:
    """Return a field of the first such segment, or an empty text."""
    for each in _segments(text):
        fields = each.split("|")
        if fields[0] == segment:
            at = number - 1 if segment == "MSH" else number  # MSH-1 is the separator itself
            return fields[at].strip() if at < len(fields) else ""
    return ""
