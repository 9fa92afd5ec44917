"""The receiver: the node that images are sent to. It knows no model, decodes no pixels, and waits for nobody."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator

import structlog
from prometheus_client.core import Metric

from dicom_io.errors import InvalidSettings
from dicom_io.network.address import address
from dicom_io.network.commitment_scp import Commitment
from dicom_io.network.node_options import NodeOptions
from dicom_io.network.storage_scp import StorageNode
from dicom_io.network.tls import ServerTls
from worker.engines.heartbeat import Heartbeat
from worker.health.certificates import certificates
from worker.ledger.database import open_ledger
from worker.ledger.stores import open_blobs
from worker.metrics import association_over, expect_destination, gauge
from worker.queue.claim import Queue
from worker.queue.wake import ring
from worker.receive.commitments import Keeper, ReportIntake, addresses
from worker.receive.intake import Intake
from worker.receive.rejections import Rejections
from worker.settings import Scp, Settings
from worker.storage.pseudonym import PatientKey

log = structlog.get_logger("cxrd.receiver")

_PATIENCE = 5.0
"""Seconds that a port may still be in use."""
_SILENCE = 30.0
"""Seconds without a turn of its loop after which the node is stuck."""


def node_options(scp: Scp) -> NodeOptions:
    """Return how the node shows itself, as the settings say."""
    others = {"urgent_calling", "duplicates", "allowed_calling", "require_called", "allowed_called", "tls"}
    return NodeOptions(
        **scp.model_dump(exclude=others),
        allowed_calling=scp.titles,
        networks=scp.networks,
        allowed_called=scp.called_titles,
        called_networks=scp.called_networks,
        tls=ServerTls(**dict(scp.tls)) if scp.tls else None,
    )


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
            self.ledger,
            self.blobs,
            key,
            lambda _: ring(folder, "work"),
            urgent=settings.scp.urgent_calling,
            one_version=settings.scp.duplicates == "refuse",
            limits=settings.pixels.reading,
        )
        options = node_options(settings.scp)
        self._addresses = addresses(settings)
        # Reports are taken whatever the settings say now: results may have been asked about under earlier ones.
        commitment = Commitment(
            ReportIntake(self.ledger, lambda: ring(folder, "deliver")).receive,
            Keeper(self.ledger, self.blobs).held if settings.commitment.offered else None,
            self._addresses,
        )
        self._rejections = Rejections(self.ledger)
        self._node = StorageNode(
            options,
            self.blobs.incoming,
            intake.receive,
            commitment,
            check_space=self.blobs.check_space,
            over=association_over,
            rejected=self._rejections.note,
        )
        self._heartbeat = Heartbeat(self.ledger, self.role, owner or Queue(self.ledger).owner, None, self._detail)

    @property
    def port(self) -> int:
        """The port that the node listens on."""
        return self._node.port

    def start(self) -> None:
        """Listen."""
        settings = self.settings.scp
        for each in self.settings.destinations:
            expect_destination(each.name)  # reports on what was sent there come in here
        self._listen()
        self._heartbeat.start()
        log.info(
            "listening",
            ae_title=settings.ae_title,
            host=settings.host,
            port=self.port,
            tls_port=self._node.tls_port,
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
        self._rejections.enter()
        self._heartbeat.stop()
        log.info("stopped", role=self.role)

    def take_up(self, settings: Settings) -> bool:
        """Take up where senders and destinations are, and a renewed certificate; see `worker.engines.child.Part`."""
        self._renew_certificate()
        for each in settings.destinations:
            expect_destination(each.name)
        after = addresses(settings)
        self._addresses.update(after)
        for title in self._addresses.keys() - after.keys():
            del self._addresses[title]
        return True

    def _renew_certificate(self) -> None:
        try:
            days = self._node.renew_certificate()
        except InvalidSettings as error:
            log.error("certificate_not_taken_up", reason=str(error))
        else:
            if days is not None:
                log.info("certificate_taken_up", days_left=round(days))

    def stuck(self) -> list[str]:
        """Return why no connection is accepted; see `worker.engines.watch.Watched`."""
        silence = self._node.silent_for
        return [f"no connection has been accepted for {silence:.0f} s"] if silence > _SILENCE else []

    def check_store(self) -> None:
        """Raise an error where no object can be stored."""
        self.blobs.check_space()

    def faults(self) -> list[str]:
        """Return why not everything can be received now."""
        return [*self.stuck(), *([self._heartbeat.fault] if self._heartbeat.fault else [])]

    def gauges(self) -> Iterator[Metric]:
        """Yield what only this process knows."""
        yield gauge("cxrd_listening", "1 while connections are accepted", not self.stuck())
        days = {name: left for name, left in certificates(self.settings) if isinstance(left, float)}
        if days:
            words = "Days until this certificate of ours expires"
            yield gauge("cxrd_certificate_days_left", words, days, "certificate")

    def _detail(self) -> dict[str, object]:
        return {"host": self.settings.scp.host, "port": self.port}
