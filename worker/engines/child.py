"""One process of cxrd, from its start to its end: alone, or as a child of the supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Protocol

import structlog

from worker.engines.watch import Watch, Watched
from worker.ledger.receipts import Ledger
from worker.settings import Settings

log = structlog.get_logger("cxrd.child")

LOOK = 5.0
"""Seconds between two looks at whether the work goes on, and between two signs of life to the supervisor."""
STUCK = 70
"""Exit code of a process that ends since it is stuck: EX_SOFTWARE of sysexits.h."""


class Part(Watched, Protocol):
    """What a process does: receive, work or deliver."""

    settings: Settings
    ledger: Ledger

    def check_store(self) -> None:
        """Raise an error where the storage folder is not there, or not as the work needs it."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End within the set time, and hand back what is not done."""


def run(make: Callable[[], Part], ready_fd: int | None = None) -> None:
    """Do a part of the work until SIGTERM, or Ctrl-C, or the end of the supervisor; or until it is stuck.

    What is stuck ends with `STUCK`, so that whoever started it starts it again: the image in hand is then a suspect,
    and does not hold up all others for good.

    Parameters
    ----------
    ready_fd
        Where a supervisor wants to hear that we are ready, and that we live; it holds our standard input open as long
        as it lives.
    """
    end = stop_event()
    if ready_fd is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the supervisor leads
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        threading.Thread(target=_follow_supervisor, args=(end,), name="supervisor", daemon=True).start()
    part = make()
    watch = Watch(part, part.settings, part.ledger, part.check_store)
    watch.start()
    part.start()
    watch.started()
    if not _goes_on(part, end, ready_fd):
        sys.stdout.flush()
        os._exit(STUCK)
    watch.ending()
    part.stop()
    # A thread that did not end in time must not hold up the exit; what it had in hand was handed back.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _goes_on(part: Part, end: threading.Event, ready_fd: int | None) -> bool:
    """Wait for the end, and give signs of life meanwhile; return False where the work was stuck at two looks."""
    before: list[str] = []
    while True:
        if ready_fd is not None:
            with contextlib.suppress(OSError):
                os.write(ready_fd, b".")
        if end.wait(LOOK):
            return True
        reasons = part.stuck()
        if before and reasons:  # twice: a machine that was asleep needs a moment
            log.error("stuck", role=part.role, reason="; ".join(reasons))
            return False
        before = reasons


def stop_event() -> threading.Event:
    """Return an event that SIGTERM or Ctrl-C sets from now on."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _follow_supervisor(end: threading.Event) -> None:
    """Set the event when the supervisor is gone: it holds the other end of our standard input."""
    with contextlib.suppress(OSError):
        while os.read(0, 1024):
            pass
    end.set()
