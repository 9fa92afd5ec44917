"""Who was not let in, for the audit: counted, so that a peer that tries all day leaves no thousands of events."""

from __future__ import annotations

import datetime as dt
import threading
from collections import Counter
from typing import TYPE_CHECKING

import structlog

from dicom_io.errors import CxrdError
from worker.clock import now

if TYPE_CHECKING:
    from worker.ledger.receipts import Ledger

log = structlog.get_logger("cxrd.receiver")

EVERY = dt.timedelta(minutes=1)
"""Between two times that counts are entered; the first rejection after a quiet minute is entered at once."""
MOST = 200
"""Peers that are counted one by one; what comes on top is counted together."""

_Key = tuple[str, str, str]


class Rejections:
    """Counts associations that were rejected, and enters the counts."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._counts: Counter[_Key] = Counter()
        self._entered_at: dt.datetime | None = None

    def note(self, calling: str, peer: str, reason: str) -> None:
        """Count one, by its calling AE title, its address and our reason."""
        with self._lock:
            key = (calling, peer, reason)
            self._counts[key if key in self._counts or len(self._counts) < MOST else ("", "", "several")] += 1
        if self._entered_at is None or now() - self._entered_at >= EVERY:
            self.enter()

    def enter(self) -> None:
        """Enter what was counted; what cannot be entered now is kept for the next time."""
        with self._lock:
            self._entered_at = now()
            counts, self._counts = self._counts, Counter()
        while counts:
            (calling, peer, reason), count = counts.popitem()
            facts = {"calling_ae": calling, "peer_address": peer, "reason": reason, "count": count}
            try:
                self._ledger.record_event("association_rejected", now(), facts)
            except CxrdError as error:
                counts[calling, peer, reason] = count
                with self._lock:
                    self._counts.update(counts)
                log.warning("rejections_wait", reason=str(error))
                return
