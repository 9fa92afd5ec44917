"""The models' findings in each received object, with the results and deliveries that follow from them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_, func, insert, select, update

from dicom_io.finding import Answer, Finding, Lungs, ModelIdentity, Region
from worker.ledger import event_chain
from worker.ledger.records import NewFinding, NewNotification, NewResult, PreviousFinding
from worker.ledger.tables import DeliveryRow, FindingRow, OutsideRow, ReceiptRow, ResultRow, ShadowRow
from worker.queue.claim import put
from worker.queue.task import Kind, Priority


def finding_values(model: ModelIdentity, finding: Finding) -> dict[str, Any]:
    """Return a model's answer as the tables ``finding`` and ``shadow``, and the events, hold it."""
    return {
        "model": model.label,
        "model_sha256": model.digest,
        "probability": finding.probability,
        "answer": finding.answer.value,
        "threshold": finding.threshold,
        "operating_point": finding.operating_point,
        "prediction_set": None if finding.prediction_set is None else " ".join(finding.prediction_set),
        "outlier": finding.outlier,
        "agent": finding.agent,
        "agent_probability": finding.agent_probability,
        "caution": finding.caution or None,
        "regions": regions_text(finding.regions),
        "score": finding.score,
        **_lung_values(finding.lungs),
    }


def regions_text(regions: Sequence[Region]) -> str | None:
    """Return regions as the ledger holds them: a JSON list, the strongest first; None where there are none.

    Each has its `place` in words, and its `box`: left, top, right, bottom in the pixels of the source image.
    """
    return json.dumps([{"place": each.place, "box": list(each.box)} for each in regions]) if regions else None


def _lung_values(lungs: Lungs | None) -> dict[str, float | int | None]:
    if lungs is None:
        return {"lungs_share": None, "lungs_count": None, "lungs_cut": None}
    return {"lungs_share": lungs.share, "lungs_count": lungs.count, "lungs_cut": int(lungs.cut)}


def finding_facts(new: NewFinding) -> dict[str, Any]:
    """Return what the event of an answer tells about the finding."""
    return finding_values(new.model, new.finding) | _input_values(new)


def result_facts(
    results: Sequence[NewResult], left_out: Mapping[str, str], notifications: Sequence[NewNotification] = ()
) -> dict[str, Any]:
    """Return what an event tells about results and notifications: UIDs, and which kinds were left out and why."""
    every: list[NewResult | NewNotification] = [*results, *notifications]
    uids: dict[str, Any] = {"results": [new.uid for new in every]}
    return uids | ({"left_out": dict(left_out)} if left_out else {})


def remark_facts(remarks: Sequence[str]) -> dict[str, Any]:
    """Return what an event tells about a header that was read otherwise than it says."""
    return {"remarks": list(remarks)} if remarks else {}


def outside_facts(new: NewFinding | None) -> dict[str, Any]:
    """Return what an event tells about an image that the model was not made for: no probability."""
    if new is None:
        return {}
    seen_by = {"model": new.model.label, "model_sha256": new.model.digest, "outlier": new.finding.outlier}
    return seen_by | _lung_values(new.finding.lungs) | _input_values(new)


def record_finding(
    connection: Connection,
    receipt_id: int,
    finding: NewFinding,
    results: Sequence[NewResult],
    now: dt.datetime,
    *,
    notifications: Sequence[NewNotification] = (),
    priority: int = Priority.MEDIUM,
) -> None:
    """Enter a finding, its results and notifications, and their deliveries, in the caller's transaction.

    The same model has one finding of an object, however often the work is done; other models' findings stay.
    """
    finding_id = _enter_finding(connection, receipt_id, finding)
    record_results(connection, receipt_id, finding_id, [*results, *notifications], now, priority=priority)


def record_results(
    connection: Connection,
    receipt_id: int,
    finding_id: int | None,
    results: Sequence[NewResult | NewNotification],
    now: dt.datetime,
    *,
    priority: int = Priority.MEDIUM,
) -> None:
    """Enter results and their deliveries; `finding_id` is None for an object that was not analysed."""
    for result in results:
        result_id = _record_result(connection, receipt_id, finding_id, result, now)
        for destination in result.destinations:
            _record_delivery(connection, result_id, destination, now, priority, result.store)


def record_outside(connection: Connection, receipt_id: int, new: NewFinding | None, now: dt.datetime) -> None:
    """Enter what a model saw in an image that it was not made for, once for each model; None enters nothing."""
    if new is None:
        return
    own = (OutsideRow.receipt_id == receipt_id, OutsideRow.model_sha256 == new.model.digest)
    values = outside_facts(new) | {"at": now}
    if not connection.execute(update(OutsideRow).where(*own).values(**values)).rowcount:
        connection.execute(insert(OutsideRow).values(receipt_id=receipt_id, **values))


def record_shadow(
    connection: Connection, receipt_id: int, model: ModelIdentity, finding: Finding, now: dt.datetime
) -> None:
    """Enter a candidate model's answer and its event, once for each object and model."""
    row = select(ShadowRow.id).where(ShadowRow.receipt_id == receipt_id, ShadowRow.model_sha256 == model.digest)
    if connection.scalar(row) is not None:
        return
    columns = set(ShadowRow.__table__.columns.keys())
    values = {name: value for name, value in finding_values(model, finding).items() if name in columns}
    connection.execute(insert(ShadowRow).values(receipt_id=receipt_id, at=now, **values))
    event_chain.append(connection, "shadow", now, receipt_id, **values)


def previous_finding(
    connection: Connection, receipt_id: int, model_sha256: str, report_class: str
) -> PreviousFinding | None:
    """Return what an object was answered before this model's finding, or until now where it has none yet.

    Parameters
    ----------
    report_class
        SOP Class UID of the reports that can be a predecessor. The last one that was made is named, if any was.
    """
    own = select(FindingRow.id).where(FindingRow.receipt_id == receipt_id, FindingRow.model_sha256 == model_sha256)
    before = [FindingRow.receipt_id == receipt_id]
    finding_id = connection.scalar(own)
    if finding_id is not None:  # the work is done once more: it must come out the same
        before.append(FindingRow.id < finding_id)
    answer = connection.scalar(select(FindingRow.answer).where(*before).order_by(FindingRow.id.desc()).limit(1))
    query = (
        select(
            ReceiptRow.study_instance_uid.label("StudyInstanceUID"),
            ResultRow.series_instance_uid.label("SeriesInstanceUID"),
            ResultRow.sop_class_uid.label("SOPClassUID"),
            ResultRow.sop_instance_uid.label("SOPInstanceUID"),
        )
        .join(ReceiptRow, ReceiptRow.id == ResultRow.receipt_id)
        .outerjoin(FindingRow, FindingRow.id == ResultRow.finding_id)
        .where(ResultRow.receipt_id == receipt_id, ResultRow.sop_class_uid == report_class)
        .where(and_(*before) | ResultRow.finding_id.is_(None))
        .order_by(func.coalesce(FindingRow.id, 0).desc())  # one without a finding came before all others
        .limit(1)
    )
    row = connection.execute(query).mappings().first()
    if answer is None and row is None:
        return None
    return PreviousFinding(None if answer is None else Answer(answer), None if row is None else dict(row))


def _input_values(new: NewFinding) -> dict[str, float]:
    return {"input_mean": new.input_mean, "input_std": new.input_std}


def _enter_finding(connection: Connection, receipt_id: int, new: NewFinding) -> int:
    """Insert a finding, or update the row of an earlier attempt at the same work."""
    values = finding_facts(new) | {"analysed_at": new.analysed_at}
    query = select(FindingRow.id)
    query = query.where(FindingRow.receipt_id == receipt_id, FindingRow.model_sha256 == new.model.digest)
    finding_id = connection.scalar(query)
    if finding_id is not None:
        connection.execute(update(FindingRow).where(FindingRow.id == finding_id).values(**values))
        return int(finding_id)
    row = insert(FindingRow).values(receipt_id=receipt_id, **values)
    return int(connection.execute(row.returning(FindingRow.id)).scalar_one())


def _record_result(
    connection: Connection, receipt_id: int, finding_id: int | None, new: NewResult | NewNotification, now: dt.datetime
) -> int:
    """Insert a result or a notification, or update the row of an earlier attempt at the same work.

    The table holds both, since both are delivered; a notification has neither SOP class nor series.
    """
    result_id = connection.scalar(select(ResultRow.id).where(ResultRow.sop_instance_uid == new.uid))
    if result_id is not None:
        stored = {"sha256": new.sha256, "size_bytes": new.size_bytes, "store": new.store}
        connection.execute(update(ResultRow).where(ResultRow.id == result_id).values(**stored))
        return int(result_id)
    row = insert(ResultRow).values(
        receipt_id=receipt_id,
        finding_id=finding_id,
        kind=new.kind,
        sop_class_uid=new.sop_class_uid,
        sop_instance_uid=new.uid,
        series_instance_uid=new.series_instance_uid,
        sha256=new.sha256,
        size_bytes=new.size_bytes,
        store=new.store,
        created_at=now,
    )
    return int(connection.execute(row.returning(ResultRow.id)).scalar_one())


def _record_delivery(
    connection: Connection, result_id: int, destination: str, now: dt.datetime, priority: int, store: str
) -> None:
    query = select(DeliveryRow.id).where(DeliveryRow.result_id == result_id, DeliveryRow.destination == destination)
    if connection.scalar(query) is None:
        row = insert(DeliveryRow).values(result_id=result_id, destination=destination, created_at=now)
        delivery_id = int(connection.execute(row.returning(DeliveryRow.id)).scalar_one())
        put(connection, Kind.DELIVER, delivery_id, now, target=destination, priority=priority, store=store)
