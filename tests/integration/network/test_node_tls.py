"""DICOM over TLS, both ways: who is let in, what is said to whom is not, and whom a handshake may hold up."""

from __future__ import annotations

import datetime as dt
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from dicom_io.errors import AssociationRejected, InvalidSettings, NotSecure, PeerUnavailable
from dicom_io.network.certificates import days_left
from dicom_io.network.ending import Cause
from dicom_io.network.storage_scu import Peer, associate, echo
from dicom_io.network.tls import ClientTls, ServerTls, client_context, server_context
from tests.integration.network.conftest import WatchedNode
from tests.support.certificates import certificate
from tests.support.peers import chest, wait_for
from tests.support.raw_peer import RawPeer, request
from tests.support.tools import tool

Start = Callable[..., WatchedNode]
Pair = tuple[Path, Path]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return certificate(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return certificate(tmp_path_factory.mktemp("theirs"))


def tls(ours: Pair, theirs: Pair | None, clients: str = "required", port: int = 0) -> ServerTls:
    return ServerTls(port, *ours, theirs[0] if theirs else None, clients)  # type: ignore[arg-type]


def peer(port: int, trusted: Pair | None, shown: Pair | None = None, host: str = "127.0.0.1") -> Peer:
    client = ClientTls(trusted[0] if trusted else None, *(shown or (None, None)))
    return Peer(host, port, "CXRD", "TEST", timeout=5, tls=client)


@pytest.mark.parametrize("clients", ["required", "optional", "none"])
def test_an_association_over_tls_beside_a_plain_one(watched: Start, ours: Pair, theirs: Pair, clients: str) -> None:
    node = watched(tls=tls(ours, theirs, clients))
    secure = node.node.tls_port
    assert secure not in (None, node.port)
    echo(Peer("127.0.0.1", node.port, "CXRD", "TEST", timeout=5))
    echo(peer(secure or 0, ours, theirs))
    assert node.ends(2) == []


def test_tls_alone(watched: Start, ours: Pair, theirs: Pair) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    node = watched(port=port, tls=tls(ours, theirs, port=port))
    assert node.port == node.node.tls_port == port
    echo(peer(port, ours, theirs))
    with pytest.raises(PeerUnavailable):
        echo(Peer("127.0.0.1", port, "CXRD", "TEST", timeout=5))
    assert node.ends(2)[-1] == ("insecure", "no TLS; this port takes nothing else")


def test_who_is_not_let_in_is_told_in_a_line(watched: Start, ours: Pair, theirs: Pair, tmp_path: Path) -> None:
    expired, stranger = certificate(tmp_path / "expired", days=-1), certificate(tmp_path / "stranger")
    for shown, reason in (
        (None, "it shows no certificate (scp.tls.clients)"),
        (expired, "its certificate does not hold: certificate has expired"),
        (stranger, "its certificate does not hold: self-signed certificate"),
    ):
        node = watched(tls=tls(ours, expired if shown is expired else theirs))
        port = node.node.tls_port or 0
        with pytest.raises(PeerUnavailable, match=rf"127\.0\.0\.1:{port}: it refuses the TLS handshake"):
            echo(peer(port, ours, shown))
        wait_for(lambda node=node: node.causes)  # type: ignore[misc]
        assert node.causes == [Cause.INSECURE]
        assert reason in node.reasons
        assert node.rejected == [("", "127.0.0.1", reason)], "for the audit"


def test_whom_we_do_not_call_is_told_in_a_line(watched: Start, ours: Pair, theirs: Pair, tmp_path: Path) -> None:
    names = certificate(tmp_path / "other", "DNS:pacs.example")
    expired = certificate(tmp_path / "expired", days=-1)
    for shown, trusted, words in (
        (ours, theirs, "its certificate does not hold: self-signed certificate"),
        (names, names, "its certificate does not hold: IP address mismatch"),
        (expired, expired, "its certificate does not hold: certificate has expired"),
    ):
        port = watched(tls=tls(shown, None, "none")).node.tls_port or 0
        with pytest.raises(PeerUnavailable, match=words):
            echo(peer(port, trusted))


def test_tls_against_a_plain_port_and_the_other_way_round(watched: Start, ours: Pair) -> None:
    node = watched(tls=tls(ours, None, "none"))
    with pytest.raises(PeerUnavailable, match="does it speak TLS on this port"):
        echo(peer(node.port, ours))
    with RawPeer(node.node.tls_port or 0) as plain:
        plain.send(request())
        plain.answer()
    assert node.ends(2) == [
        ("malformed", "a TLS handshake; this port speaks DICOM without TLS"),
        ("insecure", "no TLS; this port takes nothing else"),
    ]


def test_handshakes_that_never_end_hold_nobody_up(watched: Start, ours: Pair, theirs: Pair) -> None:
    node = watched(tls=tls(ours, theirs), association_timeout=2.0, maximum_associations=2)
    port = node.node.tls_port or 0
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(30)]
    try:
        for each in silent[:15]:
            each.sendall(b"\x16\x03\x01")
        before = time.monotonic()
        echo(peer(port, ours, theirs))
        assert time.monotonic() - before < 2
        reasons = {reason for _, reason in node.ends(31)}
    finally:
        for each in silent:
            each.close()
    assert reasons == {"no TLS handshake within 2 s"}


def test_a_record_that_comes_in_parts_does_not_hold_up_the_end(watched: Start, ours: Pair) -> None:
    """The loop of the upper layer must see that the node stops, whatever part of a record it waits for."""
    node = watched(tls=tls(ours, None, "none"))
    context = ssl.create_default_context(cafile=ours[0])
    raw = socket.create_connection(("127.0.0.1", node.node.tls_port or 0))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    talk = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with raw:
        while True:
            try:
                talk.do_handshake()
                break
            except ssl.SSLWantReadError:
                raw.sendall(outgoing.read())
                incoming.write(raw.recv(65536))
        talk.write(request())
        record = outgoing.read()
        raw.sendall(record[:-5])
        time.sleep(0.5)
        before = time.monotonic()
        node.node.stop(grace=0.1)
        assert time.monotonic() - before < 3


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_agrees_on_the_profile(watched: Start, ours: Pair, theirs: Pair, version: str) -> None:
    node = watched(tls=tls(ours, theirs))
    command = [tool("openssl"), "s_client", "-connect", f"127.0.0.1:{node.node.tls_port}", "-CAfile", str(ours[0])]
    shown = ["-cert", str(theirs[0]), "-key", str(theirs[1]), "-verify_return_error"]

    def talk(*options: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*command, *shown, *options], check=False, input=b"", capture_output=True, timeout=60)

    done = talk(version)
    assert b"Verification: OK" in done.stdout
    assert b"GCM" in done.stdout or b"CHACHA20" in done.stdout
    assert talk("-tls1_1").returncode != 0
    assert talk("-tls1_2", "-cipher", "AES128-SHA").returncode != 0


def test_storescu_of_dcmtk_sends_over_tls(watched: Start, ours: Pair, theirs: Pair, tmp_path: Path) -> None:
    node = watched(tls=tls(ours, theirs))
    chest("tls", rows=900, cols=700).save_as(tmp_path / "image.dcm", enforce_file_format=True)
    keys = ["+tls", str(theirs[1]), str(theirs[0]), "+cf", str(ours[0])]
    command = [
        tool("storescu"),
        *keys,
        "-aec",
        "CXRD",
        "127.0.0.1",
        str(node.node.tls_port),
        str(tmp_path / "image.dcm"),
    ]
    done = subprocess.run(command, check=False, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(node.arrivals) == 1
    without = subprocess.run(
        [tool("storescu"), "+tla", "+cf", str(ours[0]), *command[6:]], check=False, capture_output=True, timeout=60
    )
    assert without.returncode != 0
    assert node.ends(2)[-1] == ("insecure", "it shows no certificate (scp.tls.clients)")


def test_files_that_cannot_be_used_are_named(ours: Pair, theirs: Pair, tmp_path: Path) -> None:
    for certificate_file, key, words in (
        (tmp_path / "none.pem", ours[1], "No such file"),
        (ours[0], theirs[1], "the key is not that of the certificate"),
        (ours[1], ours[1], "no certificate and key"),
    ):
        with pytest.raises(InvalidSettings, match=words):
            server_context(ServerTls(0, certificate_file, key, clients="none"))
        with pytest.raises(InvalidSettings, match=words):
            client_context(ours[0], certificate_file, key)


def test_days_left(tmp_path: Path) -> None:
    moment = dt.datetime.now(dt.UTC)
    for days in (40, 20000, -1):
        file, key = certificate(tmp_path / str(days), days=days)
        assert abs(days_left(file, moment) - days) < 0.01
    with pytest.raises(InvalidSettings, match="holds no certificate"):
        days_left(key, moment)


@pytest.mark.parametrize(
    ("networks", "admitted"),
    [(["127.0.0.0/8"], True), (["127.0.0.1"], True), (["10.0.0.0/8", "127.0.0.1/32"], True), (["10.0.0.0/8"], False)],
)
def test_a_title_calls_from_its_networks_alone(watched: Start, networks: list[str], admitted: bool) -> None:
    node = watched(allowed_calling=[{"ae_title": "TEST", "networks": networks}, "OTHER"])
    echo(Peer("127.0.0.1", node.port, "CXRD", "OTHER", timeout=5))
    if admitted:
        echo(Peer("127.0.0.1", node.port, "CXRD", "TEST", timeout=5))
        return
    with pytest.raises(AssociationRejected, match="does not know our calling AE title TEST"):
        echo(Peer("127.0.0.1", node.port, "CXRD", "TEST", timeout=5))
    assert node.ends(2)[-1] == ("rejected", "its AE title may not call from this address (scp.allowed_calling)")
    assert [about[:2] for about in node.rejected] == [("TEST", "127.0.0.1")]


@pytest.mark.parametrize(
    ("networks", "called", "admitted"),
    [
        (["127.0.0.0/8"], "STAT", True),
        (["10.0.0.0/8"], "STAT", False),
        (["10.0.0.0/8"], "CXRD", True),
        (["10.0.0.0/8"], "OLD", True),
        (["127.0.0.1"], "OTHER", False),
    ],
)
def test_a_title_of_ours_is_called_from_its_networks_alone(
    watched: Start, networks: list[str], called: str, admitted: bool
) -> None:
    node = watched(allowed_called=[{"ae_title": "STAT", "networks": networks}, "OLD"])
    caller = Peer("127.0.0.1", node.port, called, "TEST", timeout=5)
    if admitted:
        echo(caller)
        return
    with pytest.raises(AssociationRejected, match=f"does not answer to the AE title {called}"):
        echo(caller)
    wait_for(lambda: node.rejected)
    assert ("scp.require_called" if called == "OTHER" else "scp.allowed_called") in node.rejected[0][2]


def test_a_renewed_certificate_is_taken_up_and_no_association_ends(
    watched: Start, theirs: Pair, tmp_path: Path
) -> None:
    files = certificate(tmp_path / "files")
    old = certificate(tmp_path / "old")
    for source, target in zip(old, files, strict=True):
        shutil.copyfile(source, target)
    node = watched(tls=ServerTls(0, *files, theirs[0]))
    port = node.node.tls_port or 0
    with associate(peer(port, old, theirs), [build_context(Verification)]) as association:
        new = certificate(tmp_path / "new")
        shutil.copyfile(new[0], files[0])
        with pytest.raises(InvalidSettings, match="the key is not that of the certificate"):
            node.node.renew_certificate()  # half of it is there
        echo(peer(port, old, theirs))
        shutil.copyfile(new[1], files[1])
        assert 0.9 < (node.node.renew_certificate() or 0) <= 1
        echo(peer(port, new, theirs))
        with pytest.raises(NotSecure):
            echo(peer(port, old, theirs))
        assert association.send_c_echo().Status == 0x0000
    assert watched().node.renew_certificate() is None
