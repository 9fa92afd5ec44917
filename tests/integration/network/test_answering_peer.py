"""A node that we call may not fill our memory, keep us waiting by trickling, or end our threads by odd answers."""

from __future__ import annotations

import contextlib
import resource
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import JPEG2000Lossless
from pynetdicom.dimse import DIMSEServiceProvider

from dicom_io.errors import CxrdError, PeerUnavailable
from dicom_io.network import query_retrieve, spool
from dicom_io.network.answering_peer import MOST_PDU
from dicom_io.network.capabilities import finds
from dicom_io.network.commands import MOST_COMMAND, MOST_MESSAGE
from dicom_io.network.query_retrieve import Get, Move, Query, Receipt, Series, archive
from dicom_io.network.spool_file import Limits
from dicom_io.network.storage_scp import Arrival
from dicom_io.network.storage_scu import Peer, echo
from dicom_io.network.upper_layer import MOST_QUEUED
from tests.fuzz.peers import AnsweringNode
from tests.fuzz.sessions import acceptance, command, message, number
from tests.support.peers import wait_for
from tests.support.raw_peer import CR, EXPLICIT, fragment, item, pdu, store_command


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


VERIFICATION, FIND, MOVE = "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.2"
IMPLICIT = "1.2.840.10008.1.2"
ACCEPTANCE = acceptance([(1, 0, IMPLICIT)])
SUCCESS = b"".join(message(command(0x8030, VERIFICATION, number(0x900, 0))))
RELEASED = pdu(6, bytes(4))
BIG = 1 << 16


def unbounded(control: int, bytes_: int) -> bytes:
    """Return fragments of a command, or of a data set, without a last one."""
    return fragment(control, bytes(BIG)) * (bytes_ // BIG + 1)


@pytest.fixture
def node() -> Iterator[AnsweringNode]:
    made = AnsweringNode()
    yield made
    made.close()


@pytest.fixture
def deaths(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return the errors that end threads."""
    made: list[object] = []
    monkeypatch.setattr(threading, "excepthook", made.append)
    return made


@pytest.mark.parametrize(
    "turns",
    [
        [pdu(3, b"\0\1\7\1")],  # a rejection by nobody
        [pdu(2, bytes(80))],
        [acceptance([(1, 0, "")])],
        [acceptance([(1, 0, "1.2.3")])],
        [acceptance([(1, 0, JPEG2000Lossless)])],
        [SUCCESS],
        [RELEASED],
        [ACCEPTANCE, ACCEPTANCE],
        [ACCEPTANCE, pdu(4, b"abc")],
        [ACCEPTANCE, fragment(3, b"\0\0\0\1")],
        [ACCEPTANCE, fragment(3, command(0x777, VERIFICATION))],  # no such command
        [ACCEPTANCE, fragment(3, SUCCESS[12:30])],  # a command without its field
        [ACCEPTANCE, unbounded(1, MOST_COMMAND)],
        [ACCEPTANCE, fragment(3, command(0x8020, FIND, data=True)) + unbounded(0, MOST_MESSAGE)],
        [ACCEPTANCE, pdu(9, b"")],
    ],
)
def test_odd_answers_end_the_association_at_once(turns: list[bytes], node: AnsweringNode, deaths: list[object]) -> None:
    """They ended pynetdicom's thread with a traceback, and whoever waited for the answer waited until his timeout."""
    node.turns = turns
    threads, start = threading.active_count(), time.monotonic()
    with pytest.raises(CxrdError):
        echo(Peer("127.0.0.1", node.port, "NODE", "CXRD", timeout=60))
    assert time.monotonic() - start < 20
    wait_for(lambda: threading.active_count() <= threads)
    assert deaths == []


def test_a_command_without_end_is_not_kept(node: AnsweringNode) -> None:
    node.turns = [ACCEPTANCE, fragment(1, bytes(BIG)) * 3000]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PeerUnavailable):
        echo(Peer("127.0.0.1", node.port, "NODE", "CXRD", timeout=30))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 250_000  # what the node itself holds, 197 MB


@pytest.mark.parametrize("stated", [None, 0, 1, 6, 7])
def test_a_node_is_answered_whatever_maximum_length_it_states(
    stated: int | None, node: AnsweringNode, deaths: list[object]
) -> None:
    user = ACCEPTANCE[ACCEPTANCE.index(b"\x51\0\0\4") :][:8]
    other = b"" if stated is None else item(0x51, stated.to_bytes(4, "big"))
    at = ACCEPTANCE.index(b"\x50\0", 74)
    body = ACCEPTANCE[6:at] + item(0x50, ACCEPTANCE[at + 4 :].replace(user, other))
    node.turns = [pdu(2, body), SUCCESS, RELEASED]
    echo(Peer("127.0.0.1", node.port, "NODE", "CXRD", timeout=30))
    assert deaths == []


def test_an_object_that_nobody_asked_for_is_not_taken(
    node: AnsweringNode, deaths: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process that also receives, it went to the system's temporary folder, and stayed there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    spool.use(0, tmp_path / "spool")
    try:
        node.turns = [ACCEPTANCE, *message(store_command(b"1.2.3"), bytes(9000))]
        with pytest.raises(PeerUnavailable):
            echo(Peer("127.0.0.1", node.port, "NODE", "CXRD", timeout=30))
    finally:
        spool.leave(0, tmp_path / "spool")
    assert not list((tmp_path / "temporary").iterdir())
    assert deaths == []


def matches(*values: bytes) -> bytes:
    """Return answers to a C-FIND: data sets, and that there are no more."""
    pending = command(0x8020, FIND, number(0x900, 0xFF00), data=True)
    parts = [part for value in values for part in message(pending, value)]
    return b"".join([*parts, *message(command(0x8020, FIND, number(0x900, 0)))])


def test_matches_without_their_uid_are_none(node: AnsweringNode) -> None:
    study = b"\x20\0\x0d\0\4\0\0\x001.2\0"
    series = b"\x20\0\x0e\0\4\0\0\x001.3\0"
    instance = b"\x08\0\x18\0\4\0\0\x001.4\0"
    nothing = b"\x08\0\x60\0\2\0\0\0DX"
    node.turns = [
        acceptance([(1, 0, IMPLICIT), (3, 0, IMPLICIT)]),
        matches(nothing, study),
        matches(nothing, nothing + series),
        matches(nothing, instance),
        RELEASED,
    ]
    with archive(Peer("127.0.0.1", node.port, "NODE", "CXRD", timeout=30), Move("CXRD")) as source:
        (only,) = source.series(Query(), ("DX",))
        assert only == Series("1.2", "1.3", "DX")
        assert source.instances(only) == ["1.4"]


def endless(connection: socket.socket) -> None:
    """Accept both contexts, and answer the C-FIND with matches until nobody listens any more."""
    connection.sendall(acceptance([(1, 0, IMPLICIT), (3, 0, IMPLICIT)]))
    connection.recv(1 << 16)
    pending = command(0x8020, FIND, number(0x900, 0xFF00), data=True)
    study = b"\x20\0\x0d\0\4\0\0\x001.2\0" + b"\x20\0\x10\0\x00\x40\0\0" + bytes(0x4000)
    while True:
        connection.sendall(b"".join(message(pending, study)) * 20)


def test_matches_without_end_are_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their data sets were kept, as many as a PACS sent: 17 MB here, and 3.3 GB with the limit as it is."""
    monkeypatch.setattr(query_retrieve, "MOST_MATCHES", 1000)
    most = [0]

    def wanted(study: Dataset, modalities: tuple[str, ...]) -> str:
        most[0] = max(most[0], source._association.dimse.msg_queue.qsize())
        return study_of(study, modalities)

    study_of = query_retrieve._study_of
    monkeypatch.setattr(query_retrieve, "_study_of", wanted)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (
        answering(endless) as port,
        archive(Peer("127.0.0.1", port, "NODE", "CXRD", timeout=4), Move("CXRD")) as source,
    ):
        with pytest.raises(PeerUnavailable, match="more than 1000 matches: search for less at once"):
            list(source.series(Query(), ("DX",)))
        assert not source._association.is_established
    assert most[0] <= MOST_QUEUED + 20  # what one reading of the connection brings
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000


def test_an_answer_about_one_study_must_end() -> None:
    study = Dataset()
    study.StudyInstanceUID, study.PatientID = "1.2", "x"
    with answering(endless) as port, pytest.raises(PeerUnavailable, match="for one study without end"):
        finds(Peer("127.0.0.1", port, "NODE", "CXRD", timeout=4), study)


def pending(kind: int, model: str, count: int, seconds: float) -> Callable[[socket.socket], None]:
    """Accept, and answer a request with *pending* so many times, and so many seconds apart; for ever where it is 0."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(acceptance([(1, 0, IMPLICIT), (3, 0, IMPLICIT)]))
        connection.recv(1 << 16)
        one = b"".join(message(command(kind, model, number(0x900, 0xFF00)), context=3))
        for _ in range(count or 1_000_000):
            connection.sendall(one * (1 if seconds else 100))
            time.sleep(seconds)

    return answer


def retrieved(port: int) -> None:
    with archive(Peer("127.0.0.1", port, "NODE", "CXRD", timeout=1), Move("CXRD")) as source:
        source.fetch(Series("1.2", "1.3", "DX"), [])


def test_pending_answers_without_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_retrieve, "MOST_MATCHES", 500)
    start = time.monotonic()
    with (
        answering(pending(0x8021, MOVE, 0, 0)) as port,
        pytest.raises(PeerUnavailable, match="answers the C-MOVE more than 500 times, and not at last"),
    ):
        retrieved(port)
    assert time.monotonic() - start < 10


def test_pending_answers_that_trickle_are_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each comes within `timeout`: 100,000 of them took a month."""
    monkeypatch.setattr(query_retrieve, "RETRIEVAL", 2.5)
    start = time.monotonic()
    with (
        answering(pending(0x8021, MOVE, 30, 0.4)) as port,
        pytest.raises(PeerUnavailable, match=r"not ended its answer to the C-MOVE within 2\.5 s"),
    ):
        retrieved(port)
    assert 2 < time.monotonic() - start < 8


def test_matches_that_trickle_are_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_retrieve, "SEARCH", 2.5)

    def trickling(connection: socket.socket) -> None:
        connection.sendall(acceptance([(1, 0, IMPLICIT), (3, 0, IMPLICIT)]))
        connection.recv(1 << 16)
        one = command(0x8020, FIND, number(0x900, 0xFF00), data=True)
        for _ in range(30):
            connection.sendall(b"".join(message(one, b"\x20\0\x0d\0\4\0\0\x001.2\0")))
            time.sleep(0.4)

    with (
        answering(trickling) as port,
        archive(Peer("127.0.0.1", port, "NODE", "CXRD", timeout=1), Move("CXRD")) as source,
        pytest.raises(PeerUnavailable, match=r"not ended its answer to the C-FIND within 2\.5 s"),
    ):
        list(source.series(Query(), ("DX",)))


def test_objects_without_end_are_given_up(tmp_path: Path) -> None:
    """A C-GET whose peer sends one object after the other, and never an answer."""
    got: list[Arrival] = []

    def receive(arrival: Arrival) -> int:
        got.append(arrival)
        return 0x0000

    def endless_objects(connection: socket.socket) -> None:
        role = item(0x54, len(CR).to_bytes(2, "big") + CR.encode() + b"\0\1")
        connection.sendall(acceptance([(1, 0, IMPLICIT), (3, 0, IMPLICIT), (5, 0, EXPLICIT)], user=role))
        connection.recv(1 << 16)
        while True:
            connection.sendall(b"".join(message(store_command(b"1.2.3"), bytes(100), context=5)))

    limits = Limits(max_mb=1, most_objects=20)
    by = Get(Receipt(receive, tmp_path / "spool", "CXRD", limits), (CR,))
    (tmp_path / "spool").mkdir()
    with (
        answering(endless_objects) as port,
        archive(Peer("127.0.0.1", port, "NODE", "CXRD", timeout=4), by) as source,
        pytest.raises(PeerUnavailable),
    ):
        source.fetch(Series("1.2", "1.3", "DX"), [])
    assert 0 < len(got) <= 20
    assert list((tmp_path / "spool").iterdir()) == []


def test_what_comes_while_we_release_is_not_kept() -> None:
    """It was collected as long as the release was waited for."""
    most = [0]

    def flooding(connection: socket.socket) -> None:
        connection.sendall(ACCEPTANCE)
        connection.recv(1 << 16)
        connection.sendall(SUCCESS)
        connection.recv(1 << 16)
        for _ in range(400):
            connection.sendall(SUCCESS * 20)

    seen = DIMSEServiceProvider.receive_primitive

    def watching(self: DIMSEServiceProvider, primitive: object) -> None:
        seen(self, primitive)  # type: ignore[arg-type]
        most[0] = max(most[0], self.msg_queue.qsize())

    with pytest.MonkeyPatch.context() as patch, answering(flooding) as port:
        patch.setattr(DIMSEServiceProvider, "receive_primitive", watching)
        echo(Peer("127.0.0.1", port, "NODE", "CXRD", timeout=1))
    assert most[0] <= 1
