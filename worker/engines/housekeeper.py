"""The housekeeper: deletes what is kept no longer, and what nobody owns. One for each store, whoever has it in hand."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Sequence

import structlog

from dicom_io.errors import CxrdError
from dicom_io.fail_points import reached
from worker import metrics
from worker.clock import now
from worker.ledger.receipts import Ledger
from worker.ledger.retention import Deletion, Files, Retention
from worker.logs import unexpected
from worker.pulse import Pulse
from worker.queue.claim import Queue, put
from worker.queue.task import Kind, Task
from worker.settings import Storage
from worker.storage.blobs import Blobs
from worker.storage.orphans import Orphan, find_orphans, remove_orphan

log = structlog.get_logger("cxrd.housekeeper")

EVERY, EVERY_SWEEP = dt.timedelta(minutes=1), dt.timedelta(days=1)
"""How often what is kept too long is looked for, and what nobody owns."""
_LOOK = 5.0
"""Seconds between two looks at whether it is time."""
_AT_ONCE = 50
"""Images in one transaction: senders wait for the database meanwhile."""
_KEPT_TOO_LONG, _UNOWNED = 1, 2
"""The subjects of its two tasks."""
BOTH: tuple[Files, ...] = ("received", "results")


class Housekeeper(threading.Thread):
    """A thread beside the couriers.

    Its two tasks stand in the queue with the store as target, so that of several processes with one store only one does
    them. Deletion by age or for lack of space spares what is not done with (`worker.ledger.retention`).

    Parameters
    ----------
    clock
        Returns the time, aware.
    """

    def __init__(
        self, settings: Storage, ledger: Ledger, blobs: Blobs, queue: Queue, clock: Callable[[], dt.datetime] = now
    ) -> None:
        super().__init__(name="housekeeper", daemon=True)
        self._settings = settings
        self._ledger = ledger
        self._blobs = blobs
        self._queue = queue
        self._now = clock
        self._ending = threading.Event()
        self._entered = False
        self._short = False
        self.pulse = Pulse()

    def stop(self) -> None:
        """End after the batch in hand."""
        self._ending.set()

    def run(self) -> None:
        """Look now and then whether it is time for something."""
        while not self._ending.is_set():
            self.pulse.beat()
            try:
                self.look()
            except CxrdError as error:
                log.warning("housekeeping_waits", reason=str(error))
            except Exception as error:  # noqa: BLE001 - the border of a thread that must not end
                log.error("housekeeping_waits", reason=unexpected(error))
            self._ending.wait(_LOOK)

    def look(self) -> None:
        """Do what is due.

        Raises
        ------
        CxrdError
            Ledger or store are not to be had now.
        """
        if not self._blobs.store:
            self._blobs.check_there()
        if not self._entered:
            self._enter_tasks()
        tasks = self._queue.claim([Kind.EXPIRE], self._now(), target=self._blobs.store, limit=2, among="any")
        try:
            for task in tasks:
                self._do(task)
        finally:
            for task in tasks:
                self._queue.forget(task)  # the lease of one that the ledger did not take back runs out

    def _do(self, task: Task) -> None:
        """Do one of the two, and enter when it is to be done next."""
        every = EVERY if task.subject == _KEPT_TOO_LONG else EVERY_SWEEP
        reason = ""
        try:
            if task.subject == _KEPT_TOO_LONG:
                self._delete_old()
                self._make_room()
            else:
                self._sweep()
        except CxrdError as error:
            reason, every = str(error), EVERY
            log.warning("housekeeping_waits", reason=reason)
        except Exception as error:  # noqa: BLE001 - held in hand, it would never come again
            reason, every = unexpected(error), EVERY
            log.error("housekeeping_waits", reason=reason)
        with self._ledger.writing() as connection:
            self._queue.postpone(connection, task, self._now() + every, reason)

    def _enter_tasks(self) -> None:
        store, moment = self._blobs.store, self._now()
        with self._ledger.writing() as connection:
            put(connection, Kind.EXPIRE, _KEPT_TOO_LONG, moment + EVERY, target=store, store=store)
            put(connection, Kind.EXPIRE, _UNOWNED, moment + EVERY, target=store, store=store)
        self._entered = True

    # ---- what is kept too long ---------------------------------------------------------------------------------------

    def _delete_old(self) -> None:
        days = {"received": self._settings.keep_received_days, "results": self._settings.keep_results_days}
        for files in BOTH:
            limit = days[files]
            if limit is not None:
                before = self._now() - dt.timedelta(days=limit)
                while self._take_away(self._retention.due(files, before, _AT_ONCE), [files], "age"):
                    self.pulse.beat()

    def _make_room(self) -> None:
        """Delete the oldest images and their results until enough is free, or nothing that may go is left."""
        need = self._settings.room_bytes
        while need and self._blobs.free_bytes() < need:
            if not self._take_away(self._oldest(), BOTH, "space"):
                if not self._short and not self._ending.is_set():
                    log.warning("no_room_to_make", free=self._blobs.free_bytes(), need=need)
                self._short = True
                return
            self.pulse.beat()
        self._short = False

    def _oldest(self) -> list[int]:
        """Return images some file of which may go: those whose own file is kept, before those with results alone."""
        moment = self._now()
        return self._retention.due("received", moment, _AT_ONCE) or self._retention.due("results", moment, _AT_ONCE)

    def _take_away(self, numbers: Sequence[int], files: Sequence[Files], why: str) -> bool:
        """Delete files of images; return whether any could be, and there is time for more."""
        if self._ending.is_set() or not numbers:
            return False
        deletions = self._retention.mark(numbers, files, self._now(), why)
        reached("marked not deleted")
        size = remove(self._blobs, self._retention, deletions, self._now())
        metrics.deleted(why, size)
        if deletions:
            log.info("deleted", why=why, what=list(files), images=len(deletions), bytes=size)
        return bool(deletions)

    @property
    def _retention(self) -> Retention:
        return Retention(self._ledger, self._blobs.store)

    # ---- what nobody owns --------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        search = find_orphans(self._blobs, self._retention.owners, self._now())
        sizes = [remove_orphan(self._blobs, each, self._retention.owners, self._now()) for each in search.orphans]
        metrics.deleted("unowned", sum(sizes))
        if search.orphans:
            log.info("unowned_removed", files=len(search.orphans), bytes=sum(sizes))
        if search.acknowledged:
            log.error("unknown_objects", files=len(search.acknowledged), example=str(search.acknowledged[0].path))


def remove(blobs: Blobs, retention: Retention, deletions: Sequence[Deletion], now: dt.datetime) -> int:
    """Remove the files of deletions that are entered, but for what another row keeps; return their bytes.

    Raises
    ------
    OutOfResources
        One cannot be removed. The sweep takes it, and what comes after it, later.
    """
    size = 0
    for sha256 in [each for deletion in deletions for each in deletion.sha256]:
        for path in blobs.every(sha256):
            size += remove_orphan(blobs, Orphan(path, 0, sha256), retention.owners, now, age=dt.timedelta(0))
    return size
