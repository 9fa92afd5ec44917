"""Syslog by UDP and TLS: the form of RFC 5424, frames, and what is said where a server is not there."""

from __future__ import annotations

import datetime as dt
import re
import socket
import threading
from pathlib import Path

import pytest

from dicom_io.errors import CxrdError, InvalidSettings, OutOfResources
from tests.support.certificates import certificate, server_context
from tests.support.orthanc import free_port
from tests.support.peers import wait_for
from tests.support.syslog import silent_listener, tls_collector, udp_collector
from worker import syslog
from worker.syslog import AUDIT, SECURITY, Collector, message, send

NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)


def lines(count: int) -> list[bytes]:
    return [message(NOON, f"words {number}", "kind", SECURITY) for number in range(count)]


def test_a_message_has_the_form_of_rfc_5424() -> None:
    whole = message(NOON, "words", "anchor", AUDIT).decode()
    assert re.fullmatch(r"<109>1 2026-01-31T12:00:00\.000Z \S+ cxrd \d+ anchor - words", whole)
    assert message(NOON, "words", "DICOM+RFC3881", SECURITY).startswith(b"<85>1 ")


def test_datagrams() -> None:
    with udp_collector() as collector:
        send(Collector(collector.url, "audit.syslog"), lines(3))
        wait_for(lambda: len(collector.raw) == 3)
    assert [each.words for each in collector.messages] == ["words 0", "words 1", "words 2"]


def test_nobody_listens_for_datagrams() -> None:
    url = f"udp://127.0.0.1:{free_port()}"
    with pytest.raises(OutOfResources, match=r"audit\.syslog 127\.0\.0\.1:\d+: Connection refused"):
        send(Collector(url, "audit.syslog"), lines(3))


def test_frames_over_tls_are_all_there_when_it_returns(tmp_path: Path) -> None:
    pair = certificate(tmp_path)
    with tls_collector(pair) as collector:
        send(Collector(collector.url, "audit.syslog", pair[0]), lines(500))
        assert [each.words for each in collector.messages] == [f"words {number}" for number in range(500)]


def test_who_does_not_prove_itself_gets_nothing_and_is_named(tmp_path: Path) -> None:
    pair, ours = certificate(tmp_path / "server"), certificate(tmp_path / "ours")
    expired = certificate(tmp_path / "expired", days=-1)
    other = certificate(tmp_path / "other", "DNS:loghost.example")
    for shown, trusted, words in (
        (pair, None, "its certificate does not hold: self-signed certificate"),
        (expired, expired[0], "its certificate does not hold: certificate has expired"),
        (other, other[0], "its certificate does not hold: IP address mismatch"),
    ):
        with tls_collector(shown) as collector, pytest.raises(CxrdError, match=words):
            send(Collector(collector.url, "audit.syslog", trusted), lines(1))
        assert collector.raw == []
    with tls_collector(pair, clients=ours[0]) as collector:
        with pytest.raises(CxrdError, match=r"it refuses the TLS handshake .*CERTIFICATE_REQUIRED|it broke off"):
            send(Collector(collector.url, "audit.syslog", pair[0]), lines(1))
        assert collector.raw == []
        send(Collector(collector.url, "audit.syslog", pair[0], *ours), lines(1))
        assert len(collector.raw) == 1


def test_a_server_that_says_nothing_or_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syslog, "_TIMEOUT", 0.5)
    with silent_listener() as url, pytest.raises(CxrdError, match="no answer in time"):
        send(Collector(url, "audit.syslog"), lines(1))
    with pytest.raises(OutOfResources, match="Connection refused"):
        send(Collector(f"tls://127.0.0.1:{free_port()}", "audit.syslog"), lines(1))
    with pytest.raises(InvalidSettings, match="ca_file"):
        send(Collector("tls://127.0.0.1:1", "audit.syslog", tmp_path / "none.pem"), lines(1))


def test_a_server_that_closes_before_it_has_everything_is_a_failure(tmp_path: Path) -> None:
    """It may have been stopped: what it did not read is sent again."""
    pair = certificate(tmp_path)
    context = server_context(pair)

    def serve(listener: socket.socket, count: int) -> None:
        connection, _ = listener.accept()
        with context.wrap_socket(connection, server_side=True) as channel:
            channel.recv(count) if count else None

    for count in (0, 100):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=serve, args=[listener, count], daemon=True)
            thread.start()
            url = f"tls://127.0.0.1:{listener.getsockname()[1]}"
            with pytest.raises(OutOfResources):
                send(Collector(url, "audit.syslog", pair[0]), lines(200))
            thread.join(10)
