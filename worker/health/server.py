"""The pages of a process, such as `/healthz`: a small HTTP server that nobody can hold up for long.

It takes few connections at a time and answers each once. Where all places are taken, the one that has had its place
longest loses it to the newcomer: a peer that never ends its request shuts nobody out.
"""

from __future__ import annotations

import contextlib
import http.server
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from worker.logs import unexpected

PLACES = 8
"""Connections at a time."""
SILENCE = 5.0
"""Seconds that a peer may say nothing."""
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Page:
    """An answer: whether all is well, what is shown, and its media type."""

    ok: bool
    body: bytes
    content_type: str = TEXT


class HealthServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Answers GET and HEAD for a few paths.

    Parameters
    ----------
    host, port
        Where to listen; port 0 takes a free one, see `port`.
    pages
        For each path, what makes its answer.

    Raises
    ------
    OSError
        The address cannot be bound.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self, host: str, port: int, pages: Mapping[str, Callable[[], Page]]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.pages = pages
        self._places: dict[int, socket.socket] = {}  # in the order in which they were taken
        self._lock = threading.Lock()
        super().__init__((host, port), _Handler)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

    def server_bind(self) -> None:
        """Bind without asking the name server who we are, as `HTTPServer` does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.port

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a place, and the thread that answers it."""
        with self._lock:
            if len(self._places) >= PLACES:
                oldest = self._places.pop(next(iter(self._places)))
                with contextlib.suppress(OSError):  # its thread reads the end of the request, and goes
                    oldest.shutdown(socket.SHUT_RDWR)
            self._places[id(request)] = request
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, and free its place."""
        with self._lock:
            if self._places.get(id(request)) is request:
                del self._places[id(request)]
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a peer that breaks off is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request, and closes the connection."""

    server: HealthServer
    timeout = SILENCE

    def do_GET(self) -> None:
        """Answer with the page."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer with the page's status."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        status, page = self._page()
        self.send_response(status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if with_body:
            self.wfile.write(page.body)

    def _page(self) -> tuple[HTTPStatus, Page]:
        make = self.server.pages.get(self.path.partition("?")[0])
        if make is None:
            paths = "".join(f"{path}\n" for path in self.server.pages)
            return HTTPStatus.NOT_FOUND, Page(False, f"no such page; there are:\n{paths}".encode())
        try:
            page = make()
        except Exception as error:  # noqa: BLE001 - the border of a request
            return HTTPStatus.INTERNAL_SERVER_ERROR, Page(False, f"{unexpected(error)}\n".encode())
        return HTTPStatus.OK if page.ok else HTTPStatus.SERVICE_UNAVAILABLE, page

    def version_string(self) -> str:
        """Return what the answer's `Server` says."""
        return "cxrd"

    def log_message(self, *_: object) -> None:
        """Say nothing: probes come every few seconds."""
