"""The harness on what DICOM nodes answer us: to C-ECHO, C-STORE, C-FIND, C-GET and requests for storage commitment."""

from __future__ import annotations

import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from dicom_io.errors import CxrdError
from dicom_io.header.reading import read_arrived
from dicom_io.network import spool, status
from dicom_io.network.commitment_messages import PUSH_MODEL, Request
from dicom_io.network.query_retrieve import Get, Move, Query, Receipt, Series, archive
from dicom_io.network.spool_file import Limits
from dicom_io.network.storage_commitment import request_commitment
from dicom_io.network.storage_scp import Arrival
from dicom_io.network.storage_scu import Peer, echo, storage_association
from tests.fuzz.harness import Fault, promised
from tests.fuzz.listener import Listener
from tests.fuzz.samples import data_set, file_of, names
from tests.fuzz.sessions import (
    acceptance,
    command,
    commitment_report,
    commitment_set,
    damaged_session,
    message,
    number,
    packed,
    uid,
    unpacked,
)
from tests.support.commitment import references
from tests.support.raw_peer import item, pdu, store_command

_EXPLICIT, _IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
_VERIFICATION = "1.2.840.10008.1.1"
_FIND, _GET = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.3"
_DATA = 4
_NO_DATA = number(0x800, 0x0101)
_RELEASED = pdu(6, bytes(4))
_SECONDS = 5.0
_HEARS = 0.2
"""Seconds that the node waits for what its turn comes after; then it hangs up."""
_KINDS = ("echo", "store", "find", "get", "commitment")


class AnsweringNode(Listener):
    """A node that says the next of its turns when it has got a whole message, and hangs up after the last."""

    def __init__(self) -> None:
        self.turns: list[bytes] = []
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        """Say the turns."""
        connection.settimeout(_HEARS)
        for turn in self.turns:
            self._hear(connection)
            connection.sendall(turn)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass

    @staticmethod
    def _hear(connection: socket.socket) -> None:
        """Read PDUs until a message is whole."""
        with connection.makefile("rb", buffering=0) as stream:
            while True:
                head = _exactly(stream.read, 6)
                kind, body = head[0], _exactly(stream.read, struct.unpack(">I", head[2:])[0])
                if kind != _DATA or body[5] & 3 == 2 or (body[5] & 3 == 3 and _NO_DATA in body):
                    return


def _exactly(read: object, count: int) -> bytes:
    data = b""
    while len(data) < count:
        assert callable(read)
        more = read(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


class AnsweringNodes:
    """What nodes answer us."""

    bound_mb = 60.0
    children = 0

    def __init__(self) -> None:
        self._node = AnsweringNode()
        self._folder = tempfile.TemporaryDirectory(dir=Path.cwd().parent)
        self._path = Path(self._folder.name, "object.dcm")
        self._path.write_bytes(file_of(data_set(16, 16)))
        self._peer = Peer("127.0.0.1", self._node.port, "NODE", "CXRD", timeout=_SECONDS)
        spool.use(0, Path(self._folder.name))  # as in the receiver's process: objects are streamed to files
        self._threads = threading.active_count()

    def case(self, chance: Random) -> bytes:
        """Return what is asked, and the turns of a node that answers."""
        kind = chance.randrange(len(_KINDS))
        turns = list(_answers(_KINDS[kind], chance))
        if chance.random() < 0.05:
            return packed([bytes([kind]), *turns])
        return packed([bytes([kind]), *damaged_session(turns, chance)])

    def run(self, data: bytes) -> str:
        """Ask the node."""
        (kind, *self._node.turns) = unpacked(data)
        name = _KINDS[kind[0]]
        with promised(CxrdError) as ends:
            ends.append(getattr(self, f"_{name}")())
        deadline = time.monotonic() + 4 * _SECONDS
        while threading.active_count() > self._threads:
            if time.monotonic() > deadline:
                raise Fault(f"threads left: {[each.name for each in threading.enumerate()]}")
            time.sleep(0.001)
        return f"{name}: {ends[0]}"

    def leftovers(self) -> list[str]:
        """Return files that were not there."""
        return [each.name for each in Path(self._folder.name).iterdir() if each != self._path]

    def close(self) -> None:
        """Stop the node."""
        self._node.close()
        spool.leave(0, Path(self._folder.name))
        self._folder.cleanup()

    def _echo(self) -> str:
        echo(self._peer)
        return "success"

    def _store(self) -> str:
        sop_class = names()[0]
        with storage_association(self._peer, [(sop_class, _EXPLICIT)]) as association:
            code = association.store(self._path)
        return f"0x{code:04X}" if code in (0, 0xB000, 0xA700, 0xC000) else "another status"

    def _find(self) -> str:
        with archive(self._peer, Move("CXRD")) as source:
            return f"{min(2, len(list(source.series(Query(), ('DX',)))))} series"

    def _get(self) -> str:
        receipt = Receipt(self._take, Path(self._folder.name), "CXRD", Limits(max_mb=1, most_objects=20))
        with archive(self._peer, Get(receipt, (names()[0],))) as source:
            return "failed" if source.fetch(Series("1.2.1", "1.2.2", "DX"), []) else "all was sent"

    @staticmethod
    def _take(arrival: Arrival) -> int:
        """Do with an object what the intake does first."""
        try:
            arrival.file.flush_to_disk()
            read_arrived(arrival.file.path)
        except CxrdError:
            return status.CANNOT_UNDERSTAND
        return status.SUCCESS

    def _commitment(self) -> str:
        request = Request("1.2.826.9.1", references(1))
        report = request_commitment(self._peer, request, wait=0.2, receive=lambda _: status.SUCCESS)
        return "no report" if report is None else "a report"


def _answers(kind: str, chance: Random) -> Iterator[bytes]:
    """Yield the turns of a node that answers well."""
    code = chance.choice((0, 0, 0, 0xB000, 0xA700, 0xC000, 0x0122, 0xFF00, 0xFFFF))
    state = number(0x900, code)
    if kind == "echo":
        yield acceptance([(1, 0, _EXPLICIT)])
        yield b"".join(message(command(0x8030, _VERIFICATION, state)))
    elif kind == "store" and chance.random() < 0.3:  # an object that nobody asked for
        yield acceptance([(1, 0, _EXPLICIT)])
        yield b"".join(message(store_command(b"1.2.3", sop_class=names()[0]), data_set(16, 16)))
    elif kind == "store":
        yield acceptance([(1, 0, _EXPLICIT)])
        yield b"".join(message(command(0x8001, names()[0], state)))
    elif kind == "find":
        yield acceptance([(1, 0, _IMPLICIT), (3, 0, _IMPLICIT)])
        for _ in range(2):
            match = b"".join(message(command(0x8020, _FIND, number(0x900, 0xFF00), data=True), _match(chance)))
            yield match + b"".join(message(command(0x8020, _FIND, number(0x900, 0))))
    elif kind == "get":  # an object on the association that asked for it; then it hears our answer
        sop_class, instance = names()
        role = item(0x54, len(sop_class).to_bytes(2, "big") + sop_class.encode() + b"\0\1")
        yield acceptance([(1, 0, _IMPLICIT), (3, 0, _IMPLICIT), (5, 0, _EXPLICIT)], user=role)
        for _ in range(chance.choice((1, 1, 3))):
            pending = message(command(0x8010, _GET, number(0x900, 0xFF00), number(0x1020, 1)), context=3)
            store = message(store_command(instance.encode(), sop_class=sop_class), data_set(16, 16), context=5)
            yield b"".join([*pending, *store])
        yield b"".join(message(command(0x8010, _GET, state, number(0x1020, 0), number(0x1021, 1)), context=3))
    else:
        yield acceptance([(1, 0, _EXPLICIT)])
        about = number(0x900, 0), uid(0x1000, "1.2.840.10008.1.20.1.1"), number(0x1008, 1)
        report = commitment_report(commitment_set(chance.choice(((0x1199,), (0x1198,), (0x1199, 0x1198)))))
        yield b"".join([*message(command(0x8130, PUSH_MODEL, *about)), *report])
        yield b""  # it hears our answer
    yield _RELEASED


def _match(chance: Random) -> bytes:
    """Return what a search found, implicit VR."""

    def value(group: int, at: int, data: bytes) -> bytes:
        return struct.pack("<HHI", group, at, len(data)) + data

    parts = [
        value(0x20, 0xD, b"1.2.1\0"),
        value(0x20, 0xE, b"1.2.2\0"),
        value(8, 0x60, b"DX"),
        value(8, 0x61, b"DX\\CR "),
    ]
    return b"".join(each for each in parts if chance.random() < 0.9)
