"""Questions to the audit database: the rows of its views, filtered, as a table, CSV or JSON."""

from __future__ import annotations

import csv
import datetime as dt
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from textwrap import indent
from typing import IO, Any

from sqlalchemy import RowMapping, text

from dicom_io.errors import InvalidSettings, OutOfResources
from worker.ledger.receipts import Ledger
from worker.ledger.records import OUTSIDE
from worker.printable import cell


@dataclass(frozen=True)
class Filter:
    """Which findings are asked for; what is None does not restrict.

    Attributes
    ----------
    history
        The answers of all models, instead of each image with the one that stands.
    below
        Only receipts, or with `history` only answers, whose number is lower: the page after the one that ends there.
    """

    since: dt.datetime | None = None
    until: dt.datetime | None = None
    status: str | None = None
    answer: str | None = None
    at_least: float | None = None
    study: str | None = None
    accession: str | None = None
    calling_ae: str | None = None
    undelivered: bool = False
    history: bool = False
    below: int | None = None
    limit: int | None = None


_CONDITIONS = {
    "since": "received_at >= :since",
    "until": "received_at < :until",
    "status": "status = :status",
    "answer": "answer = :answer",
    "at_least": "probability >= :at_least",
    "study": "study_instance_uid = :study",
    "accession": "accession_number = :accession",
    "calling_ae": "calling_ae = :calling_ae",
}
_PAGE = 1000
"""Rows that are in memory together where there may be millions."""
# What was withdrawn is not delivered, and never will be.
_UNDELIVERED = """delivered < deliveries AND receipt_id IN
    (SELECT d.receipt_id FROM deliveries d WHERE d.state IN ('pending', 'failed'))"""


def findings(ledger: Ledger, criteria: Filter) -> list[dict[str, Any]]:
    """Return the rows of the view ``findings`` (or ``answers``) that fit, newest first."""
    values = {name: getattr(criteria, name) for name in _CONDITIONS if getattr(criteria, name) is not None}
    where = [_CONDITIONS[name] for name in values] + [_UNDELIVERED] * criteria.undelivered
    view, order = ("answers", "finding_id") if criteria.history else ("findings", "receipt_id")
    if criteria.below is not None:
        where.append(f"{order} < :below")
        values["below"] = criteria.below
    # Only the fixed texts above enter the query; what a person asked for goes in as parameters.
    clause = f"WHERE {' AND '.join(where)}" if where else ""
    query = f"SELECT * FROM {view} {clause} ORDER BY {order} DESC"  # noqa: S608 - see above
    if criteria.limit is not None:
        query += " LIMIT :limit"
        values["limit"] = criteria.limit
    for name in ("since", "until"):
        if name in values:
            values[name] = values[name].astimezone(dt.UTC).replace(tzinfo=None).isoformat(sep=" ")
    with ledger.reading() as connection:
        return [_plain(row) for row in connection.execute(text(query), values).mappings()]


def pages(ledger: Ledger, criteria: Filter) -> Iterator[list[dict[str, Any]]]:
    """Yield all rows that fit, some at a time, each page in a transaction of its own; no `limit` holds."""
    number = "finding_id" if criteria.history else "receipt_id"
    while rows := findings(ledger, replace(criteria, limit=_PAGE)):
        yield rows
        criteria = replace(criteria, below=rows[-1][number])


def story(ledger: Ledger, key: str) -> dict[str, Any] | None:
    """Return all rows about one received object: the finding that stands, all answers, deliveries and events.

    Parameters
    ----------
    key
        A receipt's number, or a SOP Instance UID, received (of several versions the newest) or produced.
    """
    number = _receipt_number(key)
    by_number = (
        "receipt_id = :key"
        if number is not None
        else "sop_instance_uid = :key"
        " OR receipt_id = (SELECT x.receipt_id FROM result x WHERE x.sop_instance_uid = :key)"
    )
    value: int | str = key if number is None else number
    with ledger.reading() as connection:
        row = (
            connection.execute(
                text(f"SELECT * FROM findings WHERE {by_number} ORDER BY receipt_id DESC"),  # noqa: S608 - one of two texts of ours
                {"key": value},
            )
            .mappings()
            .first()
        )
        if row is None:
            return None
        receipt = {"id": row["receipt_id"]}
        queries = {
            "versions": "SELECT v.version, v.id AS receipt_id, v.received_at, v.state, v.sha256, v.content_sha256,"
            " v.deleted_at, v.restored_at FROM receipt v JOIN receipt r ON r.sop_instance_uid = v.sop_instance_uid"
            " WHERE r.id = :id ORDER BY v.version",
            "answers": "SELECT * FROM finding WHERE receipt_id = :id ORDER BY id",
            "outside": "SELECT * FROM outside WHERE receipt_id = :id ORDER BY id",
            "reanalysis": "SELECT * FROM reanalysis WHERE receipt_id = :id",
            "results": "SELECT kind, sop_instance_uid, sha256, finding_id, deleted_at FROM result"
            " WHERE receipt_id = :id ORDER BY id",
            "deliveries": "SELECT * FROM deliveries WHERE receipt_id = :id ORDER BY delivery_id",
            "events": "SELECT at, kind, detail FROM event WHERE receipt_id = :id ORDER BY id",
        }
        deleted = connection.execute(text("SELECT deleted_at FROM receipt WHERE id = :id"), receipt).mappings().one()
        rest = {
            name: [_plain(each) for each in connection.execute(text(query), receipt).mappings()]
            for name, query in queries.items()
        }
    return {"finding": _plain(row) | _plain(deleted), **rest, "reanalysis": next(iter(rest["reanalysis"]), None)}


def _receipt_number(key: str) -> int | None:
    """Return a receipt's number; None where a text is none, or one that no database counts to."""
    return int(key) if re.fullmatch("[0-9]{1,18}", key) else None


def refusals(ledger: Ledger, limit: int) -> list[dict[str, Any]]:
    """Return what was refused as not understandable, newest first: when, by which status, and why."""
    query = text("SELECT * FROM refusals ORDER BY event_id DESC LIMIT :limit")
    with ledger.reading() as connection:
        rows = [_plain(row) for row in connection.execute(query, {"limit": limit}).mappings()]
    return [{"event_id": row["event_id"], "at": row["at"]} | json.loads(row["detail"]) for row in rows]


def deliveries_to(ledger: Ledger, destination: str) -> int:
    """Return how many deliveries to a destination the audit knows, whatever became of them."""
    query = text("SELECT count(*) FROM delivery WHERE destination = :name")
    with ledger.reading() as connection:
        return int(connection.scalar(query, {"name": destination}) or 0)


def write(rows: Iterable[dict[str, Any]], style: str, target: IO[str]) -> int:
    """Write rows as ``csv`` (with a header, its texts as `worker.printable.cell` has them) or ``json`` (a list).

    Return how many there were.
    """
    count = 0
    if style == "json":
        for count, row in enumerate(rows, start=1):
            target.write(f"{',' if count > 1 else '['}\n{indent(json.dumps(row, indent=2), '  ')}")
        target.write("\n]\n" if count else "[]\n")
        return count
    for count, row in enumerate(rows, start=1):
        if count == 1:
            writer = csv.DictWriter(target, fieldnames=list(row))
            writer.writeheader()
        writer.writerow({name: cell(value) for name, value in row.items()})
    return count


def export(ledger: Ledger, criteria: Filter, path: Path) -> int:
    """Write findings with all columns to a file whose name ends in .csv or .json; return how many.

    Raises
    ------
    InvalidSettings
        The name ends otherwise.
    OutOfResources
        The file cannot be written.
    """
    if path.suffix not in (".csv", ".json"):
        raise InvalidSettings(f"{path}: name a file that ends in .csv or .json")
    rows = chain.from_iterable(pages(ledger, criteria))
    try:
        with path.open("w", newline="", encoding="utf-8") as target:
            return write(rows, path.suffix[1:], target)
    except OSError as error:
        raise OutOfResources(f"{path}: {error.strerror}") from error


_OF_ANSWERS = ("probability", "threshold", "operating_point", "prediction_set")
"""The columns that say how an answer came about."""


def moment(when: str) -> dt.datetime:
    """Read a time: an ISO date or time (local where it names no zone), or a span back from now (7d, 12h, 30m).

    Raises
    ------
    InvalidSettings
        When it is neither.
    """
    span = re.fullmatch(r"([0-9]+)([dhm])", when.strip())
    try:
        if span:
            unit = {"d": "days", "h": "hours", "m": "minutes"}[span[2]]
            return dt.datetime.now(dt.UTC) - dt.timedelta(**{unit: int(span[1])})
        return dt.datetime.fromisoformat(when.strip()).astimezone(dt.UTC)
    except (ValueError, OverflowError) as error:  # no time, or one before the year 1
        raise InvalidSettings(f"{when}: not a time; say 7d, 12h, 2026-01-31 or 2026-01-31T08:00") from error


def _plain(row: RowMapping) -> dict[str, Any]:
    """Return a row whose times are ISO text in UTC, whichever database it comes from.

    What is outside has no probability: a number would be taken for an answer. The ledger's tables keep it, and rows
    that are shown keep `score`.
    """
    plain: dict[str, Any] = {}
    values = dict(row)
    if values.get("answer") == OUTSIDE:
        values |= {name: None for name in _OF_ANSWERS if name in values}
    for name, value in values.items():
        if isinstance(value, dt.datetime):
            plain[name] = value.isoformat(sep=" ", timespec="microseconds")
        elif name == "status" and isinstance(value, int):
            plain[name] = f"0x{value:04X}"
        else:
            plain[name] = value
    return plain
