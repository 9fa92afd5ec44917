"""What systemd is told: that we are ready, alive, reloading or about to end (sd_notify(3))."""

from __future__ import annotations

import contextlib
import os
import socket
import time


def notify(state: str, *, monotonic: bool = False) -> None:
    """Send a state to the service manager, where there is one that wants to hear it.

    Parameters
    ----------
    monotonic
        Say the time as well, as RELOADING=1 must.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    if monotonic:
        state += f"\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
    address = "\0" + path[1:] if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.sendto(state.encode(), address)
