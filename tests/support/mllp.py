"""HL7 receivers for the tests: a small one that can misbehave, and the one of python-hl7, which others wrote."""

from __future__ import annotations

import asyncio
import contextlib
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hl7
from hl7.mllp import start_hl7_server


def acknowledgement(code: str, control: str, more: str = "", *, field: str = "|") -> bytes:
    """Return a framed acknowledgement, as a receiver would write it by hand."""
    text = f"MSH|^~\\&|RIS||CXRD||20260101||ACK^R01^ACK|1|P|2.5.1\rMSA|{code}|{control}\r{more}"
    return b"\x0b" + text.replace("|", field).encode() + b"\x1c\r"


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    context: ssl.SSLContext | None = None
    versions: list[str | None]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of those who do not like our certificate."""


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def setup(self) -> None:
        if self.server.context is not None:
            self.request = self.server.context.wrap_socket(self.request, server_side=True)
            self.server.versions.append(self.request.version())
        super().setup()

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.request.close()


class Receiver:
    """Takes framed messages and answers each with the next of `answers`: AA where there is none.

    An answer is a code, or code and further segments with a space between; or `silence`, `close`, `garbage`, `cut`
    (half an acknowledgement, then the end), `endless` (100 KB of one), `trickle` (for ever, byte by byte), `other` (of
    another message), `unnamed` (of none), `hang-up` (AA, then the end of the connection), `chatty` (AA twice).
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.answers: list[str] = []
        self.messages: list[bytes] = []
        self.versions: list[str | None] = []
        self.connections = 0
        self.ending = threading.Event()
        outer = self

        class Handler(_Handler):
            def handle(self) -> None:
                outer.connections += 1
                with contextlib.suppress(OSError):
                    while (message := self._read()) is not None:
                        outer.messages.append(message)
                        if not self._answer(message):
                            return

            def _read(self) -> bytes | None:
                frame = b""
                while not frame.endswith(b"\x1c\r"):
                    piece = self.rfile.read(1)
                    if not piece:
                        return None
                    frame += piece
                assert frame.startswith(b"\x0b")
                return frame[1:-2]

            def _answer(self, message: bytes) -> bool:
                answer, _, more = (outer.answers.pop(0) if outer.answers else "AA").partition(" ")
                control = message.decode().split("|")[9]
                good = acknowledgement("AA", control)
                replies: dict[str, bytes] = {
                    "silence": b"",
                    "close": b"",
                    "garbage": b"HTTP/1.1 400 Bad Request\r\n\r\n",
                    "cut": good[: len(good) // 2],
                    "endless": b"\x0bMSH|" + b"x" * 100_000,
                    "other": acknowledgement("AA", "SOMEBODY"),
                    "unnamed": acknowledgement("AA", ""),
                    "hang-up": good,
                    "chatty": good * 2,
                    "trickle": b"",
                }
                self.wfile.write(replies.get(answer, acknowledgement(answer, control, more)))
                if answer == "silence":
                    outer.ending.wait(20)
                while answer == "trickle" and not outer.ending.wait(0.05):
                    self.wfile.write(b"\x0b" if not more else b"x")
                    more = "x"
                return answer not in ("close", "garbage", "cut", "endless", "hang-up", "silence")

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.context, self._server.versions = context, self.versions
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def receiver(context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Run a `Receiver` for the length of a block, over TLS where there is a context."""
    running = Receiver(context)
    try:
        yield running
    finally:
        running.stop()


@contextmanager
def foreign_receiver() -> Iterator[tuple[int, list[Any]]]:
    """Run python-hl7's own receiver, which parses what comes and acknowledges it; yield its port and the messages."""
    messages: list[Any] = []
    loop = asyncio.new_event_loop()

    async def talk(reader: Any, writer: Any) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not reader.at_eof():
                message = await reader.readmessage()
                messages.append(message)
                writer.writemessage(message.create_ack("AA"))
                await writer.drain()
        writer.close()

    async def start() -> Any:
        return await start_hl7_server(talk, "127.0.0.1", 0, encoding="utf-8")

    server = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield int(server.sockets[0].getsockname()[1]), messages
    finally:
        loop.call_soon_threadsafe(server.close)
        time.sleep(0.1)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


def parsed(message: bytes) -> Any:
    """Return a message as python-hl7 reads it."""
    return hl7.parse(message.decode())
