"""TLS on connections: whose certificates are trusted, which versions are spoken, and what went wrong, in words.

The profile is that of PS3.15 B.12 (BCP 195): TLS 1.2 at least, 1.3 where both can, and ciphers with forward secrecy and
authenticated encryption alone.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dicom_io.errors import InvalidSettings, NotSecure

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"
"""Of TLS 1.2; those of 1.3 are all of this kind (RFC 9325 4.2)."""
_HANDSHAKE = 0x16
"""The first byte of a TLS connection (RFC 8446 5.1)."""


@dataclass(frozen=True)
class ServerTls:
    """How our node speaks TLS.

    Attributes
    ----------
    port
        Where it does; if it is that of the plain node, nothing is plain.
    certificate, key
        Files in PEM form; the certificates that lead to a known authority may follow ours.
    ca_file
        Certificates in PEM form that peers' certificates must come from.
    clients
        Whether peers must have a certificate, may have one, or are not asked.
    """

    port: int
    certificate: Path
    key: Path
    ca_file: Path | None = None
    clients: Literal["required", "optional", "none"] = "required"


@dataclass(frozen=True)
class ClientTls:
    """How we speak TLS with a node that we call: whose certificates are trusted (None: the system's), and ours."""

    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class HandshakeFailed(Exception):
    """There is no TLS on a connection that a peer opened; the message says why. It is empty where nothing came."""


class Context(ssl.SSLContext):
    """A context for one peer that we call, which keeps what went wrong with it: pynetdicom does not tell.

    Attributes
    ----------
    fault
        The first error of a connection.
    """

    fault: OSError | None = None


class _Connection(ssl.SSLSocket):
    """A connection that ends its handshake in time, and keeps its first error."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: ARG002 - as the base has it
        seconds = self.gettimeout()
        try:
            shake(self, 10.0 if seconds is None else seconds, super().do_handshake)
        except OSError as error:
            self._keep(error)
            self.close()  # pynetdicom leaves it open
            raise
        self.settimeout(seconds)

    def shutdown(self, how: int) -> None:
        with contextlib.suppress(OSError):  # the peer is gone: pynetdicom would not close it then
            super().shutdown(how)

    def recv(self, *arguments: Any) -> bytes:
        try:
            return super().recv(*arguments)
        except ssl.SSLError as error:  # with TLS 1.3 the peer says only now that it does not like our certificate
            self._keep(error)
            raise

    def _keep(self, error: OSError) -> None:
        context = self.context
        if isinstance(context, Context) and context.fault is None:
            context.fault = error


def client_context(ca_file: Path | None, certificate: Path | None = None, key: Path | None = None) -> Context:
    """Return what verifies a server's certificate and its name.

    Parameters
    ----------
    ca_file
        Certificates in PEM form that are trusted, and no others; None trusts those of the system.
    certificate, key
        Ours, for a server that asks for one.

    Raises
    ------
    InvalidSettings
        A file cannot be read, or does not hold what it should.
    """
    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = _Connection
    _by_profile(context)
    if ca_file is None:
        context.load_default_certs()
    else:
        _trust(context, ca_file)
    if certificate is not None:
        _show(context, certificate, key)
    return context


def server_context(tls: ServerTls) -> ssl.SSLContext:
    """Return what a node of ours speaks TLS by; raises as `client_context` does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _by_profile(context)
    _show(context, tls.certificate, tls.key)
    if tls.clients != "none":
        if tls.ca_file is None:
            raise InvalidSettings("scp.tls.ca_file is missing: it says whose certificates are trusted")
        _trust(context, tls.ca_file)
        context.verify_mode = ssl.CERT_REQUIRED if tls.clients == "required" else ssl.CERT_OPTIONAL
    return context


def _by_profile(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)


def _trust(context: ssl.SSLContext, ca_file: Path) -> None:
    try:
        context.load_verify_locations(ca_file)
    except ssl.SSLError as error:  # an OSError too
        raise InvalidSettings(f"ca_file {ca_file}: holds no certificate in PEM form") from error
    except OSError as error:
        raise InvalidSettings(f"ca_file {ca_file}: {error.strerror}") from error


def _show(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    for name, file in (("certificate", certificate), ("key", key)):
        try:
            if file is not None:
                file.open("rb").close()
        except OSError as error:
            raise InvalidSettings(f"{name} {file}: {error.strerror}") from error
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        words = "the key is not that of the certificate" if "MISMATCH" in str(error) else "no certificate and key (PEM)"
        raise InvalidSettings(f"certificate {certificate}: {words}") from error


def shake(connection: ssl.SSLSocket, seconds: float, step: Any = None) -> None:
    """Do a handshake within so many seconds, whatever the peer does; the connection does not block afterwards.

    Raises
    ------
    OSError
        As `ssl.SSLSocket.do_handshake` does; TimeoutError where it did not end in time.
    """
    deadline = time.monotonic() + seconds
    connection.settimeout(0)
    while True:
        try:
            (step or connection.do_handshake)()
        except ssl.SSLWantReadError:
            _wait(connection, select.POLLIN, deadline)
        except ssl.SSLWantWriteError:
            _wait(connection, select.POLLOUT, deadline)
        else:
            return


def _wait(connection: socket.socket, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(connection.fileno(), event)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(1000 * left):
        raise TimeoutError


def accepted(connection: socket.socket, context: ssl.SSLContext, seconds: float) -> ssl.SSLSocket:
    """Return a connection that a peer opened with TLS on it; it is closed where that fails.

    Raises
    ------
    HandshakeFailed
        The message says in words why.
    """
    begin = time.monotonic()
    secure: ssl.SSLSocket | None = None
    try:
        _wait(connection, select.POLLIN, begin + seconds)
        first = connection.recv(1, socket.MSG_PEEK)
        if not first:
            raise HandshakeFailed("")
        if first[0] != _HANDSHAKE:
            raise HandshakeFailed("no TLS; this port takes nothing else")
        secure = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        shake(secure, begin + seconds - time.monotonic())
    except (OSError, HandshakeFailed) as error:
        (secure or connection).close()
        if isinstance(error, HandshakeFailed):
            raise
        late = f"no TLS handshake within {seconds:g} s"
        raise HandshakeFailed(late if isinstance(error, TimeoutError) else _words_to_client(error)) from error
    return secure


def received(connection: socket.socket, size: int) -> bytes:
    """Return what came, of a TLS connection too: a part of a record there must not hold up the loop.

    Raises
    ------
    TimeoutError
        There is nothing to be had yet.
    """
    if not isinstance(connection, ssl.SSLSocket):
        return connection.recv(size)
    seconds = connection.gettimeout()
    connection.settimeout(0)
    try:
        return connection.recv(size)
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
        raise TimeoutError from error
    finally:
        connection.settimeout(seconds)


def say_goodbye(connection: socket.socket) -> None:
    """Send the alert that a TLS connection ends (RFC 8446 6.1), and wait for no answer."""
    if isinstance(connection, ssl.SSLSocket):
        with contextlib.suppress(OSError, ValueError):
            connection.settimeout(0)
            connection.unwrap()


def _words_to_client(error: OSError) -> str:
    """Return what was wrong with a peer that called us."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not hold: {error.verify_message.rstrip('.')}"
    reason = getattr(error, "reason", None) or type(error).__name__
    if "DID_NOT_RETURN_A_CERTIFICATE" in reason:
        return "it shows no certificate (scp.tls.clients)"
    if "UNSUPPORTED_PROTOCOL" in reason or "VERSION_TOO_LOW" in reason or "NO_SHARED_CIPHER" in reason:
        return f"it speaks no TLS 1.2 or 1.3 with a cipher of ours ({reason})"
    if "ALERT" in reason:
        return f"it refuses the TLS handshake ({reason})"
    return f"no TLS handshake ({reason})"


def secured(connection: socket.socket, host: str, context: ssl.SSLContext, who: str) -> ssl.SSLSocket:
    """Return a connection with TLS on it; it is closed where that fails.

    Parameters
    ----------
    host
        The name, or the address, that the certificate must be for.
    who
        How the other side is called in an error.

    Raises
    ------
    NotSecure
        There is no handshake, or the certificate does not hold; the message says what is wrong with it.
    """
    try:
        return context.wrap_socket(connection, server_hostname=host)
    except OSError as error:
        connection.close()
        raise NotSecure(f"{who}: {words_to_server(error)}") from error


def words_to_server(error: OSError) -> str:
    """Return what was wrong with a peer that we called."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not hold: {error.verify_message.rstrip('.')}"
    if isinstance(error, TimeoutError):
        return "no TLS handshake in time; does it speak TLS on this port?"
    reason = getattr(error, "reason", None) or type(error).__name__
    if "ALERT" in reason:  # it speaks TLS, and says what it does not like
        return f"it refuses the TLS handshake ({reason})"
    return f"no TLS connection ({reason}); does it speak TLS on this port?"
