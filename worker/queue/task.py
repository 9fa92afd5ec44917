"""A task: one piece of work on one subject. Its row is there as long as the work is not done."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from sqlalchemy import Index, Integer, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from worker.database.columns import BigNumber, Table


class Kind(StrEnum):
    """What is to be done; and what the subject is a number of."""

    ANALYSE = "analyse"  # a receipt: to be answered by whichever model serves
    REANALYSE = "reanalyse"  # a receipt: to be read again, by the model that the target names
    DELIVER = "deliver"  # a delivery: to be sent to the destination that the target names
    COMMIT = "commit"  # a delivery: the destination is to commit to keeping it
    EXPIRE = "expire"  # nothing: what is kept no longer is to be deleted
    REPORT = "report"  # an event: those after it are to be told of by syslog; the target is its digest


UNTARGETED = frozenset({Kind.ANALYSE})
"""The kinds whose tasks have no target."""


class TaskState(StrEnum):
    """Where a task stands."""

    WAITING = "waiting"  # until `due_at`
    LEASED = "leased"  # a process has it in hand, until `lease_until` at the latest


class Priority(IntEnum):
    """Lower goes first. The middle three are those of C-STORE (PS3.7 9.3.1.1)."""

    STAT = 0
    HIGH = 1
    MEDIUM = 2
    LOW = 3
    AGAIN = 5  # second readings, and what they make


AGAIN = text(f"kind = '{Kind.REANALYSE}'")
CRASHED = text("crashes > 0")
"""The conditions of two indexes; a query that is to use one has to say it in the same words."""


class TaskRow(Table):
    """One task."""

    __tablename__ = "task"
    __table_args__ = (
        UniqueConstraint("kind", "subject", "target"),
        Index("ix_task_due", "kind", "target", "priority", "id"),
        Index("ix_task_lease", "state", "lease_until"),
        Index("ix_task_again", "target", "priority", text("subject DESC"), sqlite_where=AGAIN, postgresql_where=AGAIN),
        Index("ix_task_crashed", "crashes", sqlite_where=CRASHED, postgresql_where=CRASHED),
    )

    id: Mapped[int] = mapped_column(BigNumber, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    subject: Mapped[int] = mapped_column(BigNumber)
    target: Mapped[str] = mapped_column(String(64), default="")
    priority: Mapped[int] = mapped_column(Integer, default=Priority.MEDIUM)
    due_at: Mapped[dt.datetime]
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    crashes: Mapped[int] = mapped_column(Integer, default=0)
    state: Mapped[str] = mapped_column(String(16), default=TaskState.WAITING)
    owner: Mapped[str] = mapped_column(String(64), default="")
    lease_until: Mapped[dt.datetime | None]
    token: Mapped[str] = mapped_column(String(32), default="")
    store: Mapped[str] = mapped_column(String(32), default="")  # where its files lie; empty: not said
    reason: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[dt.datetime]


@dataclass(frozen=True)
class Task:
    """A task that this process has in hand.

    Attributes
    ----------
    attempts, crashes
        How often it was taken, this time included, and how often the one who had it did not come back.
    token
        What its row bears as long as the lease is ours.
    """

    id: int
    kind: Kind
    subject: int
    target: str
    priority: int
    attempts: int
    crashes: int
    token: str
    created_at: dt.datetime
    claimed_at: dt.datetime
