"""The clock of the machine may go back: what was put off until a time of the wall must not wait for the difference."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable

import structlog

from worker.clock import now
from worker.ledger.audit_events import REPORT_MOST
from worker.ledger.deliveries import LATER, RESENDS
from worker.queue.breaker import Breakers
from worker.queue.claim import Queue
from worker.queue.retry import ANALYSIS_MOST
from worker.queue.task import Kind
from worker.settings import OutboxSettings

log = structlog.get_logger("cxrd.clock")

_BACK = 30.0
"""Seconds that a clock may be set back without anything to be done."""
_SWEEP, _SOON = dt.timedelta(days=1), dt.timedelta(minutes=1)


class ClockWatch:
    """Looks now and then whether the clock has gone back, and mends what waits; at the first look it mends as well.

    Between two starts of the process nothing tells that it has, and mending is cheap.

    Parameters
    ----------
    wall
        Returns the time, aware.
    steady
        Returns seconds that only go on.
    """

    def __init__(
        self,
        queue: Queue,
        outbox: OutboxSettings,
        wall: Callable[[], dt.datetime] = now,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._breakers = Breakers(queue.database, first=outbox.retry_first, most=outbox.retry_max)
        commit = max(outbox.commit_report_within, outbox.commit_after * LATER**RESENDS)
        self._longest = {
            Kind.ANALYSE: dt.timedelta(seconds=ANALYSIS_MOST),
            Kind.REANALYSE: dt.timedelta(seconds=ANALYSIS_MOST),
            Kind.DELIVER: dt.timedelta(seconds=outbox.retry_max),
            Kind.COMMIT: dt.timedelta(seconds=commit),
            Kind.REPORT: dt.timedelta(seconds=REPORT_MOST),
        }
        self._wall = wall
        self._steady = steady
        self._offset: float | None = None

    def look(self) -> None:
        """Mend what waits, where the clock has gone back.

        Raises
        ------
        OutOfResources
            The ledger cannot be written now; the next look does it.
        """
        moment = self._wall()
        offset = moment.timestamp() - self._steady()
        is_first = self._offset is None
        back = 0.0 if self._offset is None else self._offset - offset
        if is_first or back > _BACK:
            count = self._queue.mend_times(moment, self._longest | {Kind.EXPIRE: _SWEEP if is_first else _SOON})
            self._breakers.mend_times(moment)
            if not is_first:
                log.warning("clock_went_back", seconds=round(back), tasks=count)
        self._offset = offset
