"""The idle engine: one thread that does what can wait, one piece at a time, while nothing else is to be done."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from dicom_io.errors import Retryable
from worker.logs import unexpected

log = structlog.get_logger("cxrd.engine")

POLL = 1.0
"""Seconds between two looks when there was nothing to do, or something better."""


class IdleEngine:
    """Runs `process` on what `following` names.

    Parameters
    ----------
    following
        Returns the id that is to be processed next; None where there is none, or where new images go first.
    put_back
        As for `worker.engines.local.LocalEngine`; called until it succeeds.
    pause
        Seconds of rest after each piece.
    """

    def __init__(
        self,
        following: Callable[[], int | None],
        process: Callable[[int], None],
        put_back: Callable[[int], None],
        *,
        pause: float,
    ) -> None:
        self._following = following
        self._process = process
        self._put_back = put_back
        self._pause = pause
        self._stranded: int | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="idle", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End after the piece in hand; the rest is in the ledger."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                busy = self._round()
            except Exception as error:  # noqa: BLE001 - the border of a thread that must not end
                reason = str(error) if isinstance(error, Retryable) else unexpected(error)
                log.warning("sweep_error", reason=reason)
                busy = False
            self._ending.wait(self._pause if busy else POLL)

    def _round(self) -> bool:
        """Do one piece; tell whether there was any."""
        if self._stranded is not None:
            self._put_back(self._stranded)
            self._stranded = None
        number = self._following()
        if number is None:
            return False
        try:
            self._process(number)
        except Exception as error:  # noqa: BLE001 - the border of a task
            reason = str(error) if isinstance(error, Retryable) else unexpected(error)
            log.error("outcome_not_entered", receipt=number, reason=reason)
            self._stranded = number
            return False
        return True
