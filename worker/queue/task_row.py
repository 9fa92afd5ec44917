"""The table of tasks. A task's row is there as long as its work is not done."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Index, Integer, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from worker.database.columns import BigNumber, Table
from worker.queue.task import Kind, Priority, TaskState

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


Index(
    "ix_task_again",
    TaskRow.target,
    TaskRow.priority,
    TaskRow.subject.desc(),
    sqlite_where=AGAIN,
    postgresql_where=AGAIN,
)
