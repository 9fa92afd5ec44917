"""Turns Nagle's algorithm off on the connections of associations (RFC 896).

A message goes out in several small pieces. With the algorithm on, each waits until the peer has confirmed the one
before, and a peer that delays confirmations costs up to 40 ms a message.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any


def send_at_once(event: Any) -> None:
    """Let a connection that has opened send what it has to send without waiting.

    Parameters
    ----------
    event
        Of pynetdicom's EVT_CONN_OPEN, which comes on either side before the first byte of the association. pynetdicom
        has no setting for it; the association's socket is public.
    """
    wrapper = event.assoc.dul.socket
    if wrapper is None or wrapper.socket is None:
        return  # it is closed by now
    with contextlib.suppress(OSError):
        wrapper.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
