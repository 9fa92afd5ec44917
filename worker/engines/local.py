"""The local engine: threads in this process that take receipts by id, and a sweep that finds those left behind."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable

import structlog

from dicom_io.errors import Retryable
from worker.logs import unexpected

log = structlog.get_logger("cxrd.engine")

_LOOK = 1.0
"""Seconds between two looks at the signal of another process."""


class LocalEngine:
    """Runs `process` on submitted ids with a fixed number of threads.

    Ids may be submitted more than once: `process` claims each in the ledger, and the second claim finds nothing to do.

    Parameters
    ----------
    unfinished
        Returns the ids of all receipts that wait for a worker, oldest first; called at the start and every
        `sweep_seconds`.
    put_back
        Makes a receipt wait for a worker again whose outcome could not be entered, because the ledger itself was locked
        or full at that moment; called by the sweep until it succeeds.
    signal_arrived
        Returns whether another process has put work into the ledger; called every second between two sweeps.
    """

    def __init__(
        self,
        process: Callable[[int], None],
        unfinished: Callable[[], Iterable[int]],
        put_back: Callable[[int], None],
        *,
        threads: int,
        sweep_seconds: float,
        signal_arrived: Callable[[], bool] = lambda: False,
    ) -> None:
        self._process = process
        self._unfinished = unfinished
        self._put_back = put_back
        self._sweep_seconds = sweep_seconds
        self._rung = signal_arrived
        self._queue: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._waiting: set[int] = set()
        self._to_put_back: set[int] = set()
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._run, name=f"worker-{n}", daemon=True) for n in range(threads)]
        self._sweeper = threading.Thread(target=self._sweep, name="sweep", daemon=True)

    def start(self) -> None:
        """Start the threads; the sweep hands out what an earlier process left."""
        for thread in [*self._threads, self._sweeper]:
            thread.start()

    def submit(self, receipt_id: int) -> None:
        """Queue a receipt."""
        with self._lock:
            if receipt_id in self._waiting:
                return
            self._waiting.add(receipt_id)
        self._queue.put(receipt_id)

    def stop(self) -> None:
        """End after the receipts in hand; what is queued is in the ledger and waits for the next start."""
        self._ending.set()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._sweeper.join()

    def _run(self) -> None:
        while (receipt_id := self._queue.get()) is not None and not self._ending.is_set():
            with self._lock:
                self._waiting.discard(receipt_id)
            try:
                self._process(receipt_id)
            except Exception as error:  # noqa: BLE001 - the border of a thread that must not end
                reason = str(error) if isinstance(error, Retryable) else unexpected(error)
                log.error("outcome_not_entered", receipt=receipt_id, reason=reason)
                with self._lock:
                    self._to_put_back.add(receipt_id)

    def _sweep(self) -> None:
        while not self._ending.is_set():
            try:
                with self._lock:
                    to_put_back = sorted(self._to_put_back)
                for receipt_id in to_put_back:
                    self._put_back(receipt_id)
                    with self._lock:
                        self._to_put_back.discard(receipt_id)
                for receipt_id in self._unfinished():
                    self.submit(receipt_id)
            except Exception as error:  # noqa: BLE001 - as above
                log.warning("sweep_error", reason=unexpected(error))
            until = time.monotonic() + self._sweep_seconds
            while (left := until - time.monotonic()) > 0 and not self._rung():
                if self._ending.wait(min(_LOOK, left)):
                    break
