"""What one peer does costs the others nothing: an honest sender is served within seconds, and memory stays bounded."""

from __future__ import annotations

import contextlib
import resource
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from structlog.testing import capture_logs

from dicom_io.network.association_request import MOST_BYTES
from dicom_io.network.commands import MOST_COMMAND
from dicom_io.network.ending import Cause
from dicom_io.network.messages import FREE
from dicom_io.network.upper_layer import MOST_QUEUED, SLACK
from tests.fuzz.sessions import command
from tests.integration.network.conftest import WatchedNode
from tests.support.peers import chest, send, wait_for
from tests.support.raw_peer import ABORT, ACCEPT, CLOSED, CR, REJECT, RawPeer, fragment, pdu, request, store_command

Start = Callable[..., WatchedNode]
OTHER = "127.0.0.2"
"""Another address of this machine: an attacker that is not the honest sender's host."""
PUSH_MODEL = "1.2.840.10008.1.20.1"
BEGUN = fragment(3, store_command(b"1.2.3")) + fragment(0, b"the first half")


@contextlib.contextmanager
def crowd(port: int, count: int, *, address: str = "127.0.0.1") -> Iterator[list[RawPeer]]:
    """Open so many connections."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(RawPeer(port, address=address)) for _ in range(count)]


def served_within(node: WatchedNode, seconds: float) -> None:
    """Hold that an honest sender is served meanwhile."""
    start = time.monotonic()
    assert send(node.port, [chest(f"honest-{start}")]) == [0x0000]
    assert time.monotonic() - start < seconds


def memory() -> int:
    """Return the most bytes that this process has ever taken."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        (1, MOST_BYTES + 1),
        (1, 0xFFFFFFFF),
        (4, 131072 + SLACK + 1),
        (4, 0xFFFFFFFF),
        (2, 1 << 24),
        (5, 4096),
        (7, 4096),
    ],
)
def test_a_pdu_that_states_too_much_is_not_read(watched: Start, kind: int, length: int) -> None:
    node = watched()
    with RawPeer(node.port) as peer:
        if kind > 2:
            assert peer.associate() == ACCEPT
        peer.send(pdu(kind, b"", stated=length))
        assert peer.answer() == (ABORT, bytes([0, 0, 2, 6]))
    (end,) = node.ends(1)
    assert end[0] == "oversized"
    assert f"of {length} bytes" in end[1]


def test_a_flood_behind_a_stated_length_takes_no_memory(watched: Start) -> None:
    """399 MB of one A-ASSOCIATE-RQ took 400 MB before any AE title was looked at."""
    node, before = watched(), memory()
    with RawPeer(node.port) as peer, contextlib.suppress(OSError):
        peer.send(pdu(1, bytes(MOST_BYTES), stated=399_000_000))
        for _ in range(100):
            peer.send(bytes(1 << 20))
    node.ends(1)
    assert memory() - before < 30e6


def test_a_pdu_somewhat_longer_than_we_stated_is_read(watched: Start) -> None:
    node = watched(maximum_pdu=4096)
    with RawPeer(node.port) as peer:
        peer.associate()
        peer.send(fragment(3, store_command(b"1.2.3")) + fragment(2, bytes(400_000)))
        assert peer.status() == 0x0000


def test_an_endless_command_set_ends(watched: Start) -> None:
    node, before = watched(), memory()
    with RawPeer(node.port) as peer:
        peer.associate()
        with contextlib.suppress(OSError):
            for _ in range(3000):
                peer.send(fragment(1, bytes(100_000)))
    assert node.ends(1) == [("oversized", f"a command of more than {MOST_COMMAND} bytes")]
    assert memory() - before < 30e6


@pytest.mark.parametrize("said", [b"", request()[:7]])
def test_silent_connections_shut_nobody_out(watched: Start, said: bytes) -> None:
    """7 bytes on each of 21 connections, then silence: nobody else got in until those peers went."""
    node = watched(maximum_associations=2, association_timeout=3)
    with crowd(node.port, 21) as peers:
        for peer in peers:
            peer.send(said)
        served_within(node, 3)
        assert [peer.answer()[0] for peer in peers] == [CLOSED] * 21
    ends = [each for each in node.ends(22) if each[0] == "late"]
    words = f"{len(said)} bytes of an A-ASSOCIATE-RQ" if said else "no A-ASSOCIATE-RQ"
    assert ends == [("late", f"{words} within 3 s")] * 21


def test_a_request_that_trickles_ends_in_time(watched: Start) -> None:
    node = watched(association_timeout=1)
    start = time.monotonic()
    with RawPeer(node.port) as peer, contextlib.suppress(OSError):
        for byte in request():
            peer.send(bytes([byte]))
            time.sleep(0.05)
    assert time.monotonic() - start < 8
    assert node.ends(1)[0][0] == "late"


def test_more_connections_than_may_wait_shut_nobody_out(watched: Start) -> None:
    node = watched()
    with crowd(node.port, 160):
        wait_for(lambda: len(node.causes) == 60)
        served_within(node, 15)  # before, nobody was served at all
        wait_for(lambda: len(node.causes) == 62)
        assert Counter(node.causes) == {Cause.CROWDED: 61, Cause.RELEASED: 1}


def trickle(peers: list[RawPeer], data: bytes, until: threading.Event) -> None:
    """Send one byte to each, again and again."""
    at = 0
    while not until.wait(0.1):
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.send(data[at : at + 1])
        at = (at + 1) % len(data)


def test_trickling_associations_of_another_host_shut_nobody_out(watched: Start) -> None:
    """25 connections at one byte a second: 136 of 136 senders were rejected."""
    node, over = watched(maximum_associations=8, network_timeout=2), threading.Event()
    with crowd(node.port, 8, address=OTHER) as peers:
        accepted = [peer.associate() for peer in peers]
        assert (accepted.count(ACCEPT), accepted.count(REJECT)) == (6, 2)
        for peer in peers[:6]:
            peer.send(BEGUN)
        thread = threading.Thread(target=trickle, args=(peers, fragment(0, bytes(100_000)), over))
        thread.start()
        served_within(node, 3)
        causes = [each[0] for each in node.ends(9) if each[0] != "rejected"]
        over.set()
        thread.join()
    assert causes == ["slow"] * 6


def test_where_all_places_trickle_one_gives_way(watched: Start) -> None:
    node, over = watched(maximum_associations=2, associations_per_peer=2), threading.Event()
    with crowd(node.port, 2) as peers:
        for peer in peers:
            peer.associate()
            peer.send(BEGUN)
        thread = threading.Thread(target=trickle, args=(peers, fragment(0, bytes(100_000)), over))
        thread.start()
        try:
            wait_for(lambda: any(each.stalled_for > 5 for each in node.node._associations), 15)
            node.node._servers[0].admission._most_of_one = 3
            served_within(node, 3)
        finally:
            over.set()
            thread.join()
    assert ("crowded", "it did nothing, and another peer needed its place") in node.ends(3)


def test_an_idle_association_gives_way_to_one_that_asks(watched: Start) -> None:
    node = watched(maximum_associations=1, associations_per_peer=2)
    with RawPeer(node.port, address=OTHER) as idle:
        idle.associate()
        with RawPeer(node.port) as early:
            assert early.associate() == REJECT
        wait_for(lambda: any(each.stalled_for > 5 for each in node.node._associations), 15)
        served_within(node, 3)
        assert idle.answer()[0] == ABORT


def test_a_slow_but_steady_sender_is_served(watched: Start) -> None:
    node = watched(network_timeout=1, least_rate=1000)
    with RawPeer(node.port) as peer:
        peer.associate()
        peer.send(fragment(3, store_command(b"1.2.3")))
        for _ in range(25):
            peer.send(fragment(0, bytes(400)))
            time.sleep(0.1)
        peer.send(fragment(2, b""))
        assert peer.status() == 0x0000


def test_our_own_slowness_is_not_the_senders(watched: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes its time looks, at the socket, like a peer that sends nothing."""
    from dicom_io.network.spool_file import SpoolFile

    write = SpoolFile.write

    def slowly(self: SpoolFile, data: bytes) -> int:
        time.sleep(0.4)
        return write(self, data)

    monkeypatch.setattr(SpoolFile, "write", slowly)
    node = watched(network_timeout=1, least_rate=50_000)
    with RawPeer(node.port) as peer:
        peer.associate()
        peer.send(fragment(3, store_command(b"1.2.3")) + fragment(0, bytes(1000)) * 6 + fragment(2, b""))
        assert peer.status() == 0x0000


def test_requests_sent_ahead_wait_at_the_peer(watched: Start) -> None:
    """Each request that is read ahead lies on our disk, or in our memory, until it is its turn."""
    node, go = watched(), threading.Event()
    receive = node.node._receive
    node.node._receive = lambda arrival: receive(arrival) if go.wait(20) else 0xA700
    with RawPeer(node.port) as peer:
        peer.associate()
        one = fragment(3, store_command(b"1.2.3")) + fragment(2, b"an object")
        peer.send(one * 60)
        time.sleep(1)
        (association,) = node.node._associations
        assert association.dimse.msg_queue.qsize() <= MOST_QUEUED
        go.set()
        assert [peer.status() for _ in range(60)] == [0x0000] * 60


def test_the_node_ends_in_time_whatever_peers_do(watched: Start) -> None:
    """SIGTERM hung for more than 120 s: a modality that is switched off in mid-transfer was enough."""
    node = watched()
    with crowd(node.port, 6) as peers:
        peers[0].send(request()[:7])
        for peer in peers[1:]:
            peer.associate()
        peers[2].send(BEGUN)
        peers[3].send(BEGUN + fragment(0, bytes(50_000))[:20_000])
        start = time.monotonic()
        node.node.stop(grace=60)
        assert time.monotonic() - start < 8
    assert [each[0] for each in node.ends(6)] == ["stopped"] * 6


def test_a_peer_that_reads_nothing_does_not_hold_a_thread_for_ever(watched: Start) -> None:
    node = watched(network_timeout=1)
    echo = struct.pack("<HHI", 0, 2, 18) + b"1.2.840.10008.1.1\0" + store_command(b"")[12 + 8 + 26 :]
    with RawPeer(node.port) as peer:
        peer.associate(request(sop_class="1.2.840.10008.1.1"))
        with contextlib.suppress(OSError):
            peer.socket.settimeout(0.5)
            for _ in range(200_000):
                peer.send(fragment(3, echo.replace(struct.pack("<H", 1), struct.pack("<H", 0x30), 1)))
        start = time.monotonic()
        node.node.stop(grace=0.1)
        assert time.monotonic() - start < 10


def test_a_tls_client_and_a_flood_of_junk_leave_one_line_each(watched: Start) -> None:
    node = watched()
    with capture_logs() as lines:
        for junk in (b"\x16\x03\x01\x02\x00", b"\xff" * 600, b"\0" * 600):
            with RawPeer(node.port) as peer:
                peer.send(junk + bytes(10))
                peer.answer()
        served_within(node, 3)
        wait_for(lambda: len(node.causes) == 4)
    assert [line["cause"] for line in lines if line["event"] == "association_ended"] == ["malformed"] * 3


def test_an_association_with_too_many_objects_ends_and_another_one_may_follow(watched: Start) -> None:
    node = watched(max_objects=3)
    one = fragment(3, store_command(b"1.2.3")) + fragment(2, b"an object")
    for _ in range(2):
        with RawPeer(node.port) as peer:
            peer.associate()
            for _ in range(3):
                peer.send(one)
                assert peer.status() == 0x0000
            peer.send(one)
            assert peer.answer()[0] == ABORT
    words = "more than 3 objects on one association (scp.max_objects): open another one"
    assert node.ends(2) == [("too many", words)] * 2
    assert len(node.arrivals) == 6
    assert list(node.node._folder.iterdir()) == []


def test_any_number_of_objects_where_there_is_no_limit(watched: Start) -> None:
    node = watched(max_objects=0)
    with RawPeer(node.port) as peer:
        peer.associate()
        peer.send((fragment(3, store_command(b"1.2.3")) + fragment(2, b"an object")) * 30)
        assert [peer.status() for _ in range(30)] == [0x0000] * 30


def test_data_sets_in_memory_are_bounded_for_all_peers_together(watched: Start) -> None:
    """17 requests for commitment on each of 20 associations took 750 MB."""
    node = watched(max_memory_mb=16)
    asked = fragment(3, command(0x130, PUSH_MODEL, data=True)) + fragment(0, bytes(400_000)) * 10  # never complete
    with crowd(node.port, 8) as peers:
        for number, peer in enumerate(peers):
            assert peer.associate(request(sop_class=CR)) == ACCEPT
            with contextlib.suppress(OSError):
                peer.send(asked)
            # There is room for four. One after the other, for of those that grow at once more may find none.
            held, ended = min(number + 1, 4) * (4_000_000 - FREE), max(0, number - 3)
            wait_for(lambda: node.node._memory.held >= held and len(node.causes) >= ended)  # noqa: B023 - called at once
        ends = node.ends(4)
        assert node.node._memory.held <= 16_000_000
        served_within(node, 3)
    assert set(ends) == {("full", "peers take as much memory as they may (scp.max_memory_mb)")}
    assert FREE * 8 + 16_000_000 < 4_000_000 * 8
    wait_for(lambda: len(node.causes) == 9)
    assert node.node._memory.held == 0
