"""Messages to a syslog server (RFC 5424), by UDP (RFC 5426) or TLS (RFC 5425)."""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import os
import socket
import ssl
import struct
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dicom_io.errors import OutOfResources
from dicom_io.network.address import address
from dicom_io.network.tls import client_context, words_to_server

if TYPE_CHECKING:
    from worker.settings import AuditSyslog

SECURITY, AUDIT = 10, 13
"""Facilities: *security/authorization* and *log audit* (RFC 5424 6.2.1)."""
MOST_DATAGRAM = 65_000
"""Bytes of a message that goes as a datagram; those of UDP hold 65,507 (RFC 5426 3.2)."""
_NOTICE = 5
_TIMEOUT = 10.0
"""Seconds that connecting, one message, or the server's end of the connection may take."""
_CHUNK = 65536
_REFUSED = 0.05
"""Seconds that a machine nearby has to say that nobody listens for datagrams there."""


@dataclass(frozen=True)
class Collector:
    """A syslog server.

    Attributes
    ----------
    url
        ``udp://host:port`` or ``tls://host:port``.
    setting
        What named it, for errors.
    ca_file, certificate, key
        With TLS: as for `dicom_io.network.tls.client_context`.
    """

    url: str
    setting: str
    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


def fits(collector: Collector, message: bytes) -> bool:
    """Tell whether a message can be sent: one that no datagram holds would be tried for ever."""
    return urlsplit(collector.url).scheme == "tls" or len(message) <= MOST_DATAGRAM


def audit_collector(settings: AuditSyslog) -> Collector:
    """Return where audit messages go."""
    return Collector(settings.url, "audit.syslog", settings.ca_file, settings.certificate, settings.key)


def message(at: dt.datetime, words: str, kind: str, facility: int) -> bytes:
    """Return one message.

    Parameters
    ----------
    at
        When what it tells of happened; aware.
    words
        In ASCII; else RFC 5424 6.4 demands a mark before it that many servers do not expect.
    kind
        MSGID.
    """
    stamp = at.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    host = socket.gethostname().encode("ascii", "replace").decode()[:255] or "-"
    head = f"<{facility * 8 + _NOTICE}>1 {stamp} {host} cxrd {os.getpid()} {kind} -"
    return f"{head} {words}".encode()


def send(collector: Collector, messages: Sequence[bytes]) -> None:
    """Send messages in their order.

    With TLS the server has read all of them when this returns: it has closed the connection after us, and it would have
    broken off if it had not read to the end. That datagrams arrive, nobody knows.

    Raises
    ------
    OutOfResources
        They could not be sent, or not all of them; some may have arrived.
    InvalidSettings
        A file cannot be used.
    """
    parts = urlsplit(collector.url)
    host, secure = parts.hostname or "", parts.scheme == "tls"
    port = parts.port or (6514 if secure else 514)
    with _in_words(f"{collector.setting} {address(host, port)}"):
        if secure:
            _by_tls(collector, host, port, messages)
        else:
            _by_udp(host, port, messages)


@contextmanager
def _in_words(where: str) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:
        raise OutOfResources(f"{where}: {words_to_server(error)}") from error
    except TimeoutError as error:
        raise OutOfResources(f"{where}: no answer in time") from error
    except OSError as error:
        raise OutOfResources(f"{where}: {error.strerror or type(error).__name__}") from error


def _by_tls(collector: Collector, host: str, port: int, messages: Sequence[bytes]) -> None:
    context = client_context(collector.ca_file, collector.certificate, collector.key)
    with socket.create_connection((host, port), timeout=_TIMEOUT) as connection:
        channel = _Channel(connection, context, host)
        channel.shake()
        try:
            for each in messages:
                channel.send(f"{len(each)} ".encode() + each)
            channel.end()
        except (ssl.SSLError, TimeoutError):
            raise
        except OSError as error:
            channel.hear_last_words()
            raise OSError(error.errno, f"it broke off ({error.strerror})") from error


class _Channel:
    """TLS on a connection that we read and write ourselves.

    `ssl.SSLSocket` reports a reset as the end of the stream at times, and what the server did not read would be lost.
    """

    def __init__(self, connection: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._connection = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def shake(self) -> None:
        """Do the handshake."""
        until = time.monotonic() + _TIMEOUT
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                data = self._connection.recv(_CHUNK) if time.monotonic() < until else None
                if data is None:
                    raise TimeoutError from None
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            except ssl.SSLError:
                self._flush()  # tells the server why
                raise
            else:
                self._flush()
                return

    def send(self, data: bytes) -> None:
        """Send some bytes."""
        self._tls.write(data)
        self._flush()

    def end(self) -> None:
        """Say that nothing follows, and wait until the server has read everything and closes too."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self._flush()
        self._connection.shutdown(socket.SHUT_WR)
        while data := self._connection.recv(_CHUNK):
            self._hear(data)
        # A server that closed before it had everything answers what comes later with a reset.
        until = time.monotonic() + _TIMEOUT
        while _unacknowledged(self._connection):
            if time.monotonic() > until:
                raise TimeoutError
            time.sleep(0.005)
        if error := self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, os.strerror(error))

    def hear_last_words(self) -> None:
        """Raise what a server said before it broke off: with TLS 1.3, that it refuses our certificate."""
        data = b""
        with contextlib.suppress(OSError):
            self._connection.settimeout(0)
            data = self._connection.recv(_CHUNK)
        if data:
            self._hear(data)

    def _hear(self, data: bytes) -> None:
        """Take in what came; a server has nothing to say but that it ends, and why."""
        self._incoming.write(data)
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while self._tls.read(_CHUNK):
                pass

    def _flush(self) -> None:
        self._connection.sendall(self._outgoing.read())


def _unacknowledged(connection: socket.socket) -> int:
    """Return how many bytes the other machine has not acknowledged (SIOCOUTQ, tcp(7))."""
    (count,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))
    return int(count)


def _by_udp(host: str, port: int, messages: Sequence[bytes]) -> None:
    family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as datagrams:
        datagrams.connect(place)  # so that we hear of an answer that nobody listens there
        for each in messages:
            datagrams.send(each)
        datagrams.settimeout(_REFUSED)
        with contextlib.suppress(TimeoutError):
            datagrams.recv(1)
