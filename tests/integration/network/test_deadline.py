"""A peer that sends its answer byte by byte holds nobody longer than the timeout says."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from dicom_io.dicomweb.stow import WebPeer, reach, stow_session
from dicom_io.dicomweb.wado import web_archive
from dicom_io.errors import AssociationLost, PeerUnavailable
from dicom_io.network.query_retrieve import Receipt, Series
from dicom_io.objects.common import encode
from tests.support.peers import chest
from worker.deliver.webhook import WebhookSender
from worker.destination_settings import WebhookDestination
from worker.settings import Settings

STATUS = b"HTTP/1.1 200 OK\r\n"
TIMEOUT = 0.6
# At once, then one byte every 50 ms without end: half a header line, whole header lines, and pieces of a chunked body.
BEGINNINGS = {
    "status": (b"HTTP/1.1 2", b"0"),
    "header": (STATUS, b"X: 1\r\nY"),
    "endless line": (STATUS + b"X: ", b"x"),
    "body": (STATUS + b"Content-Type: application/dicom+json\r\nContent-Length: 9999\r\n\r\n", b" "),
    "chunk": (STATUS + b"Content-Type: application/dicom+json\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
}


@contextlib.contextmanager
def trickling(first: bytes, then: bytes) -> Iterator[str]:
    """Answer every request with `first`, then a byte of `then` at a time."""
    ended = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 20)
            connection.sendall(first)
            for each in itertools.cycle(then):
                if ended.wait(0.05):
                    return
                connection.sendall(bytes([each]))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        ended.set()


@contextlib.contextmanager
def soon() -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < 4 * TIMEOUT


@pytest.mark.parametrize("kind", ["status", "header", "endless line"])
def test_a_webhook_that_trickles_is_given_up(kind: str) -> None:
    with trickling(*BEGINNINGS[kind]) as url, soon():
        sender = WebhookSender(
            WebhookDestination(name="hook", webhook=url, secret=SecretStr("x"), timeout=TIMEOUT), Settings()
        )
        with pytest.raises(AssociationLost, match="did not answer"):
            sender.post(b"{}")


@pytest.mark.parametrize("kind", list(BEGINNINGS))
def test_a_server_that_trickles_while_it_stores_is_given_up(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "object.dcm"
    path.write_bytes(encode(chest("stored")))
    with (
        trickling(*BEGINNINGS[kind]) as url,
        soon(),
        stow_session(WebPeer(url, timeout=TIMEOUT)) as session,
        pytest.raises(AssociationLost, match=r"in time|did not answer"),
    ):
        session.store(path)


def _searches(peer: WebPeer, folder: Path) -> None:
    with web_archive(peer, Receipt(lambda _: 0, folder, ""), "") as archive:
        archive.instances(Series("1.2", "1.2.3", "CR"))


def _fetches(peer: WebPeer, folder: Path) -> None:
    with web_archive(peer, Receipt(lambda _: 0, folder, ""), "") as archive:
        fault = archive.fetch(Series("1.2", "1.2.3", "CR"), ["1.2.3.4"])
    assert fault
    raise PeerUnavailable(fault)


@pytest.mark.parametrize("kind", list(BEGINNINGS))
@pytest.mark.parametrize("step", [lambda peer, _: reach(peer), _searches, _fetches], ids=["check", "search", "fetch"])
def test_a_server_that_trickles_while_it_is_asked_is_given_up(
    step: Callable[[WebPeer, Path], None], kind: str, tmp_path: Path
) -> None:
    with trickling(*BEGINNINGS[kind]) as url, soon(), pytest.raises(PeerUnavailable):
        step(WebPeer(url, timeout=TIMEOUT), tmp_path)


def test_a_slow_answer_within_the_time_is_taken(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 204 None\r\n\r\n"
    with trickling(answer[:12], answer[12:]) as url:
        sender = WebhookSender(WebhookDestination(name="hook", webhook=url, timeout=5.0), Settings())
        assert sender.post(b"{}").status == 0
