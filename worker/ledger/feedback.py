"""Readers' verdicts on received images: entered one by one or from a file, and used for retraining."""

from __future__ import annotations

import csv
import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, exists, func, insert, or_, select

from dicom_io.errors import InvalidData
from dicom_io.finding import Answer
from modeltrain.model.outputs import AGENTS, CLASSES
from worker.ledger import event_chain, versions
from worker.ledger.receipts import Ledger
from worker.ledger.tables import (
    FeedbackRow,
    FindingRow,
    OutsideRow,
    ReceiptRow,
    State,
    is_latest_finding,
)

_IMAGE_COLUMN = "sop_instance_uid or accession_number"
_SHOWN = 3  # faulty rows that an error quotes; the rest is counted


@dataclass(frozen=True)
class Verdict:
    """A reader's verdict on an image, which is named by its SOP Instance UID or by its accession number."""

    verdict: str
    reader: str
    sop_instance_uid: str = ""
    accession_number: str = ""
    agent: str = ""


def check(entry: Verdict) -> Verdict:
    """Return a verdict as the ledger takes it.

    Raises
    ------
    InvalidData
        It names no image or two ways to one, or its words are unknown.
    """
    verdict, agent = entry.verdict.upper(), entry.agent.lower()
    if verdict not in CLASSES:
        raise InvalidData(f"verdict {entry.verdict!r} is neither {' nor '.join(CLASSES)}")
    if agent and agent not in AGENTS:
        raise InvalidData(f"agent {entry.agent!r} is neither {' nor '.join(AGENTS)}")
    if agent and verdict == CLASSES[0]:
        raise InvalidData("an agent is named, but the verdict is NORMAL")
    if bool(entry.sop_instance_uid) == bool(entry.accession_number):
        raise InvalidData("name either a SOP Instance UID or an accession number")
    if not entry.reader or len(entry.reader) > 64:
        raise InvalidData("reader must have 1 to 64 characters")
    return Verdict(verdict, entry.reader, entry.sop_instance_uid, entry.accession_number, agent)


def enter(ledger: Ledger, verdicts: list[Verdict], source: str, at: dt.datetime) -> int:
    """Enter verdicts, all or none, and return on how many images.

    An accession number stands for all its analysed images. A later verdict on the same image counts instead.

    Raises
    ------
    InvalidData
        A verdict names an image that was not received, or what the rules have left out.
    """
    with ledger.writing() as connection:
        return sum(_enter(connection, verdict, source, at) for verdict in verdicts)


def _enter(connection: Connection, verdict: Verdict, source: str, at: dt.datetime) -> int:
    receipts = _receipts(connection, verdict)
    for receipt_id in receipts:
        facts = {"verdict": verdict.verdict, "agent": verdict.agent or None, "reader": verdict.reader, "source": source}
        connection.execute(insert(FeedbackRow).values(receipt_id=receipt_id, at=at, **facts))
        event_chain.append(connection, "feedback", at, receipt_id, **facts)
    return len(receipts)


def _receipts(connection: Connection, verdict: Verdict) -> list[int]:
    query = select(ReceiptRow.id, ReceiptRow.reason, takes_verdicts())
    if verdict.sop_instance_uid:
        # Of several versions the newest.
        query = query.where(ReceiptRow.sop_instance_uid == verdict.sop_instance_uid)
        query = query.order_by(ReceiptRow.version.desc()).limit(1)
    else:
        query = query.where(
            ReceiptRow.accession_number == verdict.accession_number,
            ReceiptRow.state == State.ANALYSED.value,
            versions.counts(),
        )
    rows = connection.execute(query.order_by(ReceiptRow.id)).all()
    if not rows:
        what = "image was received" if verdict.sop_instance_uid else "analysed image has the accession number"
        raise InvalidData(f"no {what}: {verdict.sop_instance_uid or verdict.accession_number}")
    for _, reason, eligible in rows:
        if not eligible:
            raise InvalidData(f"{verdict.sop_instance_uid} takes no verdict, since it was not analysed: {reason}")
    return [row.id for row in rows]


def takes_verdicts() -> ColumnElement[bool]:
    """Return whether a received object is, or may yet turn out to be, one that models answer.

    An object that the rules left out is not. An image that a model was not made for is: its header calls it a frontal
    radiograph of a chest, and nobody but its readers can answer it.
    """
    outside = exists().where(OutsideRow.receipt_id == ReceiptRow.id)
    return or_(ReceiptRow.state != State.NOT_ANALYSED, outside)


def read_file(path: Path) -> list[tuple[int, Verdict | str]]:
    """Read verdicts from a CSV file: for each row its line number, and the verdict or what is wrong with it.

    Columns: `verdict`, `reader`, `sop_instance_uid` or `accession_number`, and if wanted `agent`.

    Raises
    ------
    InvalidData
        The file cannot be read, or a column is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = set(reader.fieldnames or ())
            missing = [name for name in ("verdict", "reader") if name not in names]
            if missing or not names & {"sop_instance_uid", "accession_number"}:
                missing += [] if names & {"sop_instance_uid", "accession_number"} else [_IMAGE_COLUMN]
                raise InvalidData(f"{path}: lacks the columns: {', '.join(missing)}")
            rows = [(reader.line_num, {k: (v or "").strip() for k, v in row.items() if k}) for row in reader]
    except OSError as error:
        raise InvalidData(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidData(f"{path}: cannot be read as CSV ({error})") from error
    if not rows:
        raise InvalidData(f"{path}: holds no rows")
    return [(number, _verdict(row)) for number, row in rows]


def _verdict(row: dict[str, str]) -> Verdict | str:
    keys = ("verdict", "reader", "sop_instance_uid", "accession_number", "agent")
    columns = {key: row.get(key, "") for key in keys}
    if columns["sop_instance_uid"]:
        columns["accession_number"] = ""  # the UID says more
    try:
        return check(Verdict(**columns))
    except InvalidData as error:
        return str(error)


def check_images(ledger: Ledger, rows: list[tuple[int, Verdict | str]]) -> list[tuple[int, Verdict | str]]:
    """Return the rows; a verdict on an image that is not there is replaced by what is wrong with it."""
    with ledger.reading() as connection:
        return [(number, _check_image(connection, row)) for number, row in rows]


def _check_image(connection: Connection, row: Verdict | str) -> Verdict | str:
    if isinstance(row, str):
        return row
    try:
        _receipts(connection, row)
    except InvalidData as error:
        return str(error)
    return row


def faults(path: Path, rows: list[tuple[int, Verdict | str]]) -> str:
    """Return what is wrong with a file in one line; empty when nothing is."""
    bad = [f"row {number}: {row}" for number, row in rows if isinstance(row, str)]
    if not bad:
        return ""
    more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return f"{path}: {'; '.join(bad[:_SHOWN])}{more}"


@dataclass(frozen=True)
class Imported:
    """What came of a file: verdicts entered and on how many images, rows left out, and what is wrong with these."""

    verdicts: int
    images: int
    left_out: int
    faults: str


def import_file(ledger: Ledger, path: Path, at: dt.datetime, *, skip_bad: bool = False) -> Imported:
    """Enter the verdicts of a CSV file: all of them, or none where a row is faulty.

    Parameters
    ----------
    skip_bad
        Leave faulty rows out instead.

    Raises
    ------
    InvalidData
        The file cannot be read, or a row is faulty.
    """
    rows = check_images(ledger, read_file(path))
    wrong = faults(path, rows)
    if wrong and not skip_bad:
        raise InvalidData(f"{wrong}; nothing was entered")
    good = [verdict for _, verdict in rows if isinstance(verdict, Verdict)]
    images = enter(ledger, good, path.name[:128], at)
    return Imported(len(good), images, len(rows) - len(good), wrong)


def verdicts(ledger: Ledger, *, disagree: bool = False) -> list[dict[str, Any]]:
    """Return the last verdict on each image beside the answer that stands, the newest image first.

    With `disagree` only where the answer says the opposite: what is uncertain or outside contradicts no verdict.
    """
    last = select(func.max(FeedbackRow.id)).group_by(FeedbackRow.receipt_id)
    query = (
        select(
            FeedbackRow.receipt_id,
            ReceiptRow.sop_instance_uid,
            ReceiptRow.accession_number,
            FeedbackRow.verdict,
            FeedbackRow.agent,
            FeedbackRow.reader,
            FeedbackRow.at,
            FindingRow.answer,
            FindingRow.probability,
            FindingRow.model,
        )
        .join(ReceiptRow, ReceiptRow.id == FeedbackRow.receipt_id)
        .outerjoin(FindingRow, is_latest_finding())
        .where(FeedbackRow.id.in_(last))
        .order_by(FeedbackRow.receipt_id.desc())
    )
    if disagree:
        normal, pneumonia = CLASSES
        missed = (FeedbackRow.verdict == pneumonia) & (FindingRow.answer == Answer.NOT_FLAGGED)
        query = query.where(missed | ((FeedbackRow.verdict == normal) & (FindingRow.answer == Answer.FLAGGED)))
    with ledger.reading() as connection:
        rows = [dict(row) for row in connection.execute(query).mappings()]
    return [row | {"at": row["at"].isoformat(sep=" ", timespec="seconds")} for row in rows]
