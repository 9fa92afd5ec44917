"""Nothing ends without a line: each association that is not released leaves one with its cause; all are counted."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable

import pytest
from pynetdicom import AE
from pynetdicom.presentation import build_context

from dicom_io.network.ending import Cause
from dicom_io.network.node_server import NodeAssociation
from dicom_io.network.upper_layer import UpperLayer
from tests.integration.network.conftest import WatchedNode
from tests.support.raw_peer import (
    ABORT,
    ACCEPT,
    CLOSED,
    RELEASE,
    RawPeer,
    element,
    fragment,
    pdu,
    request,
    store_command,
)

Start = Callable[..., WatchedNode]
BEGUN = fragment(3, store_command(b"1.2.3")) + fragment(0, b"the first half")
PEER_ABORT = pdu(ABORT, bytes([0, 0, 0, 0]))
UNKNOWN_COMMAND = element(0x100, struct.pack("<H", 0x777)) + element(0x800, struct.pack("<H", 0x101))
FIND = (
    element(2, b"1.2.840.10008.5.1.4.1.1.1\0")
    + element(0x100, struct.pack("<H", 0x20))
    + element(0x110, struct.pack("<H", 1))
    + element(0x700, struct.pack("<H", 0))
    + element(0x800, struct.pack("<H", 1))
)


@pytest.mark.parametrize(
    ("sent", "cause", "reason"),
    [
        (b"", "silent", "the peer closed the connection after 0 bytes, before A-ASSOCIATE-RQ"),
        (request()[:7], "lost", "the peer closed the connection after 7 bytes, before A-ASSOCIATE-RQ"),
        (pdu(9, b"abc"), "malformed", "a PDU of the unknown type 0x09"),
        (b"GET / HTTP/1.1\r\n\r\n", "malformed", "an HTTP request"),
        (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1", "malformed", "a TLS handshake; this port speaks DICOM without TLS"),
        (pdu(1, bytes(30)), "malformed", "an A-ASSOCIATE-RQ of 36 bytes"),
        (request()[:80] + b"\xff" * (len(request()) - 80), "malformed", "item 0xFF of the A-ASSOCIATE-RQ is cut short"),
        (request(called=b"CXRD", sop_class="1.2.\xe9"), "malformed", "A-ASSOCIATE-RQ that cannot be read (ValueError)"),
        (RELEASE, "malformed", "A-RELEASE-RQ at the wrong moment (state Sta2)"),
        (PEER_ABORT, "aborted", "the peer aborted (the user's wish)"),
    ],
)
def test_before_an_association(watched: Start, sent: bytes, cause: str, reason: str) -> None:
    node = watched()
    with RawPeer(node.port) as peer:
        peer.send(sent)
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.answer()[0] in (ABORT, CLOSED)
    line = node.line()
    assert (line["cause"], line["reason"], line["peer"]) == (cause, reason, "127.0.0.1")
    assert node.causes == [Cause(cause)]


def test_a_request_that_cannot_be_read_is_told_with_its_titles(watched: Start) -> None:
    node = watched()
    with RawPeer(node.port) as peer:
        peer.send(request("M\xdcLLER".encode("latin-1"), further=b"\x20\0\0\x04\x04\0\0\0"))
        assert peer.answer()[0] == ABORT
    line = node.line()
    assert line["reason"] == "presentation context 4 has no odd number"
    assert (line["calling_ae"], line["called_ae"]) == (r"M\xdcLLER", "CXRD")


@pytest.mark.parametrize(
    ("sent", "cause", "reason"),
    [
        (b"", "lost", "the peer closed the connection without a release"),
        (BEGUN, "lost", "the peer closed the connection, in the middle of an object"),
        (BEGUN + fragment(0, b"more")[:9], "lost", "the peer closed the connection, in the middle of an object"),
        (BEGUN + PEER_ABORT, "aborted", "the peer aborted (the user's wish)"),
        (pdu(ABORT, bytes([0, 0, 2, 6])), "aborted", "the peer aborted (its upper layer, reason 6)"),
        (BEGUN + RELEASE, "released", "the peer released in the middle of an object"),
        (request(), "malformed", "A-ASSOCIATE-RQ at the wrong moment (state Sta6)"),
        (pdu(4, b"abc"), "malformed", "P-DATA-TF that cannot be read"),
        (pdu(4, struct.pack(">I", 1) + b"\x01"), "malformed", "a command that cannot be read"),
        (fragment(3, b"\0\0\0\1"), "malformed", "a command that cannot be read"),
        (fragment(3, UNKNOWN_COMMAND), "malformed", "a command that cannot be read (KeyError)"),
        (fragment(3, b"", 9), "malformed", "a message on presentation context 9, which is not accepted"),
        (BEGUN + fragment(3, store_command(b"1.2.4")), "malformed", "a command inside an object"),
        (pdu(8, b""), "malformed", "a PDU of the unknown type 0x08"),
        (pdu(6, bytes(4)), "malformed", "A-RELEASE-RP at the wrong moment (state Sta6)"),
    ],
)
def test_on_an_association(watched: Start, sent: bytes, cause: str, reason: str) -> None:
    node = watched()
    with RawPeer(node.port) as peer:
        peer.associate(request("M\xdcLLER".encode("latin-1")))
        peer.send(sent)
        peer.socket.shutdown(socket.SHUT_WR)
        while peer.answer()[0] != CLOSED:
            pass
    line = node.line()
    assert line["cause"] == cause
    assert line["reason"].startswith(reason)
    assert (line["peer"], line["calling_ae"], line["called_ae"]) == ("127.0.0.1", r"M\xdcLLER", "CXRD")
    assert node.causes == [Cause(cause)]
    assert not list(node.node._folder.iterdir())


@pytest.mark.parametrize(
    ("options", "data", "reason"),
    [
        ({"allowed_calling": ["CT"]}, request(), "its AE title is not among scp.allowed_calling"),
        ({}, request(b""), "it states no AE title"),
        ({"require_called": True}, request(called=b"PACS"), "it calls us by another AE title (scp.require_called)"),
        ({}, request(called=b""), "it calls no AE title"),
        ({}, request()[:6] + b"\0\2" + request()[8:], "the peer's protocol version is not supported"),
    ],
)
def test_a_rejection(watched: Start, options: dict[str, object], data: bytes, reason: str) -> None:
    node = watched(**options)
    with RawPeer(node.port) as peer:
        peer.associate(data)
    assert node.ends(1) == [("rejected", reason)]


def test_a_connection_that_is_reset(watched: Start) -> None:
    node = watched()
    with RawPeer(node.port) as peer:
        peer.associate()
        peer.send(BEGUN)
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert node.ends(1) == [("lost", "Connection reset by peer, in the middle of an object")]


def test_a_release_is_counted_and_leaves_no_line(watched: Start) -> None:
    node = watched()
    association = AE("CT").associate("127.0.0.1", node.port, contexts=[build_context("1.2.840.10008.1.1")])
    assert association.send_c_echo().Status == 0
    association.release()
    assert node.ends(1) == []
    assert node.causes == [Cause.RELEASED]


def test_a_message_that_there_is_no_service_for(watched: Start) -> None:
    node = watched()
    with RawPeer(node.port) as peer:
        peer.associate()
        peer.send(fragment(3, FIND) + fragment(2, b""))
        assert peer.answer()[0] == ABORT
    assert node.ends(1) == [("unserved", "C-FIND cannot be served")]


def test_a_peer_that_does_not_wait_for_our_answer_to_its_release(watched: Start) -> None:
    node = watched()
    for _ in range(10):
        with RawPeer(node.port) as peer:
            peer.associate()
            peer.send(RELEASE)
    assert node.ends(10) == []
    assert node.causes == [Cause.RELEASED] * 10


def test_silence_on_an_association(watched: Start) -> None:
    node = watched(network_timeout=1)
    with RawPeer(node.port) as peer:
        peer.associate()
        assert peer.answer()[0] == ABORT
    assert node.ends(1) == [("idle", "nothing came for 1 s")]


def test_the_end_of_the_node(watched: Start) -> None:
    node = watched()
    with RawPeer(node.port) as waiting, RawPeer(node.port) as peer:
        waiting.send(b"\1")
        peer.associate()
        node.node.stop(grace=0.1)
        assert peer.answer()[0] == ABORT
    assert node.ends(2) == [("stopped", "this node is stopping")] * 2


def test_an_error_in_a_handler_is_answered_and_the_association_goes_on(watched: Start) -> None:
    node = watched()
    node.node._receive = lambda _: 1 // 0
    with RawPeer(node.port) as peer:
        peer.associate()
        peer.send(fragment(3, store_command(b"1.2.3")) + fragment(2, b"an object"))
        assert peer.status() == 0xC211
        peer.send(RELEASE)
        assert peer.answer()[0] != ABORT


@pytest.mark.parametrize("thread", [NodeAssociation, UpperLayer])
def test_where_there_are_no_threads_left(watched: Start, monkeypatch: pytest.MonkeyPatch, thread: type) -> None:
    node = watched()

    def fail(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as here:
        here.setattr(thread, "start", fail)
        with RawPeer(node.port) as peer:
            assert peer.answer()[0] == CLOSED
        assert [cause for cause, _ in node.ends(1)] == ["fault"]
    assert node.node._servers[0].admission._waiting == []
    with RawPeer(node.port) as peer:
        assert peer.associate() == ACCEPT


def test_no_thread_of_a_node_dies_with_a_traceback(watched: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pynetdicom's states do not foresee ended threads, and the traceback stood in the middle of the log."""
    deaths: list[object] = []
    monkeypatch.setattr(threading, "excepthook", deaths.append)
    node, count = watched(), 0
    for kind in range(1, 8):
        for body in (b"", bytes(4), bytes(74), b"\xff" * 80):
            for head in (b"", request(), request() + BEGUN, request() + RELEASE):
                with RawPeer(node.port) as peer:
                    peer.send(head + pdu(kind, body) * 2)
                    peer.socket.shutdown(socket.SHUT_WR)
                    while peer.answer()[0] != CLOSED:
                        pass
                count += 1
    node.ends(count)
    assert deaths == []
