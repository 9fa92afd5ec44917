"""The receiver: the node that images are sent to. It knows no model, decodes no pixels, and waits for nobody."""

from __future__ import annotations

import structlog

from dicom_io.errors import InvalidSettings
from dicom_io.network.address import address
from dicom_io.network.storage_scp import NodeOptions, StorageNode
from worker.engines.heartbeat import Heartbeat
from worker.ledger.database import open_ledger
from worker.queue.claim import Queue
from worker.queue.wake import ring
from worker.receive.intake import Intake
from worker.settings import Settings
from worker.storage.blobs import Blobs
from worker.storage.pseudonym import PatientKey

log = structlog.get_logger("cxrd.receiver")


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
        self.blobs = Blobs(folder / "objects", settings.storage.min_free_mb * 1_000_000)
        key = PatientKey(folder, settings.audit.patient_id)
        intake = Intake(
            self.ledger, self.blobs, key, lambda _: ring(folder, "work"), urgent=settings.scp.urgent_calling
        )
        options = NodeOptions(**settings.scp.model_dump(exclude={"urgent_calling"}))
        self._node = StorageNode(options, self.blobs.incoming, intake.receive)
        self._heartbeat = Heartbeat(self.ledger, self.role, owner or Queue(self.ledger).owner, None, self._detail)

    @property
    def port(self) -> int:
        """The port that the node listens on."""
        return self._node.port

    def start(self) -> None:
        """Listen."""
        settings = self.settings.scp
        try:
            self._node.start()
        except OSError as error:
            where = address(settings.host, settings.port)
            raise InvalidSettings(f"scp: cannot listen on {where}: {error.strerror}") from error
        self._heartbeat.start()
        log.info(
            "listening",
            ae_title=settings.ae_title,
            host=settings.host,
            port=self.port,
            destinations=[each.name for each in self.settings.destinations],
        )

    def stop(self) -> None:
        """Stop listening, and let objects on their way arrive."""
        self._node.stop()
        self._heartbeat.stop()
        log.info("stopped", role=self.role)

    def _detail(self) -> dict[str, object]:
        return {"host": self.settings.scp.host, "port": self.port}
