"""The workers: threads that take images by priority and answer them; and one that reads images again in between."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import structlog
from prometheus_client.core import Metric

from dicom_io.errors import CxrdError, OutOfResources, Retryable
from worker import metrics
from worker.clock import now
from worker.engines.clock_watch import ClockWatch
from worker.engines.gate import Gate
from worker.engines.heartbeat import Heartbeat
from worker.engines.outcome import Outcomes, hand_back
from worker.engines.pipeline import Pipeline, SystemicFault
from worker.health.drift import DriftGauges
from worker.inference.analyzer import Reader
from worker.inference.serving import Serving
from worker.inference.shadow import Shadow, open_shadow
from worker.ledger.database import open_ledger
from worker.ledger.reanalyses import Reanalyses
from worker.ledger.receipts import Receipts
from worker.ledger.stores import open_blobs
from worker.logs import unexpected
from worker.memory import give_back_all
from worker.pulse import Pulse
from worker.queue.breaker import Pause
from worker.queue.claim import Among, LeaseLost, Queue
from worker.queue.task import Kind, Task
from worker.queue.wake import Bell, ring
from worker.settings import Settings

log = structlog.get_logger("cxrd.worker")

POLL = 1.0
"""Seconds between two looks at the queue when nobody rings."""


class Workers:
    """The analysing process.

    A model that does not load is tried again and again, and said loudly; images wait meanwhile.

    Parameters
    ----------
    owner
        The process's name in the ledger; one of its own by default.

    Raises
    ------
    InvalidSettings, OutOfResources
        When it cannot be started; the message says in one line what to change.
    """

    role = "work"

    def __init__(self, settings: Settings, owner: str = "") -> None:
        self.settings = settings
        folder = settings.storage.folder
        self.ledger = open_ledger(settings)
        self.queue = Queue(self.ledger, owner, settings.worker.lease_seconds)
        self.serving: Serving | None = None
        self.shadow = self._open_shadow()
        self._ending = threading.Event()
        self._outcomes = Outcomes(self._ending)
        self._pause = Pause()
        self._opening = threading.Lock()
        self._gate = Gate()
        self._pulse = Pulse()
        self._drift = DriftGauges(self.ledger)
        self._blobs = open_blobs(settings, self.ledger)
        self._pipeline = Pipeline(
            settings,
            self.ledger,
            self._blobs,
            {Kind.ANALYSE: Receipts(self.ledger, self.queue), Kind.REANALYSE: Reanalyses(self.ledger, self.queue)},
            self._outcomes.enter,
            self._lease,
            lambda: ring(folder, "deliver"),
            shadow=self.shadow,
        )
        watch = ClockWatch(self.queue, settings.outbox)
        self._heartbeat = Heartbeat(self.ledger, self.role, self.queue.owner, self.queue, self._detail, watch)
        self._bell = Bell(folder, self.role)
        self._news = threading.Condition()
        self._rings = 0
        self._suspects_seen_at = 0.0
        self._suspects_lock = threading.Lock()
        self._holds_memory = False
        count = settings.worker.threads or os.cpu_count() or 1
        self._threads = [threading.Thread(target=self._run, name=f"worker-{n}", daemon=True) for n in range(count)]
        self._threads.append(threading.Thread(target=self._read_again, name="second-readings", daemon=True))
        self._listener = threading.Thread(target=self._listen, name="bell", daemon=True)

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        return self.serving is not None

    def start(self) -> None:
        """Load the model, or go on trying, and start the threads."""
        self._heartbeat.start()
        self._open_model()
        for thread in (*self._threads, self._listener):
            thread.start()

    def take_up(self, settings: Settings) -> bool:
        """Take up nothing while it works; see `worker.engines.child.Part`."""
        del settings
        return False

    def stop(self) -> None:
        """End after the images in hand, or hand back what is not done within the set time."""
        self._ending.set()
        self._bell.ring()
        self._wake()
        until = time.monotonic() + self.settings.worker.stop_seconds
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.1, until - time.monotonic()))
        if self._listener.ident is not None:
            self._listener.join()
        hand_back(self.ledger, self.queue)
        self._heartbeat.stop()
        self._bell.close()
        if self.serving and not any(thread.is_alive() for thread in self._threads):
            self.serving.close()
        if self.shadow:
            self.shadow.close(max(1.0, until - time.monotonic()))
        log.info("stopped", role=self.role)

    def _open_shadow(self) -> Shadow | None:
        """Return the candidate that answers too; one that does not load must not keep the model from answering."""
        try:
            return open_shadow(self.settings, self.ledger)
        except CxrdError as error:
            log.error("shadow_not_loaded", reason=str(error))
            return None

    # ---- the model ---------------------------------------------------------------------------------------------------

    def _open_model(self) -> bool:
        """Load the model that serves; return whether it is there. One thread does, and the others wait for it."""
        with self._opening:
            return self.serving is not None or (not self._pause.left() and self._load_model())

    def _load_model(self) -> bool:
        try:
            self.serving = Serving(self.settings, lambda kind, facts: self.ledger.record_event(kind, now(), facts))
        except CxrdError as error:
            if self._pause.trip(str(error)):
                log.error("model_not_loaded", reason=str(error))
            return False
        self._pause.clear()
        reader = self.serving.reader
        log.info(
            "ready",
            model=reader.card.label,
            engine=reader.engine.name,
            shadow=self.shadow.card.label if self.shadow else None,
        )
        self._heartbeat.tell()
        return True

    @contextmanager
    def _lease(self) -> Iterator[Reader]:
        if self.serving is None:
            raise SystemicFault("no model is loaded")
        with self.serving.lease() as reader:
            yield reader

    # ---- threads -----------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        while not self._ending.is_set():
            if self._bell.wait(POLL):
                self._wake()
            elif self._holds_memory and not self.queue.in_hand():
                self._holds_memory = False
                give_back_all()

    def _wake(self) -> None:
        with self._news:
            self._rings += 1
            self._news.notify_all()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._pulse.beat()
            with self._news:
                before = self._rings
            if not self._careful(self._round):
                with self._news:
                    self._news.wait_for(lambda rings=before: self._rings != rings, POLL)  # type: ignore[misc]

    def _careful(self, act: Any) -> bool:
        """Do something that may find the database, the disk or the model out of order; then all pause for a while."""
        left = self._pause.left()
        if left:
            self._ending.wait(min(left, POLL))
            return False
        reason = ""
        try:
            self._blobs.check_there()
            self.queue.store = self._blobs.store
            if not self._open_model():
                return False
            busy = bool(act())
        except LeaseLost:
            return True
        except (SystemicFault, Retryable) as error:
            reason, busy = str(error), False
        except Exception as error:  # noqa: BLE001 - the border of a thread that must not end
            reason, busy = unexpected(error), False
        if reason:
            if self._pause.trip(reason):
                log.error("work_pauses", reason=reason)
        elif busy and self._pause.clear():
            log.info("work_goes_on")
        return busy

    def _round(self) -> bool:
        """Answer one image; tell whether there was one."""
        if self._has_suspects():
            with self._gate.alone():
                tasks = self.queue.claim([Kind.ANALYSE], now(), among="suspect")
                self._process_all(tasks)
                if tasks:
                    return True
        with self._gate.together():
            tasks = self.queue.claim([Kind.ANALYSE], now())
            self._process_all(tasks)
        return bool(tasks)

    def _process_all(self, tasks: list[Task]) -> None:
        for task in tasks:
            self._holds_memory = True
            try:
                self._pipeline.process(task)
            except OutOfResources as error:  # nothing was looked up yet
                self._outcomes.enter(partial(self._hand_back, task, str(error)))
                raise
            finally:
                self.queue.forget(task)

    def _hand_back(self, task: Task, reason: str) -> None:
        with self.ledger.writing() as connection:
            self.queue.hand_back(connection, task, reason)

    def _has_suspects(self) -> bool:
        """Return whether an image waits that was in hand when a process died; one thread looks, once a second."""
        if not self._suspects_lock.acquire(blocking=False):
            return False
        try:
            if time.monotonic() - self._suspects_seen_at < POLL:
                return False
            waits = self.queue.has_suspects([Kind.ANALYSE], now())
            if not waits:
                self._suspects_seen_at = time.monotonic()
            return waits
        finally:
            self._suspects_lock.release()

    def _read_again(self) -> None:
        """Read images again for a newer model, one at a time, the newest first, while no new image waits."""
        while not self._ending.is_set():
            self._pulse.beat()
            busy = self._careful(self._round_again)
            self._ending.wait(self.settings.worker.reanalysis_pause if busy else POLL)

    def _round_again(self) -> bool:
        moment = now()
        if not self.queue.has_due([Kind.REANALYSE], moment) or self.queue.has_due([Kind.ANALYSE], moment):
            return False
        with self._lease() as reader:  # this also takes up a model that was promoted
            model = reader.identity.digest
        suspect = self.queue.has_suspects([Kind.REANALYSE], moment, target=model)
        with self._gate.alone() if suspect else self._gate.together():
            among: Among = "suspect" if suspect else "fresh"
            tasks = self.queue.claim([Kind.REANALYSE], moment, target=model, among=among, newest_first=True)
            self._process_all(tasks)
        return bool(tasks)

    def stuck(self) -> list[str]:
        """Return which threads do not go on; see `worker.engines.watch.Watched`. One that waits for the ledger does."""
        limit = self.settings.health.stuck_seconds + self.settings.worker.reanalysis_pause
        stuck = {} if self._outcomes.waits_for else self._pulse.stuck(limit)
        ended = [each.name for each in (*self._threads, self._listener) if not each.is_alive()]
        return [f"thread {name} has ended" for name in ended] + [
            f"thread {name} has not gone on for {seconds:.0f} s" for name, seconds in stuck.items() if name not in ended
        ]

    def check_store(self) -> None:
        """Raise an error where no result can be stored."""
        self._blobs.check_space()

    def faults(self) -> list[str]:
        """Return why images are not answered now."""
        faults = [] if self.ready else ["no model is loaded"]
        faults += [f"work pauses: {self._pause.reason}"] * bool(self._pause.reason)
        return [*faults, *filter(None, (self._outcomes.waits_for, self._heartbeat.fault)), *self.stuck()]

    def gauges(self) -> Iterator[Metric]:
        """Yield what only this process knows."""
        reader = self.serving.reader if self.serving else None
        pauses = {"work": bool(self._pause.reason), "ledger": bool(self._outcomes.waits_for)}
        yield metrics.gauge("cxrd_paused", "1 while work waits for something that is out of order", pauses, "what")
        yield metrics.gauge("cxrd_tasks_in_hand", "Tasks in the hands of this process", len(self.queue.in_hand()))
        yield metrics.gauge("cxrd_model_loaded", "1 while a model is loaded", self.ready)
        if reader:
            identity = reader.identity
            yield metrics.info(
                "cxrd_model_info",
                "The model that answers",
                {"model": reader.card.label, "sha256": identity.digest, "engine": reader.engine.name},
            )
            yield from self._drift.collect(reader.card)

    def _detail(self) -> dict[str, Any]:
        reader = self.serving.reader if self.serving else None
        return {
            "model": reader.card.label if reader else None,
            "engine": reader.engine.name if reader else None,
            "pauses": self._pause.reason or self._outcomes.waits_for,
            "in_hand": len(self.queue.in_hand()),
        }
