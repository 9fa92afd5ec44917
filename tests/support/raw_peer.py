"""A peer that sends whatever bytes a test likes (PS3.8 9.3)."""

from __future__ import annotations

import socket
import struct
from typing import Self

CR = "1.2.840.10008.5.1.4.1.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
ABORT, ACCEPT, REJECT, DATA, RELEASED, CLOSED = 7, 2, 3, 4, 6, 0
RELEASE = struct.pack(">BBI", 5, 0, 4) + bytes(4)


def item(kind: int, value: bytes) -> bytes:
    """Return an item of an association request."""
    return struct.pack(">BBH", kind, 0, len(value)) + value


def pdu(kind: int, value: bytes, *, stated: int | None = None) -> bytes:
    """Return a PDU that states its length, or another one."""
    return struct.pack(">BBI", kind, 0, len(value) if stated is None else stated) + value


def request(
    calling: bytes = b"RAW",
    called: bytes = b"CXRD",
    *,
    sop_class: str = CR,
    user: bytes = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3"),
    further: bytes = b"",
    in_context: bytes = b"",
) -> bytes:
    """Return an A-ASSOCIATE-RQ for one presentation context, number 1."""
    syntaxes = item(0x30, sop_class.encode()) + item(0x40, EXPLICIT.encode())
    context = item(0x20, bytes([1, 0, 0, 0]) + in_context + syntaxes)
    head = struct.pack(">HH", 1, 0) + called.ljust(16) + calling.ljust(16) + bytes(32)
    return pdu(1, head + item(0x10, b"1.2.840.10008.3.1.1.1") + further + context + item(0x50, user))


def element(number: int, value: bytes) -> bytes:
    """Return an element of a command set."""
    value += bytes(len(value) % 2)
    return struct.pack("<HHI", 0, number, len(value)) + value


def store_command(sop_instance: bytes, *further: bytes, sop_class: str = CR) -> bytes:
    """Return the command set of a C-STORE with a data set to follow."""
    numbers = {0x100: 1, 0x110: 1, 0x700: 0, 0x800: 1}
    body = element(2, sop_class.encode()) + b"".join(element(at, struct.pack("<H", n)) for at, n in numbers.items())
    body += element(0x1000, sop_instance) + b"".join(further)
    return element(0, struct.pack("<I", len(body))) + body


def fragment(control: int, data: bytes, context_id: int = 1) -> bytes:
    """Return a P-DATA-TF PDU of one fragment; bit 0: of the command, bit 1: the last one (PS3.8 E.2)."""
    return pdu(4, struct.pack(">IBB", len(data) + 2, context_id, control) + data)


class RawPeer:
    """A connection with a node."""

    def __init__(self, port: int, *, address: str = "127.0.0.1", timeout: float = 20) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout, (address, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def answer(self) -> tuple[int, bytes]:
        """Return type and contents of the PDU that comes, or `CLOSED`."""
        try:
            head = self._receive(6)
            return head[0], self._receive(struct.unpack(">I", head[2:])[0])
        except (ConnectionError, EOFError):
            return CLOSED, b""

    def associate(self, data: bytes = b"") -> int:
        """Send a request, and return the type of the answer."""
        self.send(data or request())
        return self.answer()[0]

    def status(self) -> int:
        """Return the status of the answer to a C-STORE."""
        kind, body = self.answer()
        assert kind == DATA, kind
        at = body.index(struct.pack("<HHI", 0, 0x900, 2)) + 8
        return int(struct.unpack_from("<H", body, at)[0])

    def _receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data
