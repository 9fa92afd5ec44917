"""The anchorer: writes the head of the audit's chain to a file, to syslog, or both, now and then."""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from dicom_io.errors import CxrdError, OutOfResources
from worker import syslog
from worker.clock import now
from worker.database.transactions import Database
from worker.ledger import anchor
from worker.logs import unexpected
from worker.settings import Settings

log = structlog.get_logger("cxrd.anchorer")

_AGAIN = 60.0
"""Seconds until another attempt after one that failed."""


class Anchorer(threading.Thread):
    """A thread beside the couriers, without a pulse: a mount that hangs holds up nothing but this.

    Parameters
    ----------
    clock
        Returns the time, aware.
    """

    def __init__(self, settings: Settings, ledger: Database, clock: Callable[[], dt.datetime] = now) -> None:
        super().__init__(name="anchorer", daemon=True)
        self._settings = settings.audit.anchor
        self._key_file = settings.anchor_key_file
        self._ledger = ledger
        self._now = clock
        self._ending = threading.Event()
        self._last: tuple[int, str] | None = None

    @property
    def is_on(self) -> bool:
        """Whether the settings name a place for anchors."""
        return self._settings.file is not None or bool(self._settings.syslog)

    def stop(self) -> None:
        """End; what is being written is not waited for."""
        self._ending.set()

    def run(self) -> None:
        """Anchor the head each time that it is time."""
        while self.is_on and not self._ending.is_set():
            seconds = self._settings.every
            try:
                self.look()
            except CxrdError as error:
                log.warning("anchor_not_written", reason=str(error))
                seconds = min(seconds, _AGAIN)
            except Exception as error:  # noqa: BLE001 - the border of a thread that must not end
                log.error("anchor_not_written", reason=unexpected(error))
                seconds = min(seconds, _AGAIN)
            self._ending.wait(seconds)

    def look(self) -> None:
        """Anchor the head, if it is another one than before.

        Raises
        ------
        CxrdError
            The ledger or the key cannot be read, or a place not be written; the other one was, if it could.
        """
        with self._ledger.reading() as connection:
            newest = anchor.head(connection)
        if newest is None or newest == self._last:
            return
        at = self._now()
        words = anchor.line(at, *newest, anchor.anchor_key(self._key_file, make=True))
        try:
            if self._settings.file is not None:
                append(self._settings.file, words)
        finally:
            if self._settings.syslog:
                collector = syslog.Collector(
                    self._settings.syslog, "audit.anchor.syslog", ca_file=self._settings.ca_file
                )
                syslog.send(collector, [syslog.message(at, words, "anchor", syslog.AUDIT)])
        self._last = newest
        log.info("anchored", number=newest[0], digest=newest[1])


def append(path: Path, words: str) -> None:
    """Add a line to a file, and have it on the disk. Raises `OutOfResources` where that cannot be."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(handle, "ab", buffering=0) as file:  # noqa: PTH123 - of a handle
            file.write(f"{words}\n".encode())
            os.fsync(handle)
    except OSError as error:
        raise OutOfResources(f"audit.anchor.file {path}: {error.strerror}") from error
