"""STOW-RS: what a server's answers mean to the outbox."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from dicom_io.dicomweb.stow import WebPeer, reach, stow_session
from dicom_io.errors import InvalidSettings, PeerUnavailable
from dicom_io.network.status import Verdict, verdict_of
from dicom_io.objects.common import encode
from tests.support.peers import chest
from worker.destination_settings import DicomwebDestination
from worker.settings import load


@contextmanager
def serving_bytes(body: bytes) -> Iterator[str]:
    """Answer every request with these bytes."""
    with serving(200, body) as (url, _):
        yield url


@contextmanager
def serving(status: int, body: Any = None) -> Iterator[tuple[str, list[dict[str, str]]]]:
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
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/dicom-web", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def object_(tmp_path: Path) -> Path:
    path = tmp_path / "object.dcm"
    path.write_bytes(encode(chest("stow", rows=64, cols=64)))
    return path


def failed(reason: int) -> dict[str, Any]:
    return {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [reason]}}]}}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, {}, Verdict.SENT),
        (200, None, Verdict.SENT),
        (202, failed(0x0122), Verdict.REFUSED),
        (202, failed(0xA700), Verdict.RETRY),
        (409, failed(0xC122), Verdict.REFUSED),
        (409, None, Verdict.REFUSED),
        (415, None, Verdict.REFUSED),
        (
            202,
            {"00081199": {"vr": "SQ", "Value": [{"00081196": {"vr": "US", "Value": [0xB006]}}]}},
            Verdict.SENT,
        ),
    ],
)
def test_an_answer_about_the_object_becomes_a_status(status: int, body: Any, expected: Verdict, object_: Path) -> None:
    with serving(status, body) as (url, asked), stow_session(WebPeer(url, "cxrd", "secret")) as delivery:
        assert verdict_of(delivery.store(object_)) is expected
    assert asked[0]["path"] == "/dicom-web/studies"
    assert asked[0]["Authorization"].startswith("Basic ")
    assert len(asked) == 1  # the outbox repeats, at its own pace


@pytest.mark.parametrize("status", [401, 403, 404, 408, 429, 500, 503])
def test_any_other_answer_is_waited_out(status: int, object_: Path) -> None:
    with serving(status) as (url, _), stow_session(WebPeer(url)) as delivery, pytest.raises(PeerUnavailable) as told:
        delivery.store(object_)
    assert str(status) in str(told.value)


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
