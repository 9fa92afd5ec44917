"""The receiver: the node that images are sent to. It knows no model, decodes no pixels, and waits for nobody."""

from __future__ import annotations

import errno
import time

import structlog

from dicom_io.errors import InvalidSettings
from dicom_io.network.address import address
from dicom_io.network.storage_scp import NodeOptions, StorageNode
from worker.engines.heartbeat import Heartbeat
from worker.ledger.database import open_ledger
from worker.ledger.stores import open_blobs
from worker.queue.claim import Queue
from worker.queue.wake import ring
from worker.receive.intake import Intake
from worker.settings import Settings
from worker.storage.pseudonym import PatientKey

log = structlog.get_logger("cxrd.receiver")

_PATIENCE = 5.0
"""Seconds that a port may still be in use."""


class Receiver:
    """The receiving process.

    Parameters
    ----------
    owner
        The process's name in the ledger; one of its own by default.

    Raises
    ------
    InvalidSettings, OutOfResources
        When it cannot be started; the message says in one line what to change.
    """

    role = "receive"

    def __init__(self, settings: Settings, owner: str = "") -> None:
        self.settings = settings
        folder = settings.storage.folder
        self.ledger = open_ledger(settings)
        self.blobs = open_blobs(settings, self.ledger)
        key = PatientKey(folder, settings.audit.patient_id, self.ledger.holds_patient_keys)
        intake = Intake(
            self.ledger, self.blobs, key, lambda _: ring(folder, "work"), urgent=settings.scp.urgent_calling
        )
        options = NodeOptions(**settings.scp.model_dump(exclude={"urgent_calling"}))
        self._node = StorageNode(options, self.blobs.incoming, intake.receive, check_space=self.blobs.check_space)
        self._heartbeat = Heartbeat(self.ledger, self.role, owner or Queue(self.ledger).owner, None, self._detail)

    @property
    def port(self) -> int:
        """The port that the node listens on."""
        return self._node.port

    def start(self) -> None:
        """Listen."""
        settings = self.settings.scp
        self._listen()
        self._heartbeat.start()
        log.info(
            "listening",
            ae_title=settings.ae_title,
            host=settings.host,
            port=self.port,
            destinations=[each.name for each in self.settings.destinations],
        )

    def _listen(self) -> None:
        """Listen; a receiver that is about to end may still have the port for a moment."""
        settings, until = self.settings.scp, time.monotonic() + _PATIENCE
        while True:
            try:
                self._node.start()
            except OSError as error:
                if error.errno == errno.EADDRINUSE and time.monotonic() < until:
                    time.sleep(0.2)
                    continue
                where = address(settings.host, settings.port)
                raise InvalidSettings(f"scp: cannot listen on {where}: {error.strerror}") from error
            return

    def stop(self) -> None:
        """Stop listening, and let objects on their way arrive."""
        self._node.stop()
        self._heartbeat.stop()
        log.info("stopped", role=self.role)

    def _detail(self) -> dict[str, object]:
        return {"host": self.settings.scp.host, "port": self.port}
