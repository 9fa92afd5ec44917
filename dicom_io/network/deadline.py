"""A time limit on a whole exchange by HTTP, which a peer cannot stretch by sending a byte now and then.

A socket's own timeout begins again with each byte. Here a thread shuts the sockets of an exchange down when its time is
over. Connections made of `Limited` know the limit of the thread that uses them.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_LATE = "the exchange did not end in time"


class Deadline:
    """The time that one step of an exchange may take, in seconds; each step begins with `restart`."""

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._sockets: list[socket.socket] = []
        self._done = threading.Event()
        threading.Thread(target=self._wait, name="deadline", daemon=True).start()

    def restart(self) -> None:
        """Begin the next step."""
        self._until = time.monotonic() + self._seconds

    def watch(self, connection: socket.socket) -> None:
        """Have a connection shut down when the time is over.

        Raises
        ------
        TimeoutError
            It is over.
        """
        self._sockets.append(connection)
        if self.is_over:
            self._shut()
            raise TimeoutError(_LATE)

    def end(self) -> None:
        """Stop watching."""
        self._done.set()

    def _wait(self) -> None:
        while (left := self._until - time.monotonic()) > 0:
            if self._done.wait(left):
                return
        self.is_over = True
        self._shut()

    def _shut(self) -> None:
        for each in list(self._sockets):
            with contextlib.suppress(OSError):  # closed by now
                # Not the method of an SSLSocket, which would take its state away from the thread that reads.
                socket.socket.shutdown(each, socket.SHUT_RDWR)


_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[Deadline]:
    """Limit the exchanges within a block: to send a request may take so long, and so may the whole answer."""
    limit = Deadline(seconds)
    token = _current.set(limit)
    try:
        yield limit
    finally:
        _current.reset(token)
        limit.end()


class Limited:
    """What makes an `http.client.HTTPConnection` keep to the `deadline` around it; to be inherited from before it."""

    _sock: socket.socket | None = None

    @property
    def sock(self) -> socket.socket | None:
        """The connection; also that of TLS, which takes the place of the one beneath."""
        return self._sock

    @sock.setter
    def sock(self, connection: socket.socket | None) -> None:
        self._sock = connection
        self._watch()

    def putrequest(self, *arguments: Any, **options: Any) -> None:
        """Begin a request, perhaps on a connection that was kept."""
        self._watch()
        super().putrequest(*arguments, **options)  # type: ignore[misc]

    def getresponse(self, *arguments: Any, **options: Any) -> Any:
        """Read the header of an answer: the request is sent.

        Raises
        ------
        TimeoutError
            It does not come in time. Half a header would pass for a whole one.
        """
        limit = _current.get()
        if limit is None:
            return super().getresponse(*arguments, **options)  # type: ignore[misc]
        limit.restart()
        try:
            answer = super().getresponse(*arguments, **options)  # type: ignore[misc]
        except Exception as error:
            if limit.is_over:
                raise TimeoutError(_LATE) from error
            raise
        if limit.is_over:
            answer.close()
            raise TimeoutError(_LATE)
        return answer

    def _watch(self) -> None:
        limit = _current.get()
        if limit is not None and self._sock is not None:
            limit.watch(self._sock)
