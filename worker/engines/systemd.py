"""What systemd is told: that we are ready, alive, reloading or about to end (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import time


def notify(state: str, *, monotonic: bool = False, wait: float = 2.0) -> bool:
    """Send a state to the service manager, where there is one that wants to hear it; return whether it was sent.

    A manager that does not read for a while must not hold up the one who tells it.

    Parameters
    ----------
    monotonic
        Say the time as well, as RELOADING=1 must.
    wait
        Seconds for room in what the manager has not read yet.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return True
    if monotonic:
        state += f"\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            link.settimeout(wait)
            link.sendto(state.encode(), address)
    except OSError:  # BlockingIOError and TimeoutError among them
        return False
    return True
