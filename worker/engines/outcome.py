"""Entering outcomes: what was done is written down however long the ledger is locked, and done only once meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event

import structlog

from dicom_io.errors import CxrdError, OutOfResources
from worker.ledger.receipts import Ledger
from worker.queue.breaker import Pause
from worker.queue.claim import LeaseLost, Queue

log = structlog.get_logger("cxrd.outcome")

_FAREWELL = 5.0
"""Seconds that an outcome may still wait for the ledger when the process is to end."""


class Outcomes:
    """Writes outcomes, and waits with each while the ledger cannot take it.

    Parameters
    ----------
    ending
        Set when the process is to end: then an outcome waits a few seconds and no longer, and its lease runs out.
    """

    def __init__(self, ending: Event) -> None:
        self._ending = ending
        self._pause = Pause(first=0.1, most=15.0)
        self._last_chance: float | None = None

    @property
    def waits_for(self) -> str:
        """Why the ledger takes nothing; empty where it does."""
        return self._pause.reason

    def enter(self, write: Callable[[], None]) -> bool:
        """Call `write` until it succeeds; return whether it did.

        It does not where the task belongs to somebody else by now, or the process ends while the ledger is locked.
        """
        while True:
            try:
                write()
            except LeaseLost as error:
                log.warning("lease_lost", reason=str(error))
                return False
            except OutOfResources as error:
                if self._pause.trip(str(error)):
                    log.warning("ledger_waits", reason=str(error))
                if self._is_over():
                    log.error("outcome_not_entered", reason=str(error))
                    return False
                time.sleep(max(0.05, min(0.5, self._pause.left())))
            else:
                if self._pause.clear():
                    log.info("ledger_again")
                return True

    def _is_over(self) -> bool:
        if not self._ending.is_set():
            return False
        if self._last_chance is None:
            self._last_chance = time.monotonic() + _FAREWELL
        return time.monotonic() >= self._last_chance


def hand_back(ledger: Ledger, queue: Queue) -> None:
    """Put back what a process that is about to end still has in hand: somebody else can begin at once."""
    left = queue.in_hand()
    if not left:
        return
    log.warning("handed_back", count=len(left))
    try:
        with ledger.writing() as connection:
            for task in left:
                queue.hand_back(connection, task)
    except CxrdError as error:
        log.warning("not_handed_back", reason=str(error))
