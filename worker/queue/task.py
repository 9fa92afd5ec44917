"""A task: one piece of work on one subject. Who only speaks of tasks needs no database (`worker.queue.task_row`)."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import IntEnum, StrEnum


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
