"""Readers' verdicts on received images: entered one by one or from a file, and taken up for retraining."""

from __future__ import annotations

import csv
import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, exists, func, insert, or_, select

from dicom_io.errors import InvalidData
from modeltrain.model.outputs import AGENTS, CLASSES
from worker.ledger import event_chain
from worker.ledger.receipts import Ledger
from worker.ledger.tables import GATE, FeedbackRow, FindingRow, OutsideRow, ReceiptRow, State, standing

_SHOWN = 3  # faulty rows that an error quotes; the rest is counted


@dataclass(frozen=True)
class Verdict:
    """What a reader says of an image, which is named by its SOP Instance UID or by its accession number."""

    verdict: str
    reader: str
    sop_instance_uid: str = ""
    accession_number: str = ""
    agent: str = ""


def checked(said: Verdict) -> Verdict:
    """Return a verdict as the ledger takes it.

    Raises
    ------
    InvalidData
        It names no image or two ways to one, or says something unknown.
    """
    verdict, agent = said.verdict.upper(), said.agent.lower()
    if verdict not in CLASSES:
        raise InvalidData(f"verdict {said.verdict!r} is neither {' nor '.join(CLASSES)}")
    if agent and agent not in AGENTS:
        raise InvalidData(f"agent {said.agent!r} is neither {' nor '.join(AGENTS)}")
    if agent and verdict == CLASSES[0]:
        raise InvalidData("an agent is named, but the verdict is NORMAL")
    if bool(said.sop_instance_uid) == bool(said.accession_number):
        raise InvalidData("name either a SOP Instance UID or an accession number")
    if not said.reader or len(said.reader) > 64:
        raise InvalidData("reader must have 1 to 64 characters")
    return Verdict(verdict, said.reader, said.sop_instance_uid, said.accession_number, agent)


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


def _enter(connection: Connection, said: Verdict, source: str, at: dt.datetime) -> int:
    receipts = _receipts(connection, said)
    for receipt_id in receipts:
        facts = {"verdict": said.verdict, "agent": said.agent or None, "reader": said.reader, "source": source}
        connection.execute(insert(FeedbackRow).values(receipt_id=receipt_id, at=at, **facts))
        event_chain.append(connection, "feedback", at, receipt_id, **facts)
    return len(receipts)


def _receipts(connection: Connection, said: Verdict) -> list[int]:
    query = select(ReceiptRow.id, ReceiptRow.reason, takes_verdicts())
    if said.sop_instance_uid:
        query = query.where(ReceiptRow.sop_instance_uid == said.sop_instance_uid)
    else:
        query = query.where(
            ReceiptRow.accession_number == said.accession_number, ReceiptRow.state == State.ANALYSED.value
        )
    found = connection.execute(query.order_by(ReceiptRow.id)).all()
    if not found:
        what = "image was received" if said.sop_instance_uid else "analysed image has the accession number"
        raise InvalidData(f"no {what}: {said.sop_instance_uid or said.accession_number}")
    for _, reason, eligible in found:
        if not eligible:
            raise InvalidData(f"{said.sop_instance_uid} takes no verdict, since it was not analysed: {reason}")
    return [row.id for row in found]


def takes_verdicts() -> ColumnElement[bool]:
    """Return whether a received object is, or may yet turn out to be, one that models answer.

    What the rules have left out is not. What a model's gate has left out is: it is a frontal radiograph of a chest by
    its header, and of those that the gate stops the readers' verdicts are the only ones.
    """
    stopped = exists().where(OutsideRow.receipt_id == ReceiptRow.id)
    # Before there was a table for it (cxrd 1.2), only the reason told.
    return or_(ReceiptRow.state != State.NOT_ANALYSED, stopped, ReceiptRow.reason.startswith(GATE))


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
                missing += [] if names & {"sop_instance_uid", "accession_number"} else ["sop_instance_uid"]
                raise InvalidData(f"{path}: has no column {' and '.join(missing)}")
            rows = [(reader.line_num, {k: (v or "").strip() for k, v in row.items() if k}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidData(f"{path}: cannot be read as CSV ({error})") from error
    if not rows:
        raise InvalidData(f"{path}: holds no rows")
    return [(number, _verdict(row)) for number, row in rows]


def _verdict(row: dict[str, str]) -> Verdict | str:
    keys = ("verdict", "reader", "sop_instance_uid", "accession_number", "agent")
    named = {key: row.get(key, "") for key in keys}
    if named["sop_instance_uid"]:
        named["accession_number"] = ""  # the UID says more
    try:
        return checked(Verdict(**named))
    except InvalidData as error:
        return str(error)


def known(ledger: Ledger, rows: list[tuple[int, Verdict | str]]) -> list[tuple[int, Verdict | str]]:
    """Return the rows, those that name an image that is not there turned into what is wrong with them."""
    found: list[tuple[int, Verdict | str]] = []
    with ledger.reading() as connection:
        for number, said in rows:
            if isinstance(said, Verdict):
                try:
                    _receipts(connection, said)
                except InvalidData as error:
                    found.append((number, str(error)))
                    continue
            found.append((number, said))
    return found


def faults(path: Path, rows: list[tuple[int, Verdict | str]]) -> str:
    """Return what is wrong with a file in one line; empty when nothing is."""
    bad = [f"row {number}: {said}" for number, said in rows if isinstance(said, str)]
    if not bad:
        return ""
    more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return f"{path}: {'; '.join(bad[:_SHOWN])}{more}"


def verdicts(ledger: Ledger, *, disagree: bool = False) -> list[dict[str, Any]]:
    """Return the last verdict on each image beside the decision that stands, the newest image first."""
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
            FindingRow.decision,
            FindingRow.probability,
            FindingRow.model,
        )
        .join(ReceiptRow, ReceiptRow.id == FeedbackRow.receipt_id)
        .outerjoin(FindingRow, standing())
        .where(FeedbackRow.id.in_(last))
        .order_by(FeedbackRow.receipt_id.desc())
    )
    if disagree:
        query = query.where(FeedbackRow.verdict != FindingRow.decision)
    with ledger.reading() as connection:
        rows = [dict(row) for row in connection.execute(query).mappings()]
    return [row | {"at": row["at"].isoformat(sep=" ", timespec="seconds")} for row in rows]
