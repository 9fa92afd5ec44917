"""Receiver, workers and couriers together in one process: for the demo and for tests. `cxrd serve` has one for each."""

from __future__ import annotations

from worker.engines.couriers import Couriers
from worker.engines.receiver import Receiver
from worker.engines.workers import Workers
from worker.ledger.database import make_folder
from worker.settings import Settings
from worker.storage.lock import FolderLock


class Daemon:
    """A running cxrd.

    Parameters
    ----------
    settings
        Validated settings; `scp.port` 0 takes a free port, see `port`.

    Raises
    ------
    InvalidSettings, OutOfResources
        When it cannot be started; the message says in one line what to change.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        make_folder(settings.storage.folder)
        self._lock = FolderLock(settings.storage.folder)
        self.receiver = Receiver(settings)
        self.workers = Workers(settings)
        self.couriers = Couriers(settings)
        self.ledger, self.blobs = self.receiver.ledger, self.receiver.blobs

    @property
    def port(self) -> int:
        """The port that the node listens on."""
        return self.receiver.port

    def start(self) -> None:
        """Start the couriers and the workers, and listen last."""
        self.couriers.start()
        self.workers.start()
        try:
            self.receiver.start()
        except BaseException:
            self.workers.stop()
            self.couriers.stop()
            raise

    def stop(self) -> None:
        """Stop listening, finish what is in hand, and leave the rest to the next start."""
        self.receiver.stop()
        self.workers.stop()
        self.couriers.stop()
        self._lock.close()
