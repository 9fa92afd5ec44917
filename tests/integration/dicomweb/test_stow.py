"""STOW-RS: what a server's answers mean to the outbox."""

from __future__ import annotations

import gzip
import itertools
import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from dicom_io.dicomweb.stow import WebPeer, reach, stow_session
from dicom_io.dicomweb.wado import web_archive
from dicom_io.errors import AssociationLost, InvalidSettings, NotNow, PeerUnavailable
from dicom_io.network.query_retrieve import Receipt, Series
from dicom_io.objects.common import encode
from tests.support.orthanc import Orthanc, free_port
from tests.support.peers import chest
from worker.destination_settings import DicomwebDestination
from worker.settings import load


@contextmanager
def serving_bytes(body: bytes) -> Iterator[str]:
    """Answer every request with these bytes."""
    with serving(200, body) as (url, _):
        yield url


@contextmanager
def serving(
    status: int, body: Any = None, kind: str = "application/dicom+json", **headers: str
) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Answer every request alike, on a free port of the loopback address."""
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def do_GET(self) -> None:
            asked.append({"path": self.path, **dict(self.headers)})
            data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_arguments: Any) -> None:
            pass

    with listening(Handler) as url:
        yield f"{url}/dicom-web", asked


@contextmanager
def streaming(pieces: Iterable[bytes], length: int) -> Iterator[tuple[str, list[int]]]:
    """Answer a request with these pieces, as long as somebody reads them; yield where, and the sizes of the pieces."""
    sizes: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(length))
            self.end_headers()
            with suppress(OSError):
                for piece in pieces:
                    self.wfile.write(piece)
                    sizes.append(len(piece))

        def log_message(self, *_arguments: Any) -> None:
            pass

    with listening(Handler) as url:
        yield f"{url}/dicom-web", sizes


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run an HTTP server for the length of a block; yield its address."""
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


OBJECT = chest("stow", rows=64, cols=64)
UID = str(OBJECT.SOPInstanceUID)
JSON = "application/dicom+json"


@pytest.fixture
def object_(tmp_path: Path) -> Path:
    path = tmp_path / "object.dcm"
    path.write_bytes(encode(OBJECT))
    return path


def item(uid: str, tag: str = "", reason: int | None = None) -> dict[str, Any]:
    """Return what an answer in JSON says of one object."""
    about: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}} if uid else {}
    return about | ({tag: {"vr": "US", "Value": [reason]}} if reason is not None else {})


def failed(reason: int | None, uid: str = UID) -> dict[str, Any]:
    return {"00081198": {"vr": "SQ", "Value": [item(uid, "00081197", reason)]}}


def stored(warning: int | None = None, uid: str = UID) -> dict[str, Any]:
    return {"00081199": {"vr": "SQ", "Value": [item(uid, "00081196", warning)]}}


def native(sequence: str, reason: str = "", value: int = 0) -> bytes:
    """Return an answer about our object in XML."""
    more = f'<DicomAttribute tag="{reason}" vr="US"><Value number="1">{value}</Value></DicomAttribute>' * bool(reason)
    return (
        '<?xml version="1.0"?><NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">'
        f'<DicomAttribute tag="{sequence}" vr="SQ"><Item number="1"><DicomAttribute tag="00081155" vr="UI">'
        f'<Value number="1">{UID}</Value></DicomAttribute>{more}</Item></DicomAttribute></NativeDicomModel>'
    ).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind", "expected"),
    [
        (200, stored(), JSON, 0x0000),
        (200, stored(), f'{JSON}; charset="utf-8"; transfer-syntax=1.2.840.10008.1.2.1', 0x0000),
        (200, stored(), "application/json", 0x0000),
        (200, [stored()], JSON, 0x0000),
        (200, stored(uid=UID + " "), JSON, 0x0000),
        (200, native("00081199"), "application/dicom+xml; charset=utf-8", 0x0000),
        (202, stored(0xB006), JSON, 0xB006),
        (202, stored(0xC000), JSON, 0x0000),  # it has the object, whatever it means by that
        (202, failed(0x0122), JSON, 0x0122),
        (202, failed(0xA700), JSON, 0xA700),
        (200, failed(0xC122), f"{JSON};charset=UTF-8", 0xC122),
        (202, failed(None), JSON, 0xA900),
        (202, failed(0x0110, uid=""), JSON, 0x0110),  # of one object that was sent, it is the one
        (200, stored() | failed(0xA900), JSON, 0xA900),
        (200, native("00081198", "00081197", 0xA700), "application/dicom+xml", 0xA700),
        (409, failed(0xC122), f"{JSON}; charset=utf-8", 0xC122),
        (409, failed(0xA700), JSON, 0xA700),
        (409, failed(0x0000), JSON, 0xA900),
        (409, None, "text/plain", 0xA900),
        (400, b"<html>", "text/html", 0xA900),
        (415, None, "text/plain", 0xA900),
    ],
)
def test_an_answer_about_the_object_becomes_a_status(
    status: int, body: Any, kind: str, expected: int, object_: Path
) -> None:
    with serving(status, body, kind) as (url, asked), stow_session(WebPeer(url, "cxrd", "secret")) as delivery:
        assert delivery.store(object_) == expected
    assert asked[0]["path"] == "/dicom-web/studies"
    assert asked[0]["Accept"] == JSON
    assert asked[0]["Authorization"].startswith("Basic ")
    assert len(asked) == 1  # the outbox repeats, at its own pace


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "does not say that it has stored this object"),
        (stored(uid="1.2.3"), "does not say that it has stored this object"),
        (failed(0xA700, uid="1.2.3"), "does not say that it has stored this object"),
        (failed(0xB000), "counts this object as failed, and gives status 0xB000"),
    ],
)
def test_an_answer_that_does_not_name_the_object_is_no_success(body: Any, words: str, object_: Path) -> None:
    with serving(200, body) as (url, _), stow_session(WebPeer(url)) as delivery, pytest.raises(NotNow, match=words):
        delivery.store(object_)


ENTITIES = b'<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + native("00081199").partition(b"?>")[2]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>Please log in</html>", "text/html"),  # a captive portal
        (json.dumps(stored()).encode(), "text/html; charset=utf-8"),
        (b"", JSON),
        (None, "text/plain"),
        (b'{"00081199": ', JSON),
        (b"[" * 100_000, JSON),
        (b"<html>", "application/dicom+xml"),
        (ENTITIES, "application/dicom+xml"),
    ],
)
def test_who_does_not_answer_as_a_server_does_has_not_got_it(body: Any, kind: str, object_: Path) -> None:
    with (
        serving(200, body, kind) as (url, _),
        stow_session(WebPeer(url)) as delivery,
        pytest.raises(PeerUnavailable, match="does not answer as a DICOMweb server does"),
    ):
        delivery.store(object_)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_nobody_is_followed_to_another_address(status: int, object_: Path, tmp_path: Path) -> None:
    """Neither with an object nor with a question: name and password would go along."""
    with serving(200, stored()) as (other, followed):
        words = f"redirects to {other.removesuffix('/dicom-web')} .HTTP status {status}.*"
        with serving(status, Location=f"{other}?token=s3cret") as (url, asked):
            peer = WebPeer(url, "cxrd", "secret")
            with stow_session(peer) as delivery, pytest.raises(PeerUnavailable, match=words) as error:
                delivery.store(object_)
            assert "s3cret" not in str(error.value)
            with pytest.raises(PeerUnavailable, match=words):
                reach(peer)
            with (
                web_archive(peer, Receipt(lambda _: 0, tmp_path, "CXRD"), "web") as source,
                pytest.raises(PeerUnavailable, match=words),
            ):
                source.fetch(Series("1.2", "1.2.3", "DX"), ["1.2.3.4"])
        assert len(asked) == 3
    assert followed == []


def test_an_answer_without_end_is_not_read(object_: Path) -> None:
    """Of 800 MB no more than a few are read, and held."""
    with (
        streaming(itertools.repeat(b" " * 65536, 12_800), 12_800 * 65536) as (url, sizes),
        stow_session(WebPeer(url)) as delivery,
        pytest.raises(PeerUnavailable, match="longer than 4194304 bytes"),
    ):
        delivery.store(object_)
    assert sum(sizes) < 32 * 1024 * 1024


def test_an_answer_that_swells_is_not_read(object_: Path) -> None:
    body = gzip.compress(b" " * (64 * 1024 * 1024))
    with (
        serving(200, body, Content_Encoding="gzip") as (url, _),
        stow_session(WebPeer(url)) as delivery,
        pytest.raises(PeerUnavailable, match="longer than 4194304 bytes"),
    ):
        delivery.store(object_)


def test_an_answer_that_trickles_is_not_waited_for(object_: Path) -> None:
    ended = threading.Event()

    def trickle() -> Iterator[bytes]:
        while not ended.wait(0.05):
            yield b" "

    begun = time.monotonic()
    with (
        streaming(trickle(), 1000) as (url, _),
        stow_session(WebPeer(url, timeout=0.5)) as delivery,
        pytest.raises(PeerUnavailable, match="does not come in time"),
    ):
        delivery.store(object_)
    assert time.monotonic() - begun < 10
    ended.set()


@pytest.mark.parametrize("silent", [False, True])
def test_a_server_that_goes_without_an_answer_may_have_done_so_for_this_one(silent: bool, object_: Path) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if silent:
                threading.Event().wait(2)  # longer than anybody waits

        def log_message(self, *_arguments: Any) -> None:
            pass

    with (
        listening(Handler) as url,
        stow_session(WebPeer(url, timeout=0.5)) as delivery,
        pytest.raises(AssociationLost, match="broke off, or did not answer"),
    ):
        delivery.store(object_)


def test_an_answer_that_breaks_off_is_no_success(object_: Path) -> None:
    with (
        streaming([json.dumps(stored()).encode()], 5000) as (url, _),
        stow_session(WebPeer(url)) as delivery,
        pytest.raises(PeerUnavailable, match="answer broke off"),
    ):
        delivery.store(object_)


def test_what_a_search_finds_is_read_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_io.dicomweb.stow._MOST_FOUND", 1000)
    with serving(200, [{}] * 100) as (url, _):
        reach(WebPeer(url))
    with serving(200, [{}] * 300) as (url, _), pytest.raises(PeerUnavailable, match="longer than 1000 bytes"):
        reach(WebPeer(url))


def test_orthanc_names_what_it_has_stored(tmp_path: Path, object_: Path) -> None:
    orthanc = Orthanc(tmp_path / "orthanc", free_port())
    try:
        with stow_session(WebPeer(f"http://127.0.0.1:{orthanc.http}/dicom-web/")) as delivery:
            assert delivery.store(object_) == 0x0000
            assert delivery.store(object_) == 0x0000  # a second time, as after a crash
        (instance,) = orthanc.get("/instances")
        assert orthanc.get(f"/instances/{instance}/simplified-tags")["SOPInstanceUID"] == UID
    finally:
        orthanc.stop()


@pytest.mark.parametrize("status", [401, 403, 404, 408, 429, 500, 503])
def test_any_other_answer_is_waited_out(status: int, object_: Path) -> None:
    with serving(status) as (url, _), stow_session(WebPeer(url)) as delivery, pytest.raises(PeerUnavailable) as told:
        delivery.store(object_)
    assert str(status) in str(told.value)
    assert told.type is (AssociationLost if status == 500 else PeerUnavailable)  # one object may bring a 500


def test_nobody_there(object_: Path) -> None:
    with serving(200) as (url, _):
        pass
    with stow_session(WebPeer(url, timeout=2)) as delivery, pytest.raises(PeerUnavailable, match="cannot be reached"):
        delivery.store(object_)
    with pytest.raises(PeerUnavailable, match="cannot be reached"):
        reach(WebPeer(url, timeout=2))
    with serving(401) as (url, _), pytest.raises(PeerUnavailable, match="401"):
        reach(WebPeer(url))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("url: http://x/dicom-web, host: y", "either url, or webhook, or hl7, or host"),
        ("host: y", r"(?s)port: missing; .*ae_title: missing; a DICOM node needs host, port and ae_title"),
        ("url: ftp://x", "url: must begin with http"),
    ],
)
def test_a_destination_is_one_or_the_other(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"destinations:\n  - {{name: web, {text}}}\n")
    with pytest.raises(InvalidSettings, match=words):
        load(path)


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("destinations:\n  - {name: web, url: 'http://x/', username: u, password: geheim}\n")
    loaded = load(path)
    assert "geheim" not in repr(loaded)
    (web,) = loaded.destinations
    assert isinstance(web, DicomwebDestination)
    assert web.password.get_secret_value() == "geheim"
