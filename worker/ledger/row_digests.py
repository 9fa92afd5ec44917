"""What the rows about a received object amount to: a digest for each table, which the audit's events carry.

All that cxrd has written about an object is covered: its receipt, findings, results, deliveries, what destinations have
committed to, readers' verdicts, further readings. Whoever writes such a row enters an event of the same object in the
same transaction (`worker.ledger.event_chain.append`), or leaves it as it was.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection

from worker.database.columns import Table
from worker.ledger.tables import (
    CommitmentRow,
    DeliveryRow,
    DeliveryState,
    FeedbackRow,
    FindingRow,
    OutsideRow,
    ReanalysisRow,
    ReceiptRow,
    ResultRow,
    ShadowRow,
)


@dataclass(frozen=True)
class _Source:
    """Where the rows of a table that are about a received object come from; `receipt` is the column of its number."""

    table: type[Table]
    receipt: str = "t.receipt_id"
    joined: str = ""
    order: str = "t.id"


_OF_RESULT = "JOIN result x ON x.id = d.result_id"
_SOURCES = (
    _Source(ReceiptRow, "t.id"),
    _Source(FindingRow),
    _Source(OutsideRow),
    _Source(ResultRow),
    _Source(DeliveryRow, "x.receipt_id", _OF_RESULT.replace("d.", "t.")),
    # What a destination has not answered is a question of ours, and goes when nobody waits for its answer any more.
    _Source(
        CommitmentRow,
        "x.receipt_id",
        f"JOIN delivery d ON d.id = t.delivery_id AND t.answered_at IS NOT NULL {_OF_RESULT}",
    ),
    _Source(ReanalysisRow, order="t.receipt_id"),
    _Source(ShadowRow),
    _Source(FeedbackRow),
)


@cache
def _columns(table: type[Table]) -> tuple[str, ...]:
    return tuple(column.name for column in table.__table__.columns)


@cache
def _query(source: _Source, count: int, mark: str) -> str:
    columns = ", ".join(f"t.{name}" for name in _columns(source.table))
    places = ", ".join([mark] * count)
    # Names of ours; the numbers go in as parameters.
    return (
        f"SELECT {source.receipt}, {columns} FROM {source.table.__tablename__} t {source.joined}"  # noqa: S608 - see above
        f" WHERE {source.receipt} IN ({places}) ORDER BY {source.receipt}, {source.order}"
    )


def of_receipts(
    connection: Connection, receipt_ids: Sequence[int], tables: Collection[str] | None = None
) -> dict[int, str]:
    """Return for each of these receipts `table:digest`, with a space between, for each table that has rows about it.

    Parameters
    ----------
    tables
        Only these; all where not given.

    Returns
    -------
    dict
        A receipt without any row is not in it. The digests are SHA-256 in base64url (RFC 4648, 5), without padding.
    """
    mark = "%s" if connection.dialect.paramstyle in ("format", "pyformat") else "?"
    texts: dict[int, list[str]] = {}
    for source in _SOURCES:
        if tables is not None and source.table.__tablename__ not in tables:
            continue
        rows: dict[int, list[dict[str, Any]]] = {}
        names = _columns(source.table)
        query = _query(source, len(receipt_ids), mark)
        for number, *values in connection.exec_driver_sql(query, tuple(receipt_ids)):
            rows.setdefault(number, []).append(_plain(dict(zip(names, values, strict=True))))
        for number, each in rows.items():
            texts.setdefault(number, []).append(f"{source.table.__tablename__}:{_digest(each)}")
    return {number: " ".join(each) for number, each in texts.items()}


def replaced(before: str, tables: Collection[str], now: str) -> str:
    """Return such a text with what it says of these tables replaced by another one's."""
    parts = {name: value for name, value in _parts(before).items() if name not in tables} | _parts(now)
    names = [source.table.__tablename__ for source in _SOURCES]
    return " ".join(f"{name}:{parts[name]}" for name in names if name in parts)


def differences(stated: str, actual: str) -> list[str]:
    """Return the names of the tables of which two such texts say different things."""
    before, after = _parts(stated), _parts(actual)
    return sorted(name for name in before | after if before.get(name) != after.get(name))


def _parts(words: str) -> dict[str, str]:
    return {name: value for name, _, value in (each.partition(":") for each in words.split())}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as it is sealed: without what is NULL, so that a later revision can add columns."""
    if row.get("state") == DeliveryState.PENDING and "error" in row:
        row = row | {"error": None}  # of an attempt that leaves no event
    return {name: _value(value) for name, value in row.items() if value is not None}


def _value(value: Any) -> Any:
    """Return a value as both databases hold it; SQLite holds times as such texts."""
    return value.isoformat(sep=" ", timespec="microseconds") if isinstance(value, dt.datetime) else value


def _digest(rows: list[dict[str, Any]]) -> str:
    # SQLite takes bytes for a text, where somebody else writes them; no value of ours looks like their stand-in.
    content = json.dumps(rows, sort_keys=True, separators=(",", ":"), default=lambda value: {"bytes": repr(value)})
    return base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).decode().rstrip("=")
