"""Images that wait for a second reading by a newer model: which ones, and what became of each."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, exists, func, insert, select, update

from dicom_io.errors import InvalidSettings
from worker.ledger import event_chain, findings
from worker.ledger.receipts import BATCH_SIZE, PAUSE, Ledger, in_batches
from worker.ledger.records import Claim, NewFinding, NewNotification, NewResult
from worker.ledger.tables import FindingRow, ReanalysisRow, ReanalysisState, ReceiptRow, State, is_latest_finding

PRIORITY = 1
"""Of the deliveries: what answers a new image goes first."""


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
    """

    receipt_ids: tuple[int, ...]
    answered: int
    waiting: int
    left_out: int
    superseded: int = 0


class Reanalyses:
    """Reading and settling of reanalyses; each method is one transaction, unless it says otherwise.

    A row's key is its receipt's. The receipt itself stays as it is all the while, and the earlier finding stands until
    the newer one is entered; an image that was not analysed becomes an analysed one then. For
    `worker.engines.pipeline.Pipeline` it does what the ledger does for new images.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

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
                )
                .outerjoin(ReanalysisRow, ReanalysisRow.receipt_id == ReceiptRow.id)
                .order_by(ReceiptRow.id.desc())
            )
            for condition in _conditions(connection, criteria):
                query = query.where(condition)
            rows = connection.execute(query).all()
        selected: list[int] = []
        answered = waiting = left_out = superseded = 0
        for receipt_id, has_answer, stands, state, requested in rows:
            if has_answer:
                answered += 1
                superseded += not stands
            elif state == ReanalysisState.WORKING or (state == ReanalysisState.WAITING and requested == model_sha256):
                waiting += 1
            elif state == ReanalysisState.LEFT_OUT and requested == model_sha256 and not criteria.receipt_ids:
                left_out += 1
            else:
                selected.append(receipt_id)
        return Selection(tuple(selected), answered, waiting, left_out, superseded)

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
            "next_attempt_at": now,
            "state": ReanalysisState.WAITING,
            "reason": "",
            "attempts": 0,
            "crashes": 0,
            "started_at": None,
            "finished_at": None,
        }
        count = 0
        for some in in_batches(receipt_ids):
            with self._ledger.writing() as connection:
                for receipt_id in some:
                    if _record_request(connection, receipt_id, values):
                        facts = {"model": model, "model_sha256": model_sha256, "by": by}
                        event_chain.append(connection, "reanalysis_requested", now, receipt_id, **facts)
                        count += 1
        return count

    def cancel(self, by: str, now: dt.datetime) -> int:
        """Take back all requests that still wait; return how many. Work in hand is finished."""
        count = 0
        waiting = select(ReanalysisRow.receipt_id).where(ReanalysisRow.state == ReanalysisState.WAITING)
        while True:
            with self._ledger.writing() as connection:
                some = list(connection.scalars(waiting.limit(BATCH_SIZE)))
                for receipt_id in some:
                    _settle(connection, receipt_id, ReanalysisState.WITHDRAWN, f"withdrawn by {by}", now)
                    event_chain.append(connection, "reanalysis_withdrawn", now, receipt_id, by=by)
            count += len(some)
            if len(some) < BATCH_SIZE:
                return count
            time.sleep(PAUSE)

    def counts(self) -> list[tuple[str, str, int]]:
        """Return model, state and number of the requests."""
        key = (ReanalysisRow.model, ReanalysisRow.state)
        with self._ledger.reading() as connection:
            query = select(*key, func.count()).group_by(*key).order_by(*key)
            return [(str(model), str(state), int(count)) for model, state, count in connection.execute(query)]

    # ---- work ----------------------------------------------------------------------------------------------------

    def recover(self, now: dt.datetime, max_crashes: int) -> int:
        """Take back what a dead process had in hand; return how many. See `worker.ledger.receipts.Ledger.recover`."""
        count = 0
        with self._ledger.writing() as connection:
            working = select(ReanalysisRow.receipt_id, ReanalysisRow.crashes)
            for receipt_id, before in connection.execute(
                working.where(ReanalysisRow.state == ReanalysisState.WORKING)
            ).all():
                crashes = before + 1
                row = update(ReanalysisRow).where(ReanalysisRow.receipt_id == receipt_id)
                if crashes >= max_crashes:
                    why = f"the worker died {max_crashes} times while it had this image in hand"
                    connection.execute(row.values(crashes=crashes))
                    _settle(connection, receipt_id, ReanalysisState.FAILED, why, now)
                    event_chain.append(connection, "reanalysis_failed", now, receipt_id, reason=why)
                    continue
                until = now + dt.timedelta(seconds=5 * before)
                values = {"state": ReanalysisState.WAITING, "crashes": crashes, "next_attempt_at": until}
                connection.execute(row.values(**values))
                event_chain.append(connection, "reanalysis_taken_back", now, receipt_id, crashes=crashes)
                count += 1
        return count

    def has_waiting(self, now: dt.datetime) -> bool:
        """Return whether anything waits and is due, for whichever model."""
        with self._ledger.reading() as connection:
            query = select(ReanalysisRow.receipt_id).where(*_due(now)).limit(1)
            return connection.execute(query).first() is not None

    def next_receipt(self, model_sha256: str, now: dt.datetime) -> int | None:
        """Return the newest image that waits for this model, or None."""
        with self._ledger.reading() as connection:
            query = select(ReanalysisRow.receipt_id).where(*_due(now), ReanalysisRow.model_sha256 == model_sha256)
            return connection.scalar(query.order_by(ReanalysisRow.receipt_id.desc()).limit(1))

    def claim(self, receipt_id: int, now: dt.datetime) -> Claim | None:
        """Take an image in hand; None where another worker has it, or it is settled or not yet due."""
        row = update(ReanalysisRow).where(ReanalysisRow.receipt_id == receipt_id, *_due(now))
        row = row.values(state=ReanalysisState.WORKING, started_at=now, attempts=ReanalysisRow.attempts + 1)
        request = (ReanalysisRow.requested_at, ReanalysisRow.attempts, ReanalysisRow.model_sha256)
        image = select(ReceiptRow.id, ReceiptRow.sop_instance_uid, ReceiptRow.calling_ae, ReceiptRow.sha256)
        with self._ledger.writing() as connection:
            requested = connection.execute(row.returning(*request)).one_or_none()
            if requested is None:
                return None
            return Claim(*connection.execute(image.where(ReceiptRow.id == receipt_id)).one(), *requested)

    def postpone(self, receipt_id: int, reason: str, now: dt.datetime, until: dt.datetime) -> None:
        """Put an image back, to be tried again at `until`."""
        with self._ledger.writing() as connection:
            values = {"state": ReanalysisState.WAITING, "reason": reason, "next_attempt_at": until}
            connection.execute(_in_hand(receipt_id).values(**values))
            event_chain.append(connection, "reanalysis_postponed", now, receipt_id, reason=reason)

    def put_back(self, receipt_id: int, now: dt.datetime) -> None:
        """Give back an image whose outcome could not be entered; one that is not in hand is left as it is."""
        with self._ledger.writing() as connection:
            values = {"state": ReanalysisState.WAITING, "next_attempt_at": now}
            if connection.execute(_in_hand(receipt_id).values(**values)).rowcount:
                event_chain.append(connection, "reanalysis_put_back", now, receipt_id)

    def leave_out(self, receipt_id: int, reason: str, now: dt.datetime, *, outside: NewFinding | None = None) -> None:
        """Enter that the rules or the newer model leave the image out; see `Ledger.leave_out`."""
        facts = findings.outside_facts(outside)
        with self._ledger.writing() as connection:
            _settle(connection, receipt_id, ReanalysisState.LEFT_OUT, reason, now)
            event_chain.append(connection, "reanalysis_left_out", now, receipt_id, reason=reason, **facts)
            findings.record_outside(connection, receipt_id, outside, now)

    def fail(self, receipt_id: int, reason: str, now: dt.datetime) -> None:
        """Enter that the image could not be read again."""
        with self._ledger.writing() as connection:
            _settle(connection, receipt_id, ReanalysisState.FAILED, reason, now)
            event_chain.append(connection, "reanalysis_failed", now, receipt_id, reason=reason)

    def record_finding(
        self,
        receipt_id: int,
        finding: NewFinding,
        results: Sequence[NewResult],
        now: dt.datetime,
        *,
        notifications: Sequence[NewNotification] = (),
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        """Enter the newer finding beside the earlier ones; see `Ledger.record_finding`."""
        facts = findings.finding_facts(finding) | findings.result_facts(results, left_out or {}, notifications)
        with self._ledger.writing() as connection:
            _settle(connection, receipt_id, ReanalysisState.DONE, "", now)
            before = (ReceiptRow.id == receipt_id, ReceiptRow.state == State.NOT_ANALYSED)
            analysed = {"state": State.ANALYSED, "reason": "", "finished_at": now}
            connection.execute(update(ReceiptRow).where(*before).values(**analysed))
            event_chain.append(connection, "reanalysed", now, receipt_id, **facts)
            findings.record_finding(
                connection, receipt_id, finding, results, now, notifications=notifications, priority=PRIORITY
            )


def _conditions(connection: Connection, criteria: Criteria) -> list[Any]:
    conditions: list[Any] = [_state(criteria)]
    if criteria.since is not None:
        conditions.append(ReceiptRow.received_at >= criteria.since)
    if criteria.until is not None:
        conditions.append(ReceiptRow.received_at < criteria.until)
    if criteria.accession is not None:
        conditions.append(ReceiptRow.accession_number == criteria.accession)
    if criteria.receipt_ids:
        conditions.append(ReceiptRow.id.in_(criteria.receipt_ids))
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
    same = current.state == ReanalysisState.WAITING and current.model_sha256 == values["model_sha256"]
    if same or current.state == ReanalysisState.WORKING:
        return False
    connection.execute(update(ReanalysisRow).where(key).values(**values))
    return True


def _due(now: dt.datetime) -> tuple[Any, ...]:
    return (ReanalysisRow.state == ReanalysisState.WAITING, ReanalysisRow.next_attempt_at <= now)


def _in_hand(receipt_id: int) -> Any:
    working = ReanalysisRow.state == ReanalysisState.WORKING
    return update(ReanalysisRow).where(ReanalysisRow.receipt_id == receipt_id, working)


def _settle(connection: Connection, receipt_id: int, state: ReanalysisState, reason: str, now: dt.datetime) -> None:
    row = update(ReanalysisRow).where(ReanalysisRow.receipt_id == receipt_id)
    connection.execute(row.values(state=state, reason=reason, finished_at=now))
