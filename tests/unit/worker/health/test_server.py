"""The small HTTP server, asked by a real client: what it answers, and that nobody can hold it up."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.support.scrapes import get
from worker.health import server as module
from worker.health.server import HealthServer, Page


@contextmanager
def serving(**pages: Callable[[], Page]) -> Iterator[HealthServer]:
    """Run a server on a free port."""
    server = HealthServer("127.0.0.1", 0, {f"/{name}": make for name, make in pages.items()})
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def fail() -> Page:
    raise KeyError("Doe^John")


@pytest.mark.parametrize(
    ("path", "method", "status", "body"),
    [
        ("/well", "GET", 200, "ok\n"),
        ("/well?x=1", "GET", 200, "ok\n"),
        ("/well", "HEAD", 200, ""),
        ("/unwell", "GET", 503, "no\n"),
        ("/", "GET", 404, "no such page; there are:\n/well\n/unwell\n/broken\n"),
        ("/well/../../etc/passwd", "GET", 404, "no such page; there are:\n/well\n/unwell\n/broken\n"),
    ],
)
def test_pages(path: str, method: str, status: int, body: str) -> None:
    with serving(well=lambda: Page(True, b"ok\n"), unwell=lambda: Page(False, b"no\n"), broken=fail) as server:
        assert get(server.port, path, method) == (status, body)


def test_a_page_that_fails_says_where_and_not_what() -> None:
    with serving(broken=fail) as server:
        status, body = get(server.port, "/broken")
        assert (status, "KeyError" in body, "Doe" in body) == (500, True, False)


def test_other_methods_are_refused() -> None:
    with serving(well=lambda: Page(True, b"ok\n")) as server:
        assert get(server.port, "/well", "POST")[0] == 501


def test_who_never_ends_a_request_shuts_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLACES", 3)
    with serving(well=lambda: Page(True, b"ok\n")) as server:
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(6)]
        for each in silent:
            each.sendall(b"GET /well HT")
        for _ in range(3):
            assert get(server.port, "/well") == (200, "ok\n")
        # Those who came first have lost their place, and the places of those who were answered are free again.
        silent[0].settimeout(10)
        assert silent[0].recv(10) == b""
        assert len(server._places) <= 3
        for each in silent:
            each.close()


def test_a_port_that_is_taken_is_an_error() -> None:
    with serving() as server, pytest.raises(OSError, match="in use"):
        HealthServer("127.0.0.1", server.port, {})


def test_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        server = HealthServer("::1", 0, {})
    except OSError:
        pytest.skip("no IPv6 here")
    assert server.port
    server.server_close()
