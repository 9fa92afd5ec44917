"""Notifications: only of flagged images, without a person in them, signed, and delivered as patiently as results."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from dicom_io.errors import AssociationLost, InvalidSettings, PeerUnavailable
from dicom_io.header.source_image import source_image
from dicom_io.network.status import Verdict, verdict_of
from tests.support.models import tiny
from tests.support.peers import chest, send, wait_for
from tests.unit.worker.results.test_result_set import FINDING, MODEL
from worker.deliver.routing import takers
from worker.deliver.webhook import SIGNATURE, WebhookSender, notification
from worker.destination_settings import DicomDestination, WebhookDestination
from worker.engines.daemon import Daemon
from worker.ledger.queries import Filter, findings, story
from worker.ledger.records import DueDelivery
from worker.queue.task import Kind, Priority, Task
from worker.settings import Settings, load
from worker.storage.blobs import Blobs

KEY = "s3cret"


class Listener:
    """A webhook that answers as it is told, then with 204."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.location = ""
        self.got: list[tuple[dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got.append((dict(self.headers), body))
                self.send_response(outer.answers.pop(0) if outer.answers else 204)
                self.send_header("Content-Length", "0")
                if outer.location:
                    self.send_header("Location", outer.location)
                self.end_headers()

            def do_GET(self) -> None:
                outer.got.append((dict(self.headers), b""))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_arguments: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_it_names_the_study_and_no_person() -> None:
    source = chest("hook", PatientName="Geheimnis^Gerda", PatientID="SECRET-1", AccessionNumber="A77")
    uid, body = notification(source_image(source), FINDING, MODEL, ["2.25.1"])
    told = json.loads(body)
    assert (told["id"], told["accession_number"], told["finding"]) == (uid, "A77", "PNEUMONIA")
    assert (told["answer"], told["answer_in_words"]) == ("flagged", "Flagged: evidence for pneumonia")
    assert told["study_instance_uid"] == source.StudyInstanceUID
    assert b"Gerda" not in body
    assert b"SECRET-1" not in body
    assert notification(source_image(source), FINDING, MODEL, ["2.25.1"]) == (uid, body)
    assert notification(source_image(source), FINDING, replace(MODEL, version="2"), [])[0] != uid


def posts(url: str, secret: str = "") -> WebhookSender:
    return WebhookSender(WebhookDestination(name="hook", webhook=url, secret=SecretStr(secret)), Settings())


@pytest.mark.parametrize(("status", "expected"), [(200, 0x0000), (204, 0x0000), (400, 0xA900), (410, 0xA900)])
def test_answers_become_statuses(status: int, expected: int, listener: Listener) -> None:
    body = b'{"id": "1"}'
    listener.answers = [status]
    outcome = posts(listener.url, KEY).post(body)
    assert outcome.status == expected
    assert outcome.verdict is verdict_of(expected)
    assert outcome.reason == (f"the webhook answers with HTTP status {status}" if expected else "")
    headers, got = listener.got[0]
    assert got == body
    assert headers[SIGNATURE] == "sha256=" + hmac.new(KEY.encode(), got, hashlib.sha256).hexdigest()
    listener.answers = [503]
    with pytest.raises(PeerUnavailable, match="503"):
        posts(listener.url).post(body)
    assert SIGNATURE not in listener.got[1][0]


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_a_failure_that_says_where_it_points(status: int, listener: Listener) -> None:
    """The page of a login would be fetched instead, and its 200 would count; the signature would go along."""
    other = Listener()
    try:
        listener.answers, listener.location = [status], other.url.replace("http://", "http://u:pw@") + "?token=s3cret"
        origin = other.url.removesuffix("/hook")
        words = f"the webhook redirects to {origin} .HTTP status {status}., where nothing is sent"
        with pytest.raises(PeerUnavailable, match=words) as error:
            posts(listener.url, KEY).post(b"{}")
        assert not any(word in str(error.value) for word in ("s3cret", "pw", "hook?"))
        assert other.got == []
        assert len(listener.got) == 1
    finally:
        other.server.shutdown()
        other.server.server_close()


@pytest.mark.parametrize("answer", [b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n"])
def test_what_is_no_http_server_is_waited_for(answer: bytes) -> None:
    """As one destination that is down: not as a fault of each notification."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=talk)
        thread.start()
        with pytest.raises(PeerUnavailable, match="cannot be reached"):
            posts(f"http://127.0.0.1:{server.getsockname()[1]}/").post(b"{}")
        thread.join(10)


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_a_receiver_that_goes_without_an_answer_may_have_done_so_for_this_one(seconds: float) -> None:
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                ended.wait(10 * seconds)

        thread = threading.Thread(target=talk)
        thread.start()
        hook = WebhookDestination(name="hook", webhook=f"http://127.0.0.1:{server.getsockname()[1]}/", timeout=0.5)
        with pytest.raises(AssociationLost, match="broke off, or did not answer"):
            WebhookSender(hook, Settings()).post(b"{}")
        ended.set()
        thread.join(10)


@pytest.mark.parametrize(("status", "kind"), [(500, AssociationLost), (502, PeerUnavailable), (401, PeerUnavailable)])
def test_an_error_of_the_receiver_may_be_of_this_one(status: int, kind: type[Exception], listener: Listener) -> None:
    listener.answers = [status]
    with pytest.raises(PeerUnavailable, match=str(status)) as error:
        posts(listener.url).post(b"{}")
    assert error.type is kind


def test_a_notification_that_an_earlier_version_stored_is_delivered(listener: Listener, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    sha256 = blobs.put(b'{"id": "old"}', ".dcm")
    moment = dt.datetime.now(dt.UTC)
    task = Task(1, Kind.DELIVER, 1, "hook", Priority.MEDIUM, 1, 0, "token", created_at=moment, claimed_at=moment)
    due = DueDelivery(task, 1, "", "2.25.1", sha256)
    with posts(listener.url).open([due], blobs) as session:
        assert session.carries(due)
        assert session.send(due).verdict is Verdict.SENT
    assert [body for _, body in listener.got] == [b'{"id": "old"}']


def test_a_webhook_takes_notifications_and_nothing_else_does() -> None:
    hook = WebhookDestination(name="hook", webhook="http://h/")
    node = DicomDestination(name="node", host="h", port=1, ae_title="A")
    some = DicomDestination(name="some", host="h", port=1, ae_title="A", kinds=("secondary-capture",))
    every = (hook, node, some)
    taken = {(name, kind) for kind in KINDS for name in takers(kind, ["hook", "node", "some"], every)}
    assert taken == {
        ("hook", "notification"),
        ("node", "secondary-capture"),
        ("node", "structured-report"),
        ("some", "secondary-capture"),
    }


KINDS = ("secondary-capture", "structured-report", "notification")


@pytest.mark.parametrize("more", ["kinds: [secondary-capture]", "host: x", "url: http://y/"])
def test_a_webhook_is_nothing_else(more: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"destinations:\n  - {{name: web, webhook: 'http://x/', {more}}}\n")
    with pytest.raises(InvalidSettings, match=r"destination web: "):
        load(path)


@pytest.mark.parametrize(("bias", "expected"), [(60.0, 1), (-60.0, 0)])
def test_a_daemon_tells_of_flagged_images_only(bias: float, expected: int, listener: Listener, tmp_path: Path) -> None:
    listener.answers = [500]  # the first attempt fails, and is repeated
    settings = Settings.model_validate(
        {
            "scp": {"port": 0},
            "storage": {"folder": tmp_path / "data", "min_free_mb": 0},
            "outbox": {"retry_first": 0.1, "retry_max": 0.2},
            "model": {"folder": tiny(tmp_path / "model", bias=bias)},
            "destinations": [{"name": "hook", "webhook": listener.url, "secret": KEY}],
        }
    )
    daemon = Daemon(settings)
    daemon.start()
    try:
        assert send(daemon.port, [chest("hooked", rows=200, cols=200, AccessionNumber="A9")]) == [0x0000]
        wait_for(lambda: daemon.ledger.counts().get("analysed") == 1, 30)
        wait_for(lambda: daemon.ledger.counts().get("delivery_sent", 0) == expected, 30)
    finally:
        daemon.stop()
    assert len({json.loads(body)["id"] for _, body in listener.got}) == expected
    if expected:
        assert len(listener.got) == 2
        assert json.loads(listener.got[1][1])["accession_number"] == "A9"
        told = story(daemon.ledger, "1")
        assert told is not None
        assert [each["kind"] for each in told["deliveries"]] == ["notification"]
        assert findings(daemon.ledger, Filter())[0]["delivered"] == 1
        (stored,) = (tmp_path / "data" / "objects").glob("*/*.json")
        assert stored.read_bytes() == listener.got[1][1]
