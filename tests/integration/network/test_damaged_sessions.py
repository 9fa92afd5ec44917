"""Whole sessions with random damage: each ends, leaves one line or none, and no file, no thread and no traceback."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable

import pytest

from dicom_io.network.ending import Cause
from tests.integration.network.conftest import WatchedNode
from tests.support.peers import wait_for
from tests.support.raw_peer import CLOSED, RELEASE, RawPeer, fragment, request, store_command

SESSIONS = 150
SESSION = [request(), fragment(3, store_command(b"1.2.3")), fragment(0, bytes(300)), fragment(2, bytes(200)), RELEASE]


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Return bytes with some of them changed, left out or added, or without their end."""
    made = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        at = chance.randrange(len(made) + 1)
        match chance.choice(["change", "change", "change", "leave-out", "add", "cut"]):
            case "change" if at < len(made):
                made[at] = chance.choice([0, 1, 0xFF, chance.randrange(256)])
            case "leave-out":
                del made[at : at + chance.randrange(1, 9)]
            case "add":
                made[at:at] = chance.randbytes(chance.randrange(1, 9))
            case "cut":
                del made[at:]
    return bytes(made)


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_sessions(watched: Callable[..., WatchedNode], monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    deaths: list[object] = []
    monkeypatch.setattr(threading, "excepthook", deaths.append)
    node, chance = watched(), random.Random(seed)
    for _ in range(SESSIONS):
        pdus = list(SESSION)
        which = chance.randrange(len(pdus))
        pdus[which] = damaged(pdus[which], chance)
        with RawPeer(node.port) as peer:
            peer.send(pdus[0])
            if which:
                peer.answer()
            peer.send(b"".join(pdus[1:]))
            peer.socket.shutdown(socket.SHUT_WR)
            while peer.answer()[0] != CLOSED:
                pass
    lines = node.ends(SESSIONS)
    quiet = node.causes.count(Cause.RELEASED) - [cause for cause, _ in lines].count("released")
    assert len(lines) == SESSIONS - quiet
    assert len(set(node.causes)) > 2
    assert deaths == []
    wait_for(lambda: not node.node._associations)
    assert not list(node.node._folder.iterdir())
