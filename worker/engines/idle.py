"""The idle engine: one thread that does work without hurry, one image at a time, while no new image waits."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from dicom_io.errors import Retryable
from worker.logs import unexpected

log = structlog.get_logger("cxrd.engine")

POLL = 1.0
"""Seconds between two looks when there is nothing to do, or a new image goes first."""


class IdleEngine:
    """Runs `process` on the receipts that `next_receipt` names.

    Parameters
    ----------
    next_receipt
        Returns the receipt that is to be processed next; None where there is none, or where new images go first.
    put_back
        As for `worker.engines.local.LocalEngine`; called until it succeeds.
    pause
        Seconds of rest after each image.
    """

    def __init__(
        self,
        next_receipt: Callable[[], int | None],
        process: Callable[[int], None],
        put_back: Callable[[int], None],
        *,
        pause: float,
    ) -> None:
        self._next_receipt = next_receipt
        self._process = process
        self._put_back = put_back
        self._pause = pause
        self._to_put_back: int | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="idle", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End after the image in hand; the rest is in the ledger."""
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
        """Process one image; return whether there was one."""
        if self._to_put_back is not None:
            self._put_back(self._to_put_back)
            self._to_put_back = None
        number = self._next_receipt()
        if number is None:
            return False
        try:
            self._process(number)
        except Exception as error:  # noqa: BLE001 - the border of a task
            reason = str(error) if isinstance(error, Retryable) else unexpected(error)
            log.error("outcome_not_entered", receipt=number, reason=reason)
            self._to_put_back = number
            return False
        return True
