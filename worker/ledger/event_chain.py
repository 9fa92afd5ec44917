"""The chain that holds the audit's events together: each carries the hash of the one before it."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterable
from functools import partial
from typing import Any

from sqlalchemy import Connection, insert, select, text

from dicom_io.finding import Finding
from worker.database.transactions import at_end
from worker.ledger.tables import EventRow, FindingRow, OutsideRow, ReceiptRow

GENESIS = "0" * 64
"""What stands before the first event."""
_DECISIVE = ("analysed", "not_analysed", "failed")
_LUNG_COLUMNS = ("lungs_share", "lungs_count", "lungs_cut")
_FINDING_COLUMNS = (
    "probability",
    "answer",
    "threshold",
    "model_sha256",
    "operating_point",
    "prediction_set",
    "outlier",
    "caution",
    "regions",
    "score",
    *_LUNG_COLUMNS,
)
_OUTSIDE_COLUMNS = ("outlier", "input_mean", "input_std", *_LUNG_COLUMNS)


def digest(previous: str, receipt_id: int | None, at: dt.datetime, kind: str, detail: str) -> str:
    """Return the SHA-256 that seals an event to the one before it, as 64 hexadecimal digits."""
    content = json.dumps([previous, receipt_id, at.astimezone(dt.UTC).isoformat(), kind, detail])
    return hashlib.sha256(content.encode()).hexdigest()


def append(connection: Connection, kind: str, at: dt.datetime, receipt_id: int | None = None, **detail: Any) -> None:
    """Add an event to the end of the chain, as the last step of the caller's transaction.

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
    body = json.dumps(detail, sort_keys=True, default=str)
    at_end(connection, partial(_seal, kind=kind, at=at, receipt_id=receipt_id, body=body))


def _seal(connection: Connection, *, kind: str, at: dt.datetime, receipt_id: int | None, body: str) -> None:
    if connection.dialect.name == "postgresql":  # SQLite has one writer at a time anyhow
        connection.execute(text("SELECT pg_advisory_xact_lock(7163547264)"))
    last = connection.execute(select(EventRow.digest).order_by(EventRow.id.desc()).limit(1)).scalar()
    previous = last or GENESIS
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
    """Read the whole chain, and compare the findings with what the events say of them.

    Returns
    -------
    tuple
        How many events were read, and a line for each thing that does not fit.
    """
    problems: list[str] = []
    previous, count = GENESIS, 0
    states: dict[int, str] = {}
    answers: dict[tuple[int, str], dict[str, Any]] = {}
    outside: dict[tuple[int, str], dict[str, Any]] = {}
    rows = connection.execute(select(EventRow.__table__).order_by(EventRow.id)).mappings()
    for row in rows:
        count += 1
        expected = digest(row["previous"], row["receipt_id"], row["at"], row["kind"], row["detail"])
        if row["previous"] != previous:
            problems.append(f"event {row['id']}: an event before it was removed or altered")
        if row["digest"] != expected:
            problems.append(f"event {row['id']}: altered")
        previous = row["digest"]
        if row["kind"] in _DECISIVE and row["receipt_id"] is not None:
            states[row["receipt_id"]] = row["kind"]
        if row["kind"] in ("analysed", "reanalysed") and row["receipt_id"] is not None:
            facts = json.loads(row["detail"])
            answers[row["receipt_id"], facts["model_sha256"]] = _completed(facts)
            states[row["receipt_id"]] = "analysed"  # which one that had been left out becomes by a second reading
        if row["kind"] in ("not_analysed", "reanalysis_left_out") and row["receipt_id"] is not None:
            facts = json.loads(row["detail"])
            if "outlier" in facts:  # the model looked at it; what the rules leave out has no score, not even none
                outside[row["receipt_id"], facts["model_sha256"]] = facts
    problems.extend(_state_problems(connection, states))
    problems.extend(_row_problems(connection, FindingRow, _FINDING_COLUMNS, answers, "finding"))
    problems.extend(_row_problems(connection, OutsideRow, _OUTSIDE_COLUMNS, outside, "record of an image outside"))
    return count, problems


def _completed(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a finding with what an event of before revision 0006 did not name: answer and regions."""
    if "answer" in facts:
        return facts
    classes, box = facts.get("prediction_set"), facts.get("region")
    finding = Finding(
        facts["probability"],
        facts["decision"],
        facts["threshold"],
        prediction_set=None if classes is None else tuple(classes.split()),
        outlier=facts.get("outlier"),
    )
    regions = json.dumps([{"place": "", "box": [int(each) for each in box.split(",")]}]) if box else None
    return facts | {"answer": finding.answer.value, "regions": regions}


def _state_problems(connection: Connection, states: dict[int, str]) -> Iterable[str]:
    """Compare each receipt with its last decisive event."""
    for row in connection.execute(select(ReceiptRow.id, ReceiptRow.state).order_by(ReceiptRow.id)):
        state = states.pop(row.id, None)
        if state != row.state and row.state in _DECISIVE:
            yield f"receipt {row.id}: state differs from what its event says"
    for receipt_id in states:
        yield f"receipt {receipt_id}: removed"


def _row_problems(
    connection: Connection,
    table: type[FindingRow | OutsideRow],
    names: Iterable[str],
    events: dict[tuple[int, str], dict[str, Any]],
    name: str,
) -> Iterable[str]:
    """Compare each row with the last event of its image and model; one without was put there by hand."""
    columns = [table.receipt_id, table.model_sha256, *(getattr(table, key) for key in names if key != "model_sha256")]
    for row in connection.execute(select(*columns).order_by(table.id)).mappings():
        facts = events.pop((row["receipt_id"], row["model_sha256"]), None)
        if facts is None:
            yield f"receipt {row['receipt_id']}: {name} without an event"
        else:
            for key in names:
                if row[key] != facts.get(key):
                    yield f"receipt {row['receipt_id']}: {key} differs from what its event says"
    for receipt_id, model_sha256 in events:
        yield f"receipt {receipt_id}: the {name} of model {model_sha256[:12]} was removed, or given to another model"
