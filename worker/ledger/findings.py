"""What the models said of each received object, with the results and deliveries that follow from it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, and_, func, insert, select, update

from worker.ledger.records import Earlier, NewFinding, NewOutside, NewResult
from worker.ledger.tables import DeliveryRow, FindingRow, OutsideRow, ReceiptRow, ResultRow


def facts_of(finding: NewFinding, results: Sequence[NewResult], left_out: Mapping[str, str]) -> dict[str, Any]:
    """Return what the event of an answer tells."""
    facts = asdict(finding) | named(results, left_out)
    del facts["analysed_at"]
    return facts


def named(results: Sequence[NewResult], left_out: Mapping[str, str]) -> dict[str, Any]:
    """Return what an event says of results: their UIDs, and what is not among them and why."""
    uids: dict[str, Any] = {"results": [result.sop_instance_uid for result in results]}
    return uids | ({"left_out": dict(left_out)} if left_out else {})


def enter(
    connection: Connection,
    receipt_id: int,
    finding: NewFinding,
    results: Sequence[NewResult],
    destinations: Iterable[str],
    now: dt.datetime,
    wants: Callable[[str, str], bool],
    *,
    priority: int = 0,
) -> None:
    """Enter a finding, its results and their deliveries, in the caller's transaction.

    The same model has one finding of an object, however often the work is done; other models' findings stay.
    """
    finding_id = _enter_finding(connection, receipt_id, finding)
    enter_results(connection, receipt_id, finding_id, results, destinations, now, wants, priority=priority)


def enter_results(
    connection: Connection,
    receipt_id: int,
    finding_id: int | None,
    results: Sequence[NewResult],
    destinations: Iterable[str],
    now: dt.datetime,
    wants: Callable[[str, str], bool],
    *,
    priority: int = 0,
) -> None:
    """Enter results and their deliveries; without a finding, of an object that was not analysed."""
    names = list(destinations)
    for result in results:
        result_id = _enter_result(connection, receipt_id, finding_id, result, now)
        for name in names:
            if wants(name, result.kind):
                _enter_delivery(connection, result_id, name, now, priority)


def earlier(connection: Connection, receipt_id: int, model_sha256: str, report: str) -> Earlier | None:
    """Return what was said of an object before this model's finding, or before now where it has none yet.

    Parameters
    ----------
    report
        SOP Class UID of the reports that can be a predecessor. The last one that was made is named, if any was.
    """
    own = select(FindingRow.id).where(FindingRow.receipt_id == receipt_id, FindingRow.model_sha256 == model_sha256)
    before = [FindingRow.receipt_id == receipt_id]
    finding_id = connection.scalar(own)
    if finding_id is not None:  # the work is done once more: it must come out the same
        before.append(FindingRow.id < finding_id)
    decision = connection.scalar(select(FindingRow.decision).where(*before).order_by(FindingRow.id.desc()).limit(1))
    query = (
        select(
            ReceiptRow.study_instance_uid.label("StudyInstanceUID"),
            ResultRow.series_instance_uid.label("SeriesInstanceUID"),
            ResultRow.sop_class_uid.label("SOPClassUID"),
            ResultRow.sop_instance_uid.label("SOPInstanceUID"),
        )
        .join(ReceiptRow, ReceiptRow.id == ResultRow.receipt_id)
        .outerjoin(FindingRow, FindingRow.id == ResultRow.finding_id)
        .where(ResultRow.receipt_id == receipt_id, ResultRow.sop_class_uid == report)
        .where(and_(*before) | ResultRow.finding_id.is_(None))
        .order_by(func.coalesce(FindingRow.id, 0).desc())  # one without a finding came before all others
        .limit(1)
    )
    row = connection.execute(query).mappings().first()
    if decision is None and row is None:
        return None
    return Earlier(decision, None if row is None else dict(row))


def enter_outside(connection: Connection, receipt_id: int, outside: NewOutside | None, now: dt.datetime) -> None:
    """Enter what a model's gate saw in an object that it left out, once for each model; None enters nothing."""
    if outside is None:
        return
    own = (OutsideRow.receipt_id == receipt_id, OutsideRow.model_sha256 == outside.model_sha256)
    values = asdict(outside) | {"at": now}
    if not connection.execute(update(OutsideRow).where(*own).values(**values)).rowcount:
        connection.execute(insert(OutsideRow).values(receipt_id=receipt_id, **values))


def _enter_finding(connection: Connection, receipt_id: int, finding: NewFinding) -> int:
    """Insert a finding, or update the row of an earlier attempt at the same work."""
    query = select(FindingRow.id)
    query = query.where(FindingRow.receipt_id == receipt_id, FindingRow.model_sha256 == finding.model_sha256)
    known = connection.scalar(query)
    if known is not None:
        connection.execute(update(FindingRow).where(FindingRow.id == known).values(**asdict(finding)))
        return int(known)
    row = insert(FindingRow).values(receipt_id=receipt_id, **asdict(finding))
    return int(connection.execute(row.returning(FindingRow.id)).scalar_one())


def _enter_result(
    connection: Connection, receipt_id: int, finding_id: int | None, result: NewResult, now: dt.datetime
) -> int:
    """Insert a result, or update the row of an earlier attempt at the same work."""
    known = connection.scalar(select(ResultRow.id).where(ResultRow.sop_instance_uid == result.sop_instance_uid))
    if known is not None:
        values = {"sha256": result.sha256, "size_bytes": result.size_bytes}
        connection.execute(update(ResultRow).where(ResultRow.id == known).values(**values))
        return int(known)
    row = insert(ResultRow).values(receipt_id=receipt_id, finding_id=finding_id, created_at=now, **asdict(result))
    return int(connection.execute(row.returning(ResultRow.id)).scalar_one())


def _enter_delivery(connection: Connection, result_id: int, destination: str, now: dt.datetime, priority: int) -> None:
    query = select(DeliveryRow.id).where(DeliveryRow.result_id == result_id, DeliveryRow.destination == destination)
    if connection.scalar(query) is None:
        connection.execute(
            insert(DeliveryRow).values(
                result_id=result_id,
                destination=destination,
                priority=priority,
                created_at=now,
                first_due_at=now,
                next_attempt_at=now,
            )
        )
