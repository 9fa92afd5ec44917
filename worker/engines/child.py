"""One process of cxrd, from its start to its end: alone, or as a child of the supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import structlog

from dicom_io.errors import CxrdError, Retryable
from worker.engines import activity
from worker.engines.reload import read_again, settings_file
from worker.engines.watch import Watch, Watched
from worker.ledger.receipts import Ledger
from worker.settings import Settings

log = structlog.get_logger("cxrd.child")

LOOK = 5.0
"""Seconds between two looks at whether the work goes on, and between two signs of life to the supervisor."""
STUCK = 70
"""Exit code of a process that ends since it is stuck: EX_SOFTWARE of sysexits.h."""
NOT_NOW = 75
"""Exit code of a supervised process that cannot start now, and may later: EX_TEMPFAIL of sysexits.h."""


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

    def take_up(self, settings: Settings) -> bool:
        """Take up changed settings while it works; return whether it can."""


def run(make: Callable[[], Part], ready_fd: int | None = None, config: Path | None = None) -> None:
    """Do a part of the work until SIGTERM, or Ctrl-C, or the end of the supervisor; or until it is stuck.

    What is stuck ends with `STUCK`, so that whoever started it starts it again: the image in hand is then a suspect,
    and does not hold up all others for good. On SIGHUP the settings are taken up: by the part itself where it can, else
    by a new start of this process, unless a supervisor does that.

    Parameters
    ----------
    ready_fd
        Where a supervisor wants to hear that we are ready, and that we live; it holds our standard input open as long
        as it lives.
    config
        The settings file, as it was given to the command.
    """
    end = stop_event()
    hangup = threading.Event()
    signal.signal(signal.SIGHUP, lambda *_: hangup.set())
    file = settings_file(config)
    if ready_fd is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the supervisor leads
        threading.Thread(target=_follow_supervisor, args=(end,), name="supervisor", daemon=True).start()
    is_alone = ready_fd is None
    try:
        part = make()
        _record("started", part, is_alone=is_alone)
        watch = Watch(part, part.settings, part.ledger, part.check_store)
        watch.start()
        part.start()
    except Retryable as error:
        if is_alone:
            raise
        log.error("start_failed", reason=str(error))
        sys.stdout.flush()
        os._exit(NOT_NOW)
    watch.started()
    starts_anew = False

    def look() -> None:
        nonlocal starts_anew
        if hangup.is_set():
            hangup.clear()
            starts_anew = _take_up(part, file, is_supervised=ready_fd is not None)
            if starts_anew:
                end.set()

    if not _goes_on(part, end, ready_fd, look):
        sys.stdout.flush()
        os._exit(STUCK)
    watch.ending()
    _record("stopped", part, is_alone=is_alone)
    part.stop()
    # A thread that did not end in time must not hold up the exit; what it had in hand was handed back.
    sys.stdout.flush()
    sys.stderr.flush()
    if starts_anew:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own command, as it was given
    os._exit(0)


def _record(kind: Literal["started", "stopped"], part: Part, *, is_alone: bool) -> None:
    """Enter in the audit that a process which runs alone begins, or ends; else the supervisor does."""
    if is_alone:
        activity.record_event(kind, part.role, part.ledger, part.settings)


def _take_up(part: Part, file: Path | None, *, is_supervised: bool) -> bool:
    """Take up changed settings; return whether that needs a new start of this process."""
    try:
        change = read_again(part.settings, file)
    except CxrdError as error:
        log.error("settings_not_taken_up", role=part.role, reason=str(error))
        return False
    in_place = part.take_up(change.settings)
    if in_place:
        part.settings = change.settings
    if is_supervised:
        return False  # the supervisor has said so, and ends us where that is needed
    log.info("settings_taken_up", role=part.role, changed=change.names, need_a_restart=change.fixed)
    return bool(change.names) and not in_place


def _goes_on(part: Part, end: threading.Event, ready_fd: int | None, look: Callable[[], None] = lambda: None) -> bool:
    """Wait for the end, and give signs of life meanwhile; return False where the work was stuck at two looks.

    `look` is called now and then.
    """
    before: list[str] = []
    while True:
        if ready_fd is not None:
            with contextlib.suppress(OSError):
                os.write(ready_fd, b".")
        if end.wait(LOOK):
            return True
        look()
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
