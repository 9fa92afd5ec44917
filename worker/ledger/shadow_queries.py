"""Questions to the audit about the shadow model."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import Select, case, func, select

from worker.ledger.receipts import Ledger
from worker.ledger.tables import FindingRow, ReceiptRow, ShadowRow

# A shadow that was promoted later may have answered the image once more: it is not held to itself.
_BESIDE = (ShadowRow.receipt_id == FindingRow.receipt_id) & (ShadowRow.model_sha256 != FindingRow.model_sha256)


def differences(ledger: Ledger, since: dt.datetime | None) -> list[dict[str, Any]]:
    """Return the images that the shadow model answered otherwise than a model that served, the newest first."""
    query = _since(
        select(
            ReceiptRow.id.label("receipt_id"),
            ReceiptRow.sop_instance_uid,
            FindingRow.model,
            FindingRow.probability,
            FindingRow.answer,
            ShadowRow.model.label("shadow"),
            ShadowRow.probability.label("shadow_probability"),
            ShadowRow.answer.label("shadow_answer"),
        )
        .join(FindingRow, FindingRow.receipt_id == ReceiptRow.id)
        .join(ShadowRow, _BESIDE)
        .where(ShadowRow.answer != FindingRow.answer)
        .order_by(ReceiptRow.id.desc()),
        since,
    )
    with ledger.reading() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def summary(ledger: Ledger, since: dt.datetime | None) -> list[dict[str, Any]]:
    """Return one row for each pair of models: images, how many were answered alike, and how far apart they are."""
    gap = ShadowRow.probability - FindingRow.probability
    query = _since(
        select(
            FindingRow.model,
            ShadowRow.model.label("shadow"),
            func.count().label("n"),
            func.sum(case((ShadowRow.answer == FindingRow.answer, 1), else_=0)).label("agree"),
            func.avg(gap).label("mean_difference"),
            func.max(func.abs(gap)).label("largest_difference"),
        )
        .join(ReceiptRow, FindingRow.receipt_id == ReceiptRow.id)
        .join(ShadowRow, _BESIDE)
        .group_by(FindingRow.model, ShadowRow.model),
        since,
    )
    with ledger.reading() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def _since(query: Select[*tuple[Any, ...]], since: dt.datetime | None) -> Select[*tuple[Any, ...]]:
    return query if since is None else query.where(ReceiptRow.received_at >= since)
