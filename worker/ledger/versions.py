"""Versions of one SOP instance: the contents that came under its UID, one after the other, each with its receipt.

A content comes once, whoever sends it: an earlier one that is sent again is not newer than what came after it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Connection, exists, func, select, text
from sqlalchemy.orm import aliased

from dicom_io.errors import CxrdError
from dicom_io.header.version import FIRST, ImageVersion
from worker.ledger.records import Replaced
from worker.ledger.tables import FindingRow, ReceiptRow, ResultRow, State
from worker.queue.task import Kind, TaskState
from worker.queue.task_row import TaskRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.ledger.records import NewReceipt

_TURN = 716354
"""Tells our locks on SOP instances from others in a PostgreSQL database."""


class OtherContent(CxrdError):
    """A SOP instance was received before with another content, and no versions of it are wanted."""

    def __init__(self) -> None:
        super().__init__("another content was received under this SOP Instance UID (scp.duplicates)")


class FileDeleted(CxrdError):
    """The content was received before, and its file has been deleted since the caller looked."""

    def __init__(self, receipt_id: int) -> None:
        super().__init__(f"the file of receipt {receipt_id} has just been deleted")
        self.receipt_id = receipt_id


class AnsweredLater(CxrdError):
    """A later version was answered meanwhile: nothing of this one may go out any more.

    Whoever takes the results would take the last one for the one that counts.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"replaced: version {number} of it was answered before")


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a SOP instance.

    Attributes
    ----------
    content_sha256
        Of the data set; None where an earlier version of cxrd received it.
    """

    receipt_id: int
    number: int
    transfer_syntax_uid: str
    sha256: str
    size_bytes: int
    content_sha256: str | None
    store: str
    deleted_at: dt.datetime | None

    def holds(self, new: NewReceipt) -> bool:
        """Tell whether an object that arrives is this version: the same data set in the same transfer syntax."""
        if self.sha256 == new.sha256:
            return True
        same = self.content_sha256 is not None and self.content_sha256 == new.content_sha256
        return same and self.transfer_syntax_uid == new.transfer_syntax_uid


def take_turn(connection: Connection, sop_instance_uid: str) -> None:
    """Let nobody else enter the same SOP instance until the transaction ends. SQLite has one writer at a time anyhow.

    It goes before all other locks of a transaction.
    """
    if connection.dialect.name == "postgresql":
        key = int.from_bytes(hashlib.sha256(sop_instance_uid.encode()).digest()[:4], "big", signed=True)
        connection.execute(text("SELECT pg_advisory_xact_lock(:kind, :key)"), {"kind": _TURN, "key": key})


def of_instance(connection: Connection, sop_instance_uid: str) -> Sequence[Version]:
    """Return the versions of a SOP instance, the first one first."""
    query = select(
        ReceiptRow.id,
        ReceiptRow.version,
        ReceiptRow.transfer_syntax_uid,
        ReceiptRow.sha256,
        ReceiptRow.size_bytes,
        ReceiptRow.content_sha256,
        ReceiptRow.store,
        ReceiptRow.deleted_at,
    ).where(ReceiptRow.sop_instance_uid == sop_instance_uid)
    return [Version(*row) for row in connection.execute(query.order_by(ReceiptRow.version))]


def version_of(connection: Connection, receipt_id: int) -> ImageVersion:
    """Return which of the contents of its SOP instance a receipt is."""
    columns = ReceiptRow.version, ReceiptRow.content_sha256, ReceiptRow.sha256, ReceiptRow.transfer_syntax_uid
    number, content, sha256, syntax = connection.execute(select(*columns).where(ReceiptRow.id == receipt_id)).one()
    return FIRST if number == 1 else ImageVersion(number, f"{content or sha256}/{syntax}")


def earlier(connection: Connection, receipt_id: int) -> list[tuple[int, Replaced]]:
    """Return the receipts of the versions before this one, the last one first, and what each was."""
    other = aliased(ReceiptRow)
    query = (
        select(other.id, other.version, other.study_instance_uid, other.accession_number)
        .join(
            ReceiptRow, (ReceiptRow.sop_instance_uid == other.sop_instance_uid) & (other.version < ReceiptRow.version)
        )
        .where(ReceiptRow.id == receipt_id)
        .order_by(other.version.desc())
    )
    return [(int(row[0]), Replaced(*row[1:])) for row in connection.execute(query)]


def in_hand(connection: Connection, receipt_ids: Sequence[int], now: dt.datetime) -> bool:
    """Return whether a worker has one of these images in hand, to be answered."""
    if not receipt_ids:
        return False
    leased = (TaskRow.state == TaskState.LEASED, TaskRow.lease_until > now)
    query = select(TaskRow.id).where(TaskRow.kind == Kind.ANALYSE, TaskRow.subject.in_(receipt_ids), *leased)
    return connection.scalar(query.limit(1)) is not None


def later_answer(connection: Connection, receipt_id: int) -> int | None:
    """Return the number of a later version that a model has answered; None where there is none."""
    other = aliased(ReceiptRow)
    query = select(other.version).join(ReceiptRow, _later(other)).where(ReceiptRow.id == receipt_id)
    return connection.scalar(query.order_by(other.version.desc()).limit(1))


def require_latest(connection: Connection, receipt_id: int, sop_instance_uid: str) -> None:
    """Take the SOP instance's turn, and see that no later version of this image was answered.

    Raises
    ------
    AnsweredLater
        One was.
    """
    take_turn(connection, sop_instance_uid)
    later = later_answer(connection, receipt_id)
    if later:
        raise AnsweredLater(later)


def has_newer_answer() -> ColumnElement[bool]:
    """Return whether a later version was answered after a `ResultRow` was made, of a `ReceiptRow` that it is joined to.

    A second reading that a person asks for afterwards makes results that are newer than that answer.
    """
    other, answer = aliased(ReceiptRow), aliased(FindingRow)
    same = other.sop_instance_uid == ReceiptRow.sop_instance_uid
    newer = (answer.receipt_id == other.id) & (answer.id > func.coalesce(ResultRow.finding_id, 0))
    return exists().where(same, other.version > ReceiptRow.version, newer)


def counts() -> ColumnElement[bool]:
    """Return whether a `ReceiptRow` is the version that counts: no later one was answered."""
    other = aliased(ReceiptRow)
    return ~exists().where(_later(other))


def _later(other: type[ReceiptRow]) -> ColumnElement[bool]:
    same = other.sop_instance_uid == ReceiptRow.sop_instance_uid
    return same & (other.version > ReceiptRow.version) & (other.state == State.ANALYSED)
