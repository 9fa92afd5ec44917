"""The harness on our node as it runs in the daemon: associations, messages, objects, storage commitment, and TLS."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from pathlib import Path
from random import Random

from dicom_io.network.commitment_messages import PUSH_MODEL
from dicom_io.network.ending import Cause
from tests.fuzz.harness import Fault
from tests.fuzz.samples import data_set, names
from tests.fuzz.sessions import (
    _ITEMS,
    command,
    commitment_report,
    commitment_request,
    commitment_set,
    damaged_handshake,
    damaged_object,
    damaged_session,
    message,
    packed,
    unpacked,
)
from tests.support.certificates import certificate
from tests.support.raw_peer import CLOSED, DATA, RELEASE, RawPeer, item, request, store_command
from worker.engines.receiver import Receiver
from worker.settings import Settings

_VERIFICATION = "1.2.840.10008.1.1"
_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
_TLS = b"TLS"
"""The first turn of a case for the port with TLS."""
_PATIENCE = 60.0
"""Seconds after which an association that has not ended hangs."""


class Node:
    """A `Receiver` with a ledger of its own."""

    bound_mb = 60.0
    children = 0

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=Path.cwd().parent)
        cert, key = certificate(Path(self._folder.name, "tls"))
        tls = {"port": 0, "certificate": cert, "key": key, "clients": "none"}
        limits = {"network_timeout": 20, "association_timeout": 10, "max_object_mb": 20, "max_objects": 20}
        self._settings = Settings.model_validate(
            {
                "scp": {"port": 0, "tls": tls} | limits,
                "storage": {"folder": self._folder.name, "min_free_mb": 0},
                "commitment": {"offered": True},
                "pixels": {"max_memory_mb": 100, "max_elements": 20_000},
            }
        )
        self._causes: list[Cause] = []
        self._ended = threading.Event()
        self._receiver = Receiver(self._settings)
        self._receiver._node._over = self._note
        self._receiver.start()

    def case(self, chance: Random) -> bytes:
        """Return a session of a peer: a store, an echo, a search, storage commitment, or a TLS handshake."""
        if chance.random() < 0.1:
            return packed([_TLS, *damaged_handshake(chance)])
        sop_class, instance = names()
        data = data_set(32, 32)
        stored = message(store_command(instance.encode(), sop_class=sop_class), data)
        user = item(0x54, len(PUSH_MODEL).to_bytes(2, "big") + PUSH_MODEL.encode() + b"\1\1")
        references = commitment_set(chance.choice(((0x1199,), (0x1198,), (0x1199, 0x1198))), chance.choice((1, 2, 50)))
        sessions = (
            [request(sop_class=sop_class), *stored],
            [request(sop_class=sop_class), *stored],
            [request(sop_class=_VERIFICATION), *message(command(0x30, _VERIFICATION))],
            [request(sop_class=_FIND), *message(command(0x20, _FIND, data=True), b"")],
            [request(sop_class=PUSH_MODEL), *commitment_request(references)],
            [request(sop_class=PUSH_MODEL, user=user), *commitment_report(references)],
            [request(sop_class=_VERIFICATION, user=b"".join(chance.sample(_ITEMS[20:], 4)))],
        )
        which = chance.randrange(len(sessions))
        pdus = [*sessions[which], RELEASE]
        if which == 0:
            return packed(damaged_object(pdus, data, chance))
        return packed(pdus if chance.random() < 0.02 else damaged_session(pdus, chance))

    def run(self, data: bytes) -> str:
        """Send a session, and wait until both sides have ended it."""
        turns = unpacked(data)
        self._causes.clear()
        self._ended.clear()
        kinds = self._handshake(turns[1:]) if turns[:1] == [_TLS] else self._session(turns)
        if not self._ended.wait(_PATIENCE):
            raise Fault(f"the association has not ended within {_PATIENCE:.0f} s")
        deadline = time.monotonic() + _PATIENCE
        while self._receiver._node._associations and time.monotonic() < deadline:
            time.sleep(0.001)
        if len(self._causes) != 1:
            raise Fault(f"one connection has {len(self._causes)} ends")
        return f"{self._causes[0]}{', answered' if DATA in kinds else ''}"

    def _session(self, turns: list[bytes]) -> list[int]:
        """Send a session; return the kinds of the PDUs that come."""
        kinds: list[int] = []
        with RawPeer(self._receiver.port, timeout=_PATIENCE) as peer, contextlib.suppress(OSError):
            peer.send(turns[0])
            if _is_whole(turns[0]):
                kinds.append(peer.answer()[0])
            peer.send(b"".join(turns[1:]))
            peer.socket.shutdown(socket.SHUT_WR)
            while kinds[-1:] != [CLOSED]:
                kinds.append(peer.answer()[0])
        return kinds

    def _handshake(self, turns: list[bytes]) -> list[int]:
        """Send bytes to the port with TLS, and read until it closes; there is no association."""
        port = self._receiver._node.tls_port
        assert port is not None
        with RawPeer(port, timeout=_PATIENCE) as peer, contextlib.suppress(OSError):
            peer.send(b"".join(turns))
            peer.socket.shutdown(socket.SHUT_WR)
            while peer.socket.recv(1 << 16):
                pass
        return []

    def leftovers(self) -> list[str]:
        """Return objects that are not finished, and associations that have not ended."""
        node = self._receiver._node
        files = [each.name for each in self._receiver.blobs.incoming.iterdir()]
        return files + [f"association of {each.ending.peer}" for each in node._associations]

    def close(self) -> None:
        """Stop it."""
        self._receiver.stop()
        self._folder.cleanup()

    def _note(self, cause: Cause) -> None:
        self._causes.append(cause)
        self._ended.set()


def _is_whole(turn: bytes) -> bool:
    """Tell whether a turn is one PDU as long as it states: else nobody answers it."""
    return len(turn) >= 6 and int.from_bytes(turn[2:6], "big") == len(turn) - 6
