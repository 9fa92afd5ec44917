"""Hosts and ports, as they are written."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")


def address(host: str, port: int | None) -> str:
    """Return host:port, with an IPv6 address in brackets (RFC 3986 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def redirection(code: int, location: str) -> str:
    """Return in words that an HTTP server points elsewhere, where we do not go.

    Of the place only scheme, host and port are named: what follows may hold a token, or a patient's ID.

    Parameters
    ----------
    code
        HTTP status, 300 to 399.
    location
        The header Location as it came; empty where there is none.
    """
    return f"redirects to {origin(location)} (HTTP status {code}), where nothing is sent"


def origin(location: str) -> str:
    """Return scheme, host and port of an address: nothing of what may be a password, a token, or a patient's ID."""
    try:
        parts = urlsplit(location)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "an address that cannot be read"
    if not host:
        return "another path" if location else "no address"
    if not _HOST.fullmatch(host) or parts.scheme not in ("", "http", "https"):
        return "an address that cannot be read"
    where = address(host, port) if port else f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{where}" if parts.scheme else where


def plain_url(url: str) -> str:
    """Return an address as far as it may be shown: scheme, host, port and path; no user, password or query."""
    try:
        path = urlsplit(url).path
    except ValueError:
        path = ""
    return origin(url) + path
