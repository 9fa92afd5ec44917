"""Hosts and ports, as they are written."""

from __future__ import annotations


def address(host: str, port: int | None) -> str:
    """Return host:port, with an IPv6 address in brackets (RFC 3986 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
