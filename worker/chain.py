"""The chain that holds the audit's events together: each carries the hash of the one before it."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, insert, select, text

from worker.tables import EventRow, ReceiptRow

GENESIS = "0" * 64
"""What stands before the first event."""


def digest(previous: str, receipt_id: int | None, at: dt.datetime, kind: str, detail: str) -> str:
    """Return the SHA-256 that seals an event to the one before it, as 64 hexadecimal digits."""
    sealed = json.dumps([previous, receipt_id, at.astimezone(dt.UTC).isoformat(), kind, detail])
    return hashlib.sha256(sealed.encode()).hexdigest()


def append(connection: Connection, kind: str, at: dt.datetime, receipt_id: int | None = None, **detail: Any) -> None:
    """Add an event to the end of the chain, in the caller's transaction.

    Parameters
    ----------
    connection
        A connection in a writing transaction.
    kind
        What happened, for instance ``"received"``.
    at
        Aware time.
    detail
        Facts, without patient data; written as JSON with sorted keys.
    """
    if connection.dialect.name == "postgresql":  # SQLite has one writer at a time anyhow
        connection.execute(text("SELECT pg_advisory_xact_lock(7163547264)"))
    last = connection.execute(select(EventRow.digest).order_by(EventRow.id.desc()).limit(1)).scalar()
    previous = last or GENESIS
    body = json.dumps(detail, sort_keys=True, default=str)
    connection.execute(
        insert(EventRow).values(
            receipt_id=receipt_id,
            at=at,
            kind=kind,
            detail=body,
            previous=previous,
            digest=digest(previous, receipt_id, at, kind, body),
        )
    )


def verify(connection: Connection) -> tuple[int, list[str]]:
    """Read the whole chain, and hold the findings to what the events say of them.

    Returns
    -------
    tuple
        How many events were read, and a line for each thing that does not fit.
    """
    problems: list[str] = []
    previous, count = GENESIS, 0
    found: dict[int, dict[str, Any]] = {}
    rows = connection.execute(select(EventRow.__table__).order_by(EventRow.id)).mappings()
    for row in rows:
        count += 1
        sealed = digest(row["previous"], row["receipt_id"], row["at"], row["kind"], row["detail"])
        if row["previous"] != previous:
            problems.append(f"event {row['id']}: an event before it was removed or altered")
        if row["digest"] != sealed:
            problems.append(f"event {row['id']}: altered")
        previous = row["digest"]
        if row["kind"] in ("analysed", "not_analysed", "failed") and row["receipt_id"] is not None:
            found[row["receipt_id"]] = {"state": row["kind"], **json.loads(row["detail"])}
    problems.extend(_differing(connection, found))
    return count, problems


def _differing(connection: Connection, found: dict[int, dict[str, Any]]) -> Iterable[str]:
    """Compare each receipt with its last decisive event; a finding without one was put there by hand."""
    keys = (
        "state",
        "probability",
        "decision",
        "threshold",
        "model_sha256",
        "operating_point",
        "prediction_set",
        "outlier",
    )
    columns = [ReceiptRow.id, *(getattr(ReceiptRow, key) for key in keys)]
    for row in connection.execute(select(*columns).order_by(ReceiptRow.id)).mappings():
        said = found.pop(row["id"], None)
        if said is None:
            if row["probability"] is not None:
                yield f"receipt {row['id']}: a finding that no event tells of"
        elif row["state"] in ("analysed", "not_analysed", "failed"):
            for key in keys:
                if row[key] != said.get(key):
                    yield f"receipt {row['id']}: {key} differs from what its event says"
    for receipt_id in found:
        yield f"receipt {receipt_id}: removed"
