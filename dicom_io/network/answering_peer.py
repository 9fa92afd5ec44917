"""Limits on what a peer may send that we called: no PDU of any length, and none that trickles.

pynetdicom makes the association itself and reads a PDU in one go, however long it says it is.
"""

from __future__ import annotations

import errno
import time
from typing import Any

MOST_PDU = 1 << 20
"""Bytes of a PDU: eight times what we state as our Maximum Length, as some nodes take no notice of it."""
_CHUNK = 1 << 16


def bound(event: Any) -> None:
    """Bound what comes on a connection that has opened.

    Parameters
    ----------
    event
        Of pynetdicom's EVT_CONN_OPEN, which comes before the first byte of the association. A PDU that is too long, or
        not complete within the association's `network_timeout`, ends the association like a lost connection.
    """
    wrapper: Any = event.assoc.dul.socket
    if wrapper is None or wrapper.socket is None:
        return  # it is closed by now
    connection, seconds = wrapper.socket, event.assoc.network_timeout

    def receive(count: int) -> bytearray:
        if count > MOST_PDU:
            raise OSError(errno.EMSGSIZE, f"a PDU of {count} bytes")
        data, deadline = bytearray(), time.monotonic() + seconds
        try:
            while len(data) < count:
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                more = connection.recv(min(count - len(data), _CHUNK))
                if not more:
                    break
                data += more
        finally:
            connection.settimeout(None)
        return data

    wrapper.recv = receive
