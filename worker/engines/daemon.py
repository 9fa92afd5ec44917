"""The daemon: all parts put together, started in the order of their dependence and stopped in reverse."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

import structlog

from dicom_io.errors import InvalidSettings
from dicom_io.network.address import address
from dicom_io.network.storage_scp import NodeOptions, StorageNode
from worker.clock import now
from worker.deliver.courier import Courier
from worker.deliver.destinations import sender_of
from worker.engines.idle import IdleEngine
from worker.engines.local import LocalEngine
from worker.engines.pipeline import Pipeline
from worker.extras import require_configured
from worker.inference.serving import Serving
from worker.inference.shadow import open_shadow
from worker.ledger.database import make_folder, open_ledger
from worker.ledger.deliveries import Deliveries
from worker.ledger.reanalyses import Reanalyses
from worker.queue.wake import WakeSignal
from worker.receive.intake import Intake
from worker.settings import Settings
from worker.storage.blobs import Blobs
from worker.storage.pseudonym import PatientKey

log = structlog.get_logger("cxrd.daemon")


class Daemon:
    """A running cxrd: node, engine and couriers in one process.

    Parameters
    ----------
    settings
        Validated settings; `scp.port` 0 takes a free port, see `port`.

    Raises
    ------
    InvalidModel, InvalidSettings, OutOfResources
        When it cannot be started; the message says in one line what to change.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        require_configured(settings)
        folder = settings.storage.folder
        make_folder(folder)
        self._lock = _lock(folder)
        self.ledger = open_ledger(settings)
        self.serving = Serving(settings, lambda kind, facts: self.ledger.record_event(kind, now(), facts))
        self.shadow = open_shadow(settings, self.ledger)
        self.deliveries = Deliveries(self.ledger)
        self.blobs = Blobs(folder / "objects", settings.storage.min_free_mb * 1_000_000)
        self.couriers = [
            Courier(each.name, sender_of(each, settings), self.deliveries, self.blobs, settings.outbox, now)
            for each in settings.destinations
        ]
        pipeline = Pipeline(
            settings, self.ledger, self.blobs, self.serving.lease, self._wake_couriers, shadow=self.shadow
        )
        self._engine = LocalEngine(
            pipeline.process,
            lambda: self.ledger.unfinished(now()),
            lambda receipt_id: self.ledger.put_back(receipt_id, now()),
            threads=settings.worker.threads or os.cpu_count() or 1,
            sweep_seconds=settings.worker.sweep_seconds,
            signal_arrived=WakeSignal(folder).arrived,
        )
        self.reanalyses = Reanalyses(self.ledger)
        # Without the shadow: it is there for live images, and a back-fill would fill its queue.
        second_readings = Pipeline(
            settings, self.ledger, self.blobs, self.serving.lease, self._wake_couriers, tasks=self.reanalyses
        )
        self._idle = IdleEngine(
            self._reanalysis,
            second_readings.process,
            lambda receipt_id: self.reanalyses.put_back(receipt_id, now()),
            pause=settings.worker.reanalysis_pause,
        )
        key = PatientKey(folder, settings.audit.patient_id)
        intake = Intake(self.ledger, self.blobs, key, self._engine.submit)
        self._node = StorageNode(NodeOptions(**settings.scp.model_dump()), self.blobs.incoming, intake.receive)

    @property
    def port(self) -> int:
        """The port that the node listens on."""
        return self._node.port

    def start(self) -> None:
        """Take back what a dead process had in hand, start the threads, and listen last."""
        taken_back = self.ledger.recover(now(), self.settings.worker.max_crashes)
        taken_back += self.reanalyses.recover(now(), self.settings.worker.max_crashes)
        for courier in self.couriers:
            courier.start()
        self._engine.start()
        self._idle.start()
        try:
            self._node.start()
        except OSError as error:
            self._engine.stop()
            self._idle.stop()
            where = address(self.settings.scp.host, self.settings.scp.port)
            raise InvalidSettings(f"scp: cannot listen on {where}: {error.strerror}") from error
        log.info(
            "listening",
            ae_title=self.settings.scp.ae_title,
            host=self.settings.scp.host,
            port=self.port,
            model=self.serving.reader.card.label,
            engine=self.serving.reader.engine.name,
            shadow=self.shadow.card.label if self.shadow else None,
            destinations=[courier.destination for courier in self.couriers],
            taken_back=taken_back,
        )

    def stop(self) -> None:
        """Stop listening, finish what is in hand, and leave the rest to the next start."""
        self._node.stop()
        self._idle.stop()
        self._engine.stop()
        for courier in self.couriers:
            courier.stop()
        for courier in self.couriers:
            courier.join(timeout=10)
        self.serving.close()
        if self.shadow:
            self.shadow.close()
        self._lock.close()
        log.info("stopped", **self.ledger.counts())

    def _reanalysis(self) -> int | None:
        """Return the receipt that is to be read again next: none while a new image waits or is in hand."""
        moment = now()
        if not self.reanalyses.has_waiting(moment) or self.ledger.is_busy(moment):
            return None
        with self.serving.lease() as reader:  # this also takes up a model that was promoted
            return self.reanalyses.next_receipt(reader.identity.digest, moment)

    def _wake_couriers(self) -> None:
        for courier in self.couriers:
            courier.wake()


def _lock(folder: Path) -> IO[str]:
    """Hold the storage folder for this process: a second one would take the first one's work for a dead one's."""
    handle = (folder / "lock").open("a")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise InvalidSettings(f"another cxrd is running on {folder}") from error
    return handle
