"""What cxrd does with its ledger by itself, and what people ask it, each as one call: `growth.py` times them.

The calls are those of the daemon's own parts, in the order in which an image passes them.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import update

from benchmarks.ledger_rows import DESTINATION, KINDS, MODEL, MODEL_SHA256
from dicom_io.finding import Finding, ModelIdentity
from worker.destination_settings import DicomDestination
from worker.health import status
from worker.health.gauges import InstallationGauges
from worker.ledger import anchor, backlog
from worker.ledger.audit_events import AuditEvents, begin
from worker.ledger.commitments import Commitments
from worker.ledger.deliveries import Deliveries
from worker.ledger.queries import Filter, findings, refusals, story
from worker.ledger.receipts import Ledger, Receipts
from worker.ledger.records import Claim, DueDelivery, NewFinding, NewReceipt, NewResult
from worker.ledger.retention import Retention
from worker.ledger.tables import ProcessRow
from worker.queue.breaker import Breakers
from worker.queue.claim import Queue
from worker.queue.task import Kind, Task
from worker.settings import Settings

STORE = "0" * 32
_REPORT_CLASS = KINDS[1][1]
Act = Callable[[], Any]


def settings() -> Settings:
    """Return settings with the one destination that the rows know."""
    node = DicomDestination(name=DESTINATION, host="127.0.0.1", port=104, ae_title="PACS")
    return Settings(destinations=(node,))


@dataclass
class Work:
    """A process that receives, analyses and delivers, without images and without peers.

    Parameters
    ----------
    ledger
        Its own rows are added to those that are there.
    """

    ledger: Ledger
    _task: Task | None = None
    _claim: Claim | None = None
    _new: NewReceipt | None = None
    _number: int = 0
    _due: list[DueDelivery] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._settings = settings()
        self.queue = Queue(self.ledger, store=STORE)
        self._desk = Receipts(self.ledger, self.queue)
        self._deliveries = Deliveries(self.ledger, self.queue)
        self._commitments = Commitments(self.ledger, self.queue)
        self._retention = Retention(self.ledger, STORE)
        self._events = AuditEvents(self.ledger, self.queue)
        self._breakers = Breakers(self.ledger, first=1.0, most=60.0)
        begin(self.ledger, moment())

    # ---- what runs by itself -----------------------------------------------------------------------------------------

    def life(self) -> dict[str, Act]:
        """Return the steps of one image, to be called in this order."""
        return {
            "receive: look for earlier versions": self._look_for_versions,
            "receive: enter it": self._receive,
            "claim it": self._claim_image,
            "look it up": self._look_up,
            "commit its finding and 3 results": self._commit_finding,
            "claim its deliveries": self._claim_deliveries,
            "enter 3 deliveries as sent": self._mark_sent,
        }

    def alone(self) -> dict[str, Act]:
        """Return what else runs by itself, now and then."""
        return {
            "look for work, none is due": self._look_for_work,
            "heartbeat": self._heartbeat,
            "append an event": lambda: self.ledger.record_event("started", moment(), {"role": "serve"}),
            "look at the chain's head": self._head,
            "audit messages: read 100 events": self._read_events,
            "commitment: ask what is due": lambda: self._commitments.claim(DESTINATION, moment(), 100),
            "commitment: never asked since": lambda: self._commitments.never_asked_since(DESTINATION),
            "commitment: withdraw at the start": lambda: self._commitments.withdraw("another"),
            "a destination is down: give up": self._give_up,
            "retention: received, none is due": lambda: self._due_files("received", days=100_000),
            "retention: 50 oldest received": lambda: self._due_files("received", days=0),
            "retention: 50 oldest results": lambda: self._due_files("results", days=0),
            "retention: mark an image": self._mark_deleted,
            "metrics: the installation's gauges": self._ask_gauges,
            "start: is anything received": self.ledger.is_in_use,
            "end: release the leases": lambda: self.queue.release("nobody", moment()),
            "end: what is not done": self.ledger.unfinished,
        }

    def sweep(self) -> dict[str, Act]:
        """Return what looks at all there is, by its nature: the daily sweep, of which this is a 256th."""
        return {"sweep: the owners in one folder": lambda: self._retention.owners(secrets.token_hex(1))}

    def questions(self) -> dict[str, Act]:
        """Return what people ask."""
        middle = self._newest() // 2
        at, uid = self._time(middle), self._uid_of(middle)
        return {
            "audit list: first page": lambda: findings(self.ledger, Filter(limit=50)),
            "audit list: page in the middle (--below)": lambda: findings(self.ledger, Filter(limit=50, below=middle)),
            "audit list: --until the middle": lambda: findings(self.ledger, Filter(limit=50, until=at)),
            "audit list --status failed": lambda: findings(self.ledger, Filter(limit=50, status="failed")),
            "audit list --answer flagged": lambda: findings(self.ledger, Filter(limit=50, answer="flagged")),
            "audit list --undelivered": lambda: findings(self.ledger, Filter(limit=50, undelivered=True)),
            "audit list --accession": lambda: findings(self.ledger, Filter(accession=f"A{middle:09d}")),
            "audit show NUMBER": lambda: story(self.ledger, str(middle)),
            "audit show UID": lambda: story(self.ledger, uid),
            "audit refusals": lambda: refusals(self.ledger, 50),
            "status": lambda: status.look(self._settings, self.ledger, moment()),
            "check: images and deliveries that wait": self._backlog,
            "check: counts": self.ledger.counts,
        }

    # ---- the steps of one image --------------------------------------------------------------------------------------

    def _look_for_versions(self) -> None:
        self._new = _receipt()
        self.ledger.versions_of(self._new.sop_instance_uid)

    def _receive(self) -> None:
        if self._new is None:
            raise RuntimeError("nothing is to be received")
        self._number = self.ledger.receive(self._new) or 0

    def _claim_image(self) -> None:
        self.queue.has_suspects([Kind.ANALYSE], moment())
        (self._task,) = self.queue.claim([Kind.ANALYSE], moment())

    def _look_up(self) -> None:
        if self._task is None:
            raise RuntimeError("nothing is in hand")
        self._claim = self._desk.load(self._task)
        self.ledger.is_result(self._claim.sop_instance_uid)
        self.ledger.later_answer(self._claim.id)
        self.ledger.previous_finding(self._claim.id, MODEL_SHA256, _REPORT_CLASS)

    def _commit_finding(self) -> None:
        if self._claim is None:
            raise RuntimeError("nothing is looked up")
        at = moment()
        results = [
            NewResult(kind, sop_class, uid(), uid(), secrets.token_hex(32), size, (DESTINATION,), STORE)
            for kind, sop_class, size in KINDS
        ]
        name, version = MODEL.rsplit("-", 1)
        model = ModelIdentity(name, version, MODEL_SHA256)
        finding = Finding(0.25, "NORMAL", 0.5, prediction_set=("NORMAL",), outlier=0.25)
        self._desk.record_finding(self._claim, NewFinding(model, finding, 0.5, 0.25, at), results, at)

    def _claim_deliveries(self) -> None:
        self._breakers.of(DESTINATION)
        self._due = self._deliveries.claim(DESTINATION, moment(), 10)

    def _mark_sent(self) -> None:
        for each in self._due:
            self._deliveries.is_replaced(each)
            self._deliveries.mark_sent(each, 0, moment())

    # ---- the rest ----------------------------------------------------------------------------------------------------

    def _look_for_work(self) -> None:
        self.queue.has_suspects([Kind.ANALYSE], moment())
        self.queue.has_due([Kind.REANALYSE], moment())
        self.queue.claim([Kind.EXPIRE], moment(), target=STORE, among="any")
        self._breakers.of(DESTINATION)
        self._deliveries.claim(DESTINATION, moment(), 10)

    def _heartbeat(self) -> None:
        self.queue.renew(moment())
        with self.ledger.writing() as connection:
            connection.execute(update(ProcessRow).where(ProcessRow.owner == "nobody").values(seen_at=moment()))

    def _ask_gauges(self) -> None:
        InstallationGauges(self._settings, self.ledger)._ask()  # noqa: SLF001 - `collect` asks now and then

    def _head(self) -> None:
        with self.ledger.reading() as connection:
            anchor.head(connection)

    def _read_events(self) -> None:
        self._events.waiting()
        self._events.after(Task(0, Kind.REPORT, self._newest(), "", 2, 1, 0, "", moment(), moment()))

    def _give_up(self) -> None:
        self._deliveries.has_due(DESTINATION, moment())
        self._deliveries.give_up(DESTINATION, moment() - dt.timedelta(days=100_000), "too late", moment())

    def _due_files(self, files: Any, *, days: int) -> list[int]:
        return self._retention.due(files, moment() - dt.timedelta(days=days), 50)

    def _mark_deleted(self) -> None:
        oldest = self._due_files("received", days=0)
        self._retention.mark(oldest[:1], ("received", "results"), moment(), "age")

    def _backlog(self) -> None:
        backlog.images(self.ledger)
        backlog.deliveries(self.ledger)

    def _newest(self) -> int:
        (row,) = findings(self.ledger, Filter(limit=1))
        return int(row["receipt_id"])

    def _time(self, number: int) -> dt.datetime:
        record = story(self.ledger, str(number))
        if record is None:
            raise RuntimeError(f"no receipt {number}")
        return dt.datetime.fromisoformat(record["finding"]["received_at"]).replace(tzinfo=dt.UTC)

    def _uid_of(self, number: int) -> str:
        record = story(self.ledger, str(number))
        if record is None:
            raise RuntimeError(f"no receipt {number}")
        return str(record["finding"]["sop_instance_uid"])


def _receipt() -> NewReceipt:
    return NewReceipt(
        sop_instance_uid=uid(),
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
        study_instance_uid=uid(),
        series_instance_uid=uid(),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        modality="DX",
        accession_number=f"A{secrets.token_hex(4)}",
        patient_key=secrets.token_hex(32),
        calling_ae="MODALITY",
        called_ae="CXRD",
        peer_address="10.0.0.17",
        sha256=secrets.token_hex(32),
        size_bytes=10_240_000,
        received_at=moment(),
        store=STORE,
        content_sha256=secrets.token_hex(32),
    )


def uid() -> str:
    """Return a new UID."""
    return f"2.25.{secrets.randbelow(10**37)}"


def moment() -> dt.datetime:
    """Return the time, aware."""
    return dt.datetime.now(dt.UTC)
