"""Syslog servers for the tests: UDP (RFC 5426) and TLS (RFC 5425), and the schema of DICOM audit messages."""

from __future__ import annotations

import re
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lxml import etree

from tests.support.certificates import server_context

_HEAD = re.compile(rb"<(\d{1,3})>1 (\S+) (\S+) (\S+) (\S+) (\S+) - (.*)", re.DOTALL)


@cache
def schema() -> Any:
    """Return the schema of PS3.15 A.5.1."""
    return etree.RelaxNG(etree.parse(Path(__file__).with_name("audit_message.rng")))


@dataclass
class Received:
    """A syslog message: its header's fields, and what it says."""

    priority: int
    at: str
    host: str
    program: str
    process: str
    kind: str
    words: str

    @property
    def audit(self) -> Any:
        """The DICOM audit message in it, which holds to the schema."""
        tree = etree.fromstring(self.words.encode())
        schema().assertValid(tree)
        return tree

    @property
    def event(self) -> str:
        """The name of its event."""
        return str(self.audit.find("EventIdentification/EventID").get("originalText"))


def parsed(message: bytes) -> Received:
    """Return a message by its parts (RFC 5424 6)."""
    match = _HEAD.fullmatch(message)
    assert match, message
    priority, *rest = match.groups()
    return Received(int(priority), *(each.decode() for each in rest))


@dataclass
class Collector:
    """What a server has received, in order."""

    url: str
    raw: list[bytes] = field(default_factory=list)
    connections: int = 0

    @property
    def messages(self) -> list[Received]:
        """All messages."""
        return [parsed(each) for each in self.raw]

    @property
    def events(self) -> list[str]:
        """The names of the events of all messages, each held to the schema."""
        return [each.event for each in self.messages]


@contextmanager
def udp_collector(port: int = 0) -> Iterator[Collector]:
    """Yield what receives datagrams."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            collector.raw.append(self.request[0])

    class Server(socketserver.UDPServer):
        max_packet_size = 65535

    with Server(("127.0.0.1", port), Handler) as server:
        collector = Collector(f"udp://127.0.0.1:{server.server_address[1]}")
        with _serving(server):
            yield collector


@contextmanager
def tls_collector(pair: tuple[Path, Path], port: int = 0, clients: Path | None = None) -> Iterator[Collector]:
    """Yield what receives frames over TLS.

    Parameters
    ----------
    clients
        Certificates that clients' must come from; None asks for none.
    """
    context = server_context(pair)
    if clients is not None:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError), context.wrap_socket(self.request, server_side=True) as channel:
                collector.connections += 1
                with channel.makefile("rb") as stream:
                    for frame in frames(stream):
                        collector.raw.append(frame)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server(("127.0.0.1", port), Handler) as server:
        collector = Collector(f"tls://127.0.0.1:{server.server_address[1]}")
        with _serving(server):
            yield collector


def frames(stream: Any) -> Iterator[bytes]:
    """Yield octet-counted messages (RFC 5425 4.3) to the end of a stream; one that is cut short is none."""
    while True:
        digits = b""
        while (each := stream.read(1)) not in (b" ", b""):
            digits += each
        if not each:
            return
        message = stream.read(int(digits))
        if len(message) < int(digits):
            return
        yield message


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=[0.05], daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join(10)


@contextmanager
def silent_listener() -> Iterator[str]:
    """Yield the URL of a port that accepts connections and says nothing, ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"tls://127.0.0.1:{listener.getsockname()[1]}"
