"""Images that wait for a second reading by a newer model: which ones, and what became of each."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, exists, func, insert, select, update

from dicom_io.errors import InvalidSettings
from worker.ledger import event_chain, findings, versions
from worker.ledger.receipts import Ledger, in_batches
from worker.ledger.records import Claim, NewFinding, NewNotification, NewResult
from worker.ledger.tables import FindingRow, ReanalysisRow, ReanalysisState, ReceiptRow, State, is_latest_finding
from worker.queue.claim import Queue, put, withdraw
from worker.queue.task import Kind, Priority, Task


@dataclass(frozen=True)
class Criteria:
    """Which images; what is None or empty does not restrict.

    Attributes
    ----------
    model
        The beginning of the name of the model whose answer stands.
    reason
        The beginning of the reason why an image was not analysed: only such ones.
    also
        Besides the analysed images, those that were not analysed for a reason that begins so.
    """

    since: dt.datetime | None = None
    until: dt.datetime | None = None
    accession: str | None = None
    receipt_ids: Sequence[int] = ()
    model: str | None = None
    reason: str | None = None
    also: str | None = None


@dataclass(frozen=True)
class Selection:
    """The images that meet the criteria: those to be read, newest first, and how many others there are.

    Attributes
    ----------
    answered
        The model has answered them. For `superseded` of these another model's later answer stands.
    waiting
        They wait for a second reading already, or one is under way.
    left_out
        The model has left them out before.
    deleted
        Their files were deleted.
    """

    receipt_ids: tuple[int, ...]
    answered: int
    waiting: int
    left_out: int
    superseded: int = 0
    deleted: int = 0


class Reanalyses:
    """Reading and settling of reanalyses; each method is one transaction, unless it says otherwise.

    A row's key is its receipt's. The receipt itself stays as it is all the while, and the earlier finding stands until
    the newer one is entered; an image that was not analysed becomes an analysed one then. For
    `worker.engines.pipeline.Pipeline` it does what `worker.ledger.receipts.Receipts` does for new images.
    """

    def __init__(self, ledger: Ledger, queue: Queue | None = None) -> None:
        self._ledger = ledger
        self._queue = queue or Queue(ledger)

    # ---- requests ------------------------------------------------------------------------------------------------

    def choose(self, criteria: Criteria, model_sha256: str) -> Selection:
        """Return which images are to be read by a model: of the analysed ones, unless others are criteria.

        What it has answered is not, nor what waits for it, nor what it has left out before, unless it is named by its
        receipt.

        Raises
        ------
        InvalidSettings
            No image has an answer of a model of that name.
        """
        with self._ledger.reading() as connection:
            query = (
                select(
                    ReceiptRow.id,
                    exists().where(FindingRow.receipt_id == ReceiptRow.id, FindingRow.model_sha256 == model_sha256),
                    exists().where(is_latest_finding(), FindingRow.model_sha256 == model_sha256),
                    ReanalysisRow.state,
                    ReanalysisRow.model_sha256,
                    ReceiptRow.deleted_at,
                )
                .outerjoin(ReanalysisRow, ReanalysisRow.receipt_id == ReceiptRow.id)
                .order_by(ReceiptRow.id.desc())
            )
            for condition in _conditions(connection, criteria):
                query = query.where(condition)
            rows = connection.execute(query).all()
        selected: list[int] = []
        answered = waiting = left_out = superseded = deleted = 0
        for receipt_id, has_answer, stands, state, requested, deleted_at in rows:
            if has_answer:
                answered += 1
                superseded += not stands
            elif state == ReanalysisState.WAITING and requested == model_sha256:
                waiting += 1
            elif state == ReanalysisState.LEFT_OUT and requested == model_sha256 and not criteria.receipt_ids:
                left_out += 1
            elif deleted_at is not None:
                deleted += 1
            else:
                selected.append(receipt_id)
        return Selection(tuple(selected), answered, waiting, left_out, superseded, deleted)

    def request(self, receipt_ids: Sequence[int], model: str, model_sha256: str, by: str, now: dt.datetime) -> int:
        """Enter that images are to be read by a model; return how many were entered.

        It takes several transactions with a pause between two: new images arrive meanwhile. After an interruption the
        requests that were entered stay.
        """
        values = {
            "model": model,
            "model_sha256": model_sha256,
            "requested_by": by[:64],
            "requested_at": now,
            "state": ReanalysisState.WAITING,
            "reason": "",
            "started_at": None,
            "finished_at": None,
        }
        count = 0
        for some in in_batches(receipt_ids):
            with self._ledger.writing() as connection:
                for receipt_id in some:
                    if _record_request(connection, receipt_id, values):
                        store = connection.scalar(select(ReceiptRow.store).where(ReceiptRow.id == receipt_id)) or ""
                        again = partial(put, target=model_sha256, priority=Priority.AGAIN, store=store)
                        again(connection, Kind.REANALYSE, receipt_id, now)
                        facts = {"model": model, "model_sha256": model_sha256, "by": by}
                        event_chain.append(connection, "reanalysis_requested", now, receipt_id, **facts)
                        count += 1
        return count

    def cancel(self, by: str, now: dt.datetime) -> int:
        """Take back all requests that still wait; return how many. Work in hand is finished."""
        count = 0
        with self._ledger.reading() as connection:
            waiting = select(ReanalysisRow.receipt_id).where(ReanalysisRow.state == ReanalysisState.WAITING)
            numbers = list(connection.scalars(waiting.order_by(ReanalysisRow.receipt_id)))
        values = {"state": ReanalysisState.WITHDRAWN, "reason": f"withdrawn by {by}", "finished_at": now}
        for some in in_batches(numbers):
            with self._ledger.writing() as connection:
                for receipt_id in some:
                    if withdraw(connection, Kind.REANALYSE, receipt_id, now):
                        row = update(ReanalysisRow).where(ReanalysisRow.receipt_id == receipt_id)
                        connection.execute(row.values(**values))
                        event_chain.append(connection, "reanalysis_withdrawn", now, receipt_id, by=by)
                        count += 1
        return count

    def counts(self) -> list[tuple[str, str, int]]:
        """Return model, state and number of the requests."""
        key = (ReanalysisRow.model, ReanalysisRow.state)
        with self._ledger.reading() as connection:
            query = select(*key, func.count()).group_by(*key).order_by(*key)
            return [(str(model), str(state), int(count)) for model, state, count in connection.execute(query)]

    # ---- work ----------------------------------------------------------------------------------------------------

    def load(self, task: Task) -> Claim:
        """Return what a worker needs to know of the image of a task."""
        image = select(ReceiptRow.sop_instance_uid, ReceiptRow.calling_ae, ReceiptRow.sha256, ReceiptRow.deleted_at)
        request = select(ReanalysisRow.requested_at, ReanalysisRow.model_sha256)
        with self._ledger.reading() as connection:
            at, model_sha256 = connection.execute(request.where(ReanalysisRow.receipt_id == task.subject)).one()
            uid, calling_ae, sha256, gone = connection.execute(image.where(ReceiptRow.id == task.subject)).one()
            version = versions.version_of(connection, task.subject)
        return Claim(task, uid, calling_ae, sha256, at, model_sha256, gone, version)

    def postpone(self, claim: Claim, reason: str, now: dt.datetime, until: dt.datetime) -> None:
        """Put an image back, to be tried again at `until`."""
        with self._ledger.writing() as connection:
            self._queue.postpone(connection, claim.task, until, reason)
            event_chain.append(connection, "reanalysis_postponed", now, claim.id, reason=reason)
        self._queue.forget(claim.task)

    def hand_back(self, claim: Claim, reason: str) -> None:
        """Put an image back as it was; see `Receipts.hand_back`."""
        with self._ledger.writing() as connection:
            self._queue.hand_back(connection, claim.task, reason)
        self._queue.forget(claim.task)

    def leave_out(
        self,
        claim: Claim,
        reason: str,
        now: dt.datetime,
        *,
        results: Sequence[NewResult] = (),
        left_out: Mapping[str, str] | None = None,
        outside: NewFinding | None = None,
        remarks: Sequence[str] = (),
    ) -> None:
        """Enter that the rules or the newer model leave the image out: without a report, the first answer stands."""
        del results, left_out
        facts = findings.outside_facts(outside) | findings.remark_facts(remarks)
        with self._ledger.writing() as connection:
            self._settle(connection, claim, ReanalysisState.LEFT_OUT, reason, now)
            event_chain.append(connection, "reanalysis_left_out", now, claim.id, reason=reason, **facts)
            findings.record_outside(connection, claim.id, outside, now)
        self._queue.forget(claim.task)

    def fail(
        self,
        claim: Claim,
        reason: str,
        now: dt.datetime,
        *,
        results: Sequence[NewResult] = (),
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        """Enter that the image could not be read again."""
        del results, left_out
        with self._ledger.writing() as connection:
            self._settle(connection, claim, ReanalysisState.FAILED, reason, now)
            event_chain.append(connection, "reanalysis_failed", now, claim.id, reason=reason)
        self._queue.forget(claim.task)

    def record_finding(
        self,
        claim: Claim,
        finding: NewFinding,
        results: Sequence[NewResult],
        now: dt.datetime,
        *,
        notifications: Sequence[NewNotification] = (),
        left_out: Mapping[str, str] | None = None,
        remarks: Sequence[str] = (),
    ) -> None:
        """Enter the newer finding beside the earlier ones; see `Receipts.record_finding`."""
        facts = findings.finding_facts(finding) | findings.result_facts(results, left_out or {}, notifications)
        facts |= findings.remark_facts(remarks)
        with self._ledger.writing() as connection:
            self._settle(connection, claim, ReanalysisState.DONE, "", now)
            before = (ReceiptRow.id == claim.id, ReceiptRow.state == State.NOT_ANALYSED)
            analysed = {"state": State.ANALYSED, "reason": "", "finished_at": now}
            connection.execute(update(ReceiptRow).where(*before).values(**analysed))
            event_chain.append(connection, "reanalysed", now, claim.id, **facts)
            findings.record_finding(
                connection, claim.id, finding, results, now, notifications=notifications, priority=Priority.AGAIN
            )
        self._queue.forget(claim.task)

    def _settle(
        self, connection: Connection, claim: Claim, state: ReanalysisState, reason: str, now: dt.datetime
    ) -> None:
        self._queue.finish(connection, claim.task)
        values = {"state": state, "reason": reason, "started_at": claim.task.claimed_at, "finished_at": now}
        row = update(ReanalysisRow).where(ReanalysisRow.receipt_id == claim.id)
        connection.execute(row.values(**values))


def _conditions(connection: Connection, criteria: Criteria) -> list[Any]:
    conditions: list[Any] = [_state(criteria)]
    if criteria.since is not None:
        conditions.append(ReceiptRow.received_at >= criteria.since)
    if criteria.until is not None:
        conditions.append(ReceiptRow.received_at < criteria.until)
    if criteria.accession is not None:
        conditions.append(ReceiptRow.accession_number == criteria.accession)
    # Of several versions the one that counts, unless another one is named.
    named = criteria.receipt_ids
    conditions.append(ReceiptRow.id.in_(named) if named else versions.counts())
    if criteria.model is not None:
        digests = _models(connection, criteria.model)
        conditions.append(exists().where(is_latest_finding(), FindingRow.model_sha256.in_(digests)))
    return conditions


def _state(criteria: Criteria) -> ColumnElement[bool]:
    analysed = ReceiptRow.state == State.ANALYSED
    beginning = criteria.reason or criteria.also
    if beginning is None:
        return analysed
    others = (ReceiptRow.state == State.NOT_ANALYSED) & ReceiptRow.reason.istartswith(beginning, autoescape=True)
    return others if criteria.reason else analysed | others


def _models(connection: Connection, name: str) -> list[str]:
    """Return the digests of the models that have answered and whose name by content begins so."""
    models = connection.execute(select(FindingRow.model, FindingRow.model_sha256).distinct()).all()
    names = {f"{model}-{sha256[:12]}": sha256 for model, sha256 in models}
    digests = [sha256 for full, sha256 in names.items() if full.startswith(name)]
    if not digests:
        raise InvalidSettings(f"--model {name}: no such model has answered; there are: {', '.join(sorted(names))}")
    return digests


def _record_request(connection: Connection, receipt_id: int, values: dict[str, Any]) -> bool:
    """Insert a request, or replace one that is settled or names another model; return whether it was entered."""
    key = ReanalysisRow.receipt_id == receipt_id
    current = connection.execute(select(ReanalysisRow.state, ReanalysisRow.model_sha256).where(key)).one_or_none()
    if current is None:
        connection.execute(insert(ReanalysisRow).values(receipt_id=receipt_id, **values))
        return True
    waits, same = current.state == ReanalysisState.WAITING, current.model_sha256 == values["model_sha256"]
    # What is in hand is left alone.
    if waits and (same or not withdraw(connection, Kind.REANALYSE, receipt_id, values["requested_at"])):
        return False
    connection.execute(update(ReanalysisRow).where(key).values(**values))
    return True
