"""A node that we call may not fill our memory, nor keep us waiting by trickling."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from dicom_io.errors import PeerUnavailable
from dicom_io.network.answering_peer import MOST_PDU
from dicom_io.network.storage_scu import Peer, echo
from tests.support.raw_peer import pdu


@contextlib.contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Listen, read a request, and answer in this way."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(4096)
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def flood(connection: socket.socket) -> None:
    connection.sendall(pdu(2, bytes(100), stated=0xFFFFFFFF))
    for _ in range(200):
        connection.sendall(bytes(1 << 20))


def trickle(connection: socket.socket) -> None:
    connection.sendall(pdu(2, b"", stated=MOST_PDU))
    for _ in range(100):
        connection.sendall(b"\0")
        time.sleep(0.1)


def test_an_answer_without_end_is_not_read() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with answering(flood) as port, pytest.raises(PeerUnavailable):
        echo(Peer("127.0.0.1", port, "NODE", "CXRD", timeout=10))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000


def test_an_answer_that_trickles_is_not_waited_for() -> None:
    start = time.monotonic()
    with answering(trickle) as port, pytest.raises(PeerUnavailable):
        echo(Peer("127.0.0.1", port, "NODE", "CXRD", timeout=1))
    assert time.monotonic() - start < 6
