"""HL7 over TLS: who is trusted, what is encrypted, and what is said where it does not come about."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pytest

from dicom_io.errors import InvalidSettings, NotNow, PeerUnavailable
from dicom_io.network.tls import client_context
from tests.integration.deliver.test_hl7 import made
from tests.support.certificates import certificate, server_context
from tests.support.mllp import receiver
from tests.support.models import tiny
from tests.support.peers import chest, send, wait_for
from worker.deliver.destinations import sender_of
from worker.deliver.hl7 import receiver_of
from worker.deliver.mllp import Hl7Peer, connect
from worker.destination_settings import DicomDestination, Hl7Destination, TlsFiles, WebhookDestination
from worker.engines.daemon import Daemon
from worker.health import check
from worker.settings import Settings, load

Pair = tuple[Path, Path]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return certificate(tmp_path_factory.mktemp("certificate"))


def peer(port: int, trusted: Path | None, *, host: str = "127.0.0.1", timeout: float = 5) -> Hl7Peer:
    place = Hl7Destination(name="ris", hl7=f"{host}:{port}", tls=True, ca_file=trusted, timeout=timeout)
    return receiver_of(place)


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_messages_go_over_one_connection(pair: Pair, newest: ssl.TLSVersion, host: str) -> None:
    context = server_context(pair)
    context.maximum_version = newest
    with receiver(context) as there, connect(peer(there.port, pair[0], host=host)) as delivery:
        delivery.open()
        time.sleep(0.2)  # session tickets arrive, which are no answer
        for _ in range(3):
            assert delivery.send(made(PatientName="Müller^Jörg")) == "AA"
        assert there.connections == 1
        for answer in ("hang-up", "chatty", "AA"):
            there.answers = [answer]
            delivery.send(made())
            time.sleep(0.2)
        assert there.connections == 3
        assert len(there.messages) == 6
        assert "Müller".encode() in there.messages[0]
        assert set(there.versions) == {"TLSv1.2" if newest == ssl.TLSVersion.TLSv1_2 else "TLSv1.3"}


@pytest.mark.parametrize("answer", ["close", "cut", "silence"])
def test_a_lost_answer_is_told_as_without_tls(pair: Pair, answer: str) -> None:
    with receiver(server_context(pair)) as there, connect(peer(there.port, pair[0], timeout=1)) as delivery:
        there.answers = [answer]
        with pytest.raises((NotNow, PeerUnavailable), match=r"without an answer|answer in time"):
            delivery.send(made())
        assert delivery.send(made()) == "AA"


@pytest.mark.parametrize(
    ("names", "days", "trusted", "words"),
    [
        ("IP:127.0.0.1", 1, False, "its certificate does not hold: self-signed certificate"),
        ("DNS:ris.example.org", 1, True, "its certificate does not hold: IP address mismatch, .*127.0.0.1"),
        ("IP:127.0.0.1", -1, True, "its certificate does not hold: certificate has expired"),
    ],
)
def test_a_certificate_that_does_not_hold_is_named_and_nothing_is_sent(
    tmp_path: Path, names: str, days: int, trusted: bool, words: str
) -> None:
    own = certificate(tmp_path, names, days=days)
    with receiver(server_context(own)) as there, connect(peer(there.port, own[0] if trusted else None)) as delivery:
        with pytest.raises(PeerUnavailable, match=f"^the HL7 receiver: {words}"):
            delivery.send(made())
        assert there.messages == []


def test_who_does_not_speak_tls_is_told_so(pair: Pair) -> None:
    with receiver() as there, connect(peer(there.port, pair[0], timeout=1)) as delivery:
        with pytest.raises(PeerUnavailable, match=r"no TLS (connection|handshake).*does it speak TLS on this port"):
            delivery.send(made())
        assert there.messages == []
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        connect(peer(mute.getsockname()[1], None, timeout=1)) as to,
        pytest.raises(PeerUnavailable, match="no TLS handshake in time"),
    ):
        to.send(made())


@pytest.mark.parametrize(
    ("newest", "words"),
    [
        (ssl.TLSVersion.TLSv1_2, r"^the HL7 receiver: it refuses the TLS handshake \(SSLV3_ALERT_HANDSHAKE_FAILURE\)$"),
        (ssl.TLSVersion.TLSv1_3, r"was lost \((TLSV13_ALERT_CERTIFICATE_REQUIRED|\w+Error)\)$"),
    ],
)
def test_who_wants_a_certificate_of_ours_says_so(pair: Pair, newest: ssl.TLSVersion, words: str) -> None:
    context = server_context(pair)
    context.maximum_version = newest
    context.verify_mode = ssl.CERT_REQUIRED
    with receiver(context) as there, connect(peer(there.port, pair[0])) as delivery:
        with pytest.raises((NotNow, PeerUnavailable), match=words):
            delivery.send(made())
        assert there.messages == []


def test_without_tls_nothing_is_said_to_one_who_speaks_it(pair: Pair) -> None:
    with receiver(server_context(pair)) as there, connect(Hl7Peer("127.0.0.1", there.port, timeout=2)) as delivery:
        with pytest.raises((NotNow, PeerUnavailable)):
            delivery.send(made())
        assert there.messages == []


def test_cxrd_check_looks_at_the_certificate(pair: Pair) -> None:
    with receiver(server_context(pair)) as there:
        where = f"127.0.0.1:{there.port}"
        for trusted, expected in (
            (pair[0], (True, f"{where} takes TLS connections; no message was sent")),
            (None, (False, "the HL7 receiver: its certificate does not hold: self-signed certificate")),
        ):
            settings = Settings(destinations=(Hl7Destination(name="ris", hl7=where, tls=True, ca_file=trusted),))
            assert [(check.ok, check.text) for check in check.run(settings, "ris")] == [expected]
        hook = Settings(destinations=(WebhookDestination(name="hook", webhook=f"https://{where}/"),))
        (seen,) = check.run(hook, "hook")
        assert (seen.ok, seen.text) == (False, f"{where}: its certificate does not hold: self-signed certificate")


def test_a_daemon_tells_a_receiver_over_tls(pair: Pair, tmp_path: Path) -> None:
    with receiver(server_context(pair)) as there:
        there.answers = ["close"]
        place = {"name": "ris", "hl7": f"localhost:{there.port}", "tls": True, "ca_file": pair[0], "timeout": 2}
        parts: dict[str, Any] = {
            "scp": {"port": 0},
            "storage": {"folder": tmp_path / "data", "min_free_mb": 0},
            "outbox": {"retry_first": 0.1, "retry_max": 0.2},
            "model": {"folder": tiny(tmp_path / "model", bias=60.0)},
            "destinations": [place],
        }
        daemon = Daemon(Settings.model_validate(parts))
        daemon.start()
        try:
            assert send(daemon.port, [chest("tls", rows=200, cols=200)]) == [0x0000]
            wait_for(lambda: daemon.ledger.counts().get("delivery_sent") == 1, 60)
        finally:
            daemon.stop()
        assert len(there.messages) == 2
        assert there.messages[0] == there.messages[1]


# ---- settings -------------------------------------------------------------------------------------------------------


def test_the_file_is_meant_from_where_the_settings_are(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(pair[0].read_bytes())
    path = tmp_path / "config.yaml"
    path.write_text("destinations:\n  - {name: ris, hl7: 'h:1', tls: true, ca_file: ca.pem}\n")
    settings = load(path)
    (ris,) = settings.destinations
    assert isinstance(ris, Hl7Destination)
    assert ris.ca_file == tmp_path / "ca.pem"
    trusting = receiver_of(ris)
    assert trusting.tls is not None
    assert trusting.tls.cert_store_stats()["x509"] == 1  # and no others


def test_a_file_that_is_of_no_use_is_told_at_the_start(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate")
    for path, words in ((empty, "holds no certificate in PEM form"), (tmp_path / "none.pem", "No such file")):
        place = Hl7Destination(name="ris", hl7="h:1", tls=True, ca_file=path)
        with pytest.raises(InvalidSettings, match=f"^destination ris: ca_file {path}: {words}"):
            receiver_of(place)
        node = DicomDestination(name="pacs", host="h", port=1, ae_title="PACS", tls=TlsFiles(ca_file=path))
        with pytest.raises(InvalidSettings, match=f"^destination pacs: ca_file {path}: {words}"):
            sender_of(node, Settings())
    context = client_context(None)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
