"""The couriers: one for each destination, so that none holds up another."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import structlog
from prometheus_client.core import Metric

from dicom_io.errors import CxrdError
from worker import metrics
from worker.clock import now
from worker.deliver.committer import WAIT, CommitmentOffice, Committer
from worker.deliver.courier import Courier, Office
from worker.deliver.destinations import sender_of
from worker.deliver.dicom import node_of
from worker.destination_settings import Destination, DicomDestination
from worker.engines.anchorer import Anchorer
from worker.engines.clock_watch import ClockWatch
from worker.engines.heartbeat import Heartbeat
from worker.engines.housekeeper import Housekeeper
from worker.engines.outcome import Outcomes, hand_back
from worker.engines.reporter import Reporter
from worker.ledger.commitments import Commitments
from worker.ledger.database import open_ledger
from worker.ledger.deliveries import Deliveries
from worker.ledger.stores import open_blobs
from worker.queue.breaker import Breakers
from worker.queue.claim import Queue
from worker.queue.wake import Bell
from worker.receive.commitments import ReportIntake
from worker.settings import Settings

log = structlog.get_logger("cxrd.couriers")

POLL = 1.0
"""Seconds between two looks at the clock when nobody rings."""
_SWEEP_SECONDS = 3600.0
"""Seconds that looking through the whole store may take."""
_AGAIN = 30
"""Looks until a destination that could not be set up is tried once more."""


class Couriers:
    """The delivering process.

    A destination that cannot be set up, such as one whose `ca_file` is missing, is said loudly and tried again; the
    others are served.

    Parameters
    ----------
    owner
        The process's name in the ledger; one of its own by default.

    Raises
    ------
    InvalidSettings, OutOfResources
        When it cannot be started; the message says in one line what to change.
    """

    role = "deliver"

    def __init__(self, settings: Settings, owner: str = "") -> None:
        self.settings = settings
        folder = settings.storage.folder
        self.ledger = open_ledger(settings)
        self.queue = Queue(self.ledger, owner, settings.worker.lease_seconds)
        self._ending = threading.Event()
        self._outcomes = Outcomes(self._ending)
        outbox = settings.outbox
        self._office = Office(
            Deliveries(self.ledger, self.queue),
            open_blobs(settings, self.ledger),
            Breakers(self.ledger, first=outbox.retry_first, most=outbox.retry_max),
            outbox,
            now,
            self._outcomes.enter,
        )
        self._commitment_office = CommitmentOffice(
            Commitments(self.ledger, self.queue),
            self._office.breakers,
            outbox,
            now,
            ReportIntake(self.ledger, self._wake).receive,
            self._outcomes.enter,
        )
        self._housekeeper = Housekeeper(settings.storage, self.ledger, self._office.blobs, self.queue)
        self._anchorer = Anchorer(settings, self.ledger)
        self._reporter = Reporter(settings, self.ledger, self.queue)
        watch = ClockWatch(self.queue, settings.outbox)
        self._heartbeat = Heartbeat(self.ledger, self.role, self.queue.owner, self.queue, self._detail, watch)
        self._bell = Bell(folder, self.role)
        self._listener = threading.Thread(target=self._listen, name="bell", daemon=True)
        self.couriers: list[Courier] = []
        self.committers: list[Committer] = []
        self.not_served: dict[str, str] = {}
        """By name of a destination, why nothing can be sent there."""

    def start(self) -> None:
        """Start a courier for each destination."""
        self._heartbeat.start()
        for destination in self.settings.destinations:
            metrics.expect_destination(destination.name)
            self._serve(destination)
        self._listener.start()
        self._housekeeper.start()
        self._anchorer.start()
        self._reporter.start()
        log.info("delivering", destinations=self._served())

    def take_up(self, settings: Settings) -> bool:
        """Take up nothing while it works; see `worker.engines.child.Part`."""
        del settings
        return False

    def stop(self) -> None:
        """End after the deliveries in hand, or hand back what is not done within the set time."""
        threads: list[Courier | Committer] = [*self.couriers, *self.committers]
        for each in threads:
            each.stop()
        self._housekeeper.stop()
        self._anchorer.stop()
        self._ending.set()
        self._bell.ring()
        until = time.monotonic() + self.settings.worker.stop_seconds
        for thread in (*threads, self._listener, self._housekeeper):
            if thread.ident is not None:
                thread.join(max(0.1, until - time.monotonic()))
        self._reporter.stop()  # of what the couriers did last, too
        hand_back(self.ledger, self.queue)
        self._heartbeat.stop()
        self._bell.close()
        log.info("stopped", role=self.role)

    def _serve(self, destination: Destination) -> None:
        name = destination.name
        commits = isinstance(destination, DicomDestination) and destination.commitment is not False
        first: Courier | None = None
        couriers: list[Courier] = []
        try:
            for _ in range(destination.associations if isinstance(destination, DicomDestination) else 1):
                courier = Courier(
                    name,
                    sender_of(destination, self.settings),
                    self._office,
                    timeout=destination.timeout,
                    commit_after=self.settings.outbox.commit_after if commits else None,
                    first=first,
                )
                first = first or courier
                couriers.append(courier)
        except CxrdError as error:
            if self.not_served.get(name) != str(error):
                log.error("destination_not_served", destination=name, reason=str(error))
            self.not_served[name] = str(error)
        else:
            if self.not_served.pop(name, None):
                log.info("destination_served", destination=name)
            for courier in couriers:
                courier.start()
            self.couriers += couriers
            if isinstance(destination, DicomDestination):
                self._ask_to_commit(destination)

    def _ask_to_commit(self, destination: DicomDestination) -> None:
        """Start the committer of a destination; where none is wanted, nothing is asked that was to be asked before."""
        office, name = self._commitment_office, destination.name
        if destination.commitment is False:
            try:
                office.commitments.withdraw(name)
            except CxrdError as error:
                log.warning("commitment_waits", destination=name, reason=str(error))
            return
        required = destination.commitment is True
        committer = Committer(name, node_of(destination, self.settings), office, required=required)
        committer.start()
        self.committers.append(committer)

    def _wake(self) -> None:
        for courier in self.couriers:
            courier.wake()

    def _listen(self) -> None:
        looks = 0
        while not self._ending.is_set():
            if self._bell.wait(POLL):
                self._wake()
            looks += 1
            if looks % _AGAIN == 0:
                for destination in self.settings.destinations:
                    if destination.name in self.not_served:
                        self._serve(destination)

    def stuck(self) -> list[str]:
        """Return which couriers do not go on (`worker.engines.watch.Watched`). One that waits for the ledger does."""
        reasons = [
            f"the housekeeper has not gone on for {each:.0f} s"
            for each in self._housekeeper.pulse.stuck(_SWEEP_SECONDS).values()
        ]
        threads: list[Courier | Committer] = [*self.couriers, *self.committers]
        for each in threads:
            name = "courier" if isinstance(each, Courier) else "committer"
            # One delivery may take as long as the destination may; connecting and breaking off, too.
            limit = self.settings.health.stuck_seconds + 4 * each.timeout + WAIT
            silent = {} if self._outcomes.waits_for else each.pulse.stuck(limit)
            if not each.is_alive():
                reasons.append(f"the {name} of {each.destination} has ended")
            reasons += [f"the {name} of {each.destination} has not gone on for {one:.0f} s" for one in silent.values()]
        return reasons

    def check_store(self) -> None:
        """Raise an error where no result can be read."""
        self._office.blobs.check_there()

    def faults(self) -> list[str]:
        """Return what cannot be delivered now for a reason of ours; a destination that is down is none."""
        not_served = [f"destination {name} is not served: {why}" for name, why in self.not_served.items()]
        return [*filter(None, (self._outcomes.waits_for, self._heartbeat.fault)), *not_served, *self.stuck()]

    def gauges(self) -> Iterator[Metric]:
        """Yield what only this process knows."""
        served = {each.name: each.name not in self.not_served for each in self.settings.destinations}
        pauses = {"ledger": bool(self._outcomes.waits_for)}
        yield metrics.gauge("cxrd_paused", "1 while work waits for something that is out of order", pauses, "what")
        yield metrics.gauge("cxrd_tasks_in_hand", "Tasks in the hands of this process", len(self.queue.in_hand()))
        if self._reporter.is_on:
            words = "Events of the audit that no audit message was sent of yet"
            yield metrics.gauge("cxrd_audit_messages_waiting", words, self._reporter.waiting)
        yield metrics.gauge("cxrd_destination_served", "0 where its settings cannot be followed", served, "destination")

    def _served(self) -> list[str]:
        return list(dict.fromkeys(each.destination for each in self.couriers))

    def _detail(self) -> dict[str, Any]:
        return {
            "destinations": self._served(),
            "not_served": self.not_served,
            "not_committing": {each.destination: each.not_offered for each in self.committers if each.not_offered},
            "pauses": self._outcomes.waits_for,
            "in_hand": len(self.queue.in_hand()),
        }
