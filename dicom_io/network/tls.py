"""TLS on connections that we make: whose certificates are trusted, and what went wrong, in words."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from dicom_io.errors import InvalidSettings, PeerUnavailable


def client_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return what verifies a server's certificate and its name; TLS 1.2 at least.

    Parameters
    ----------
    ca_file
        Certificates in PEM form that are trusted, and no others; None trusts those of the system.

    Raises
    ------
    InvalidSettings
        The file cannot be read, or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:  # an OSError too
        raise InvalidSettings(f"ca_file {ca_file}: holds no certificate in PEM form") from error
    except OSError as error:
        raise InvalidSettings(f"ca_file {ca_file}: {error.strerror}") from error


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
    PeerUnavailable
        There is no handshake, or the certificate does not hold; the message says what is wrong with it.
    """
    try:
        return context.wrap_socket(connection, server_hostname=host)
    except OSError as error:
        connection.close()
        raise PeerUnavailable(f"{who}: {_words(error)}") from error


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not hold: {error.verify_message.rstrip('.')}"
    if isinstance(error, TimeoutError):
        return "no TLS handshake in time; does it speak TLS on this port?"
    reason = getattr(error, "reason", None) or type(error).__name__
    if "ALERT" in reason:  # it speaks TLS, and says what it does not like
        return f"it refuses the TLS handshake ({reason})"
    return f"no TLS connection ({reason}); does it speak TLS on this port?"
