"""The queue: tasks are put in, claimed with a lease, and settled under the token of that lease.

Whoever takes a task writes a token of its own into the row. All that is written later about the task is written in one
transaction with a statement that finds this token there; where it does not, somebody else has the task by now, and the
transaction changes nothing (a fencing token: Kleppmann 2016, "How to do distributed locking").
"""

from __future__ import annotations

import datetime as dt
import secrets
import threading
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Row, and_, case, delete, insert, or_, select, update

from dicom_io.errors import CxrdError
from worker.database.columns import unindexed
from worker.database.transactions import Database
from worker.queue.task import UNTARGETED, Kind, Priority, Task, TaskState
from worker.queue.task_row import AGAIN, CRASHED, TaskRow

LEASE = 20.0
"""Seconds that a lease lasts by default; it is renewed three times as often."""
Among = Literal["fresh", "suspect", "any"]
_COLUMNS = (
    TaskRow.id, TaskRow.kind, TaskRow.subject, TaskRow.target, TaskRow.priority, TaskRow.attempts, TaskRow.crashes,
    TaskRow.token, TaskRow.created_at,
)  # fmt: skip


class LeaseLost(CxrdError):
    """The task belongs to somebody else by now, or to nobody: what was done about it does not count."""


class Queue:
    """The tasks of one database, as one process sees them.

    Parameters
    ----------
    owner
        The name of this process, different from every other's.
    lease
        Seconds after which a task is anybody's again, unless `renew` is called.
    store
        The store that this process can read: tasks whose files lie in another are not for it. None takes all.
    """

    def __init__(self, database: Database, owner: str = "", lease: float = LEASE, store: str | None = None) -> None:
        self._database = database
        self.owner = owner or secrets.token_hex(8)
        self.lease = dt.timedelta(seconds=lease)
        self.store = store
        self._in_hand: dict[int, Task] = {}
        self._lock = threading.Lock()

    # ---- taking ------------------------------------------------------------------------------------------------------

    def claim(
        self,
        kinds: Collection[Kind],
        now: dt.datetime,
        *,
        limit: int = 1,
        target: str | None = None,
        subject: int | None = None,
        among: Among = "fresh",
        newest_first: bool = False,
        least_tried_first: bool = False,
    ) -> list[Task]:
        """Take tasks that are due in hand: by priority, then the oldest.

        Parameters
        ----------
        target, subject
            Only those of this target, or of this subject.
        among
            `fresh` leaves out what was in hand when a process died, `suspect` takes nothing else, `any` takes both.
        newest_first
            The highest subjects of a priority first, instead of the oldest tasks.
        least_tried_first
            Those with the fewest attempts first, and only then by priority.
        """
        conditions: list[Any] = [*self._conditions(kinds, now, target, subject), _among(among, now, self._own())]
        conditions += [AGAIN] if set(kinds) == {Kind.REANALYSE} else []
        order: list[Any] = [TaskRow.attempts] if least_tried_first else []
        order += [TaskRow.priority, TaskRow.subject.desc() if newest_first else TaskRow.id]
        # Looked at without the right to write first: an idle process must not wait for its turn again and again.
        if not self._is_any(*conditions):
            return []
        query = select(TaskRow.id).where(*conditions)
        query = query.order_by(*order).limit(limit).with_for_update(skip_locked=True)
        values: dict[str, Any] = {
            "state": TaskState.LEASED,
            "owner": self.owner,
            "token": secrets.token_hex(16),
            "lease_until": now + self.lease,
            "attempts": TaskRow.attempts + 1,
        }
        if among != "fresh":  # one that was left leased has taken its process with it, or was taken along
            values["crashes"] = TaskRow.crashes + case((TaskRow.state == TaskState.LEASED, 1), else_=0)
        with self._database.writing() as connection:
            numbers = list(connection.scalars(query))
            if not numbers:
                return []
            row = update(TaskRow).where(TaskRow.id.in_(numbers)).values(**values)
            rows = connection.execute(row.returning(*_COLUMNS)).all()
        places = {number: place for place, number in enumerate(numbers)}
        tasks = [_task(row, now) for row in sorted(rows, key=lambda row: places[row.id])]
        with self._lock:
            self._in_hand |= {task.id: task for task in tasks}
        return tasks

    def has_due(self, kinds: Collection[Kind], now: dt.datetime, *, target: str | None = None, beyond: int = 0) -> bool:
        """Return whether more than so many tasks, of this target where one is named, are due or in hand."""
        return self._is_any(*self._conditions(kinds, now, target), beyond=beyond)

    def has_suspects(self, kinds: Collection[Kind], now: dt.datetime, *, target: str | None = None) -> bool:
        """Return whether a task, of this target where one is named, waits that was in hand when a process died."""
        conditions = self._conditions(kinds, now, target, by_kind=False)
        # One after the other: each has an index of its own, and few rows in it however many tasks wait.
        waits = unindexed(TaskRow.state) == TaskState.WAITING
        return self._is_any(*conditions, _run_out(now, self._own())) or self._is_any(*conditions, CRASHED, waits)

    def _conditions(
        self,
        kinds: Collection[Kind],
        now: dt.datetime,
        target: str | None = None,
        subject: int | None = None,
        *,
        by_kind: bool = True,
    ) -> list[ColumnElement[bool]]:
        """Return the conditions of a task that is due, and that this process can do.

        Parameters
        ----------
        by_kind
            Whether it is to be looked up by its kind and target; else another condition leads to fewer rows.
        """
        if target is None and UNTARGETED.issuperset(kinds):
            target = ""  # said, the index has the tasks in the order in which they are taken
        of_kind, of_target = (each if by_kind else unindexed(each) for each in (TaskRow.kind, TaskRow.target))
        conditions = [of_kind.in_(list(kinds)), TaskRow.due_at <= now]
        conditions += [of_target == target] if target is not None else []
        conditions += [TaskRow.subject == subject] if subject is not None else []
        return conditions + ([TaskRow.store.in_(["", self.store])] if self.store is not None else [])

    def _is_any(self, *conditions: Any, beyond: int = 0) -> bool:
        with self._database.reading() as connection:
            return connection.scalar(select(TaskRow.id).where(*conditions).limit(1).offset(beyond)) is not None

    def renew(self, now: dt.datetime) -> None:
        """Prolong the lease of all that this process has in hand."""
        tasks = self.in_hand()
        if tasks:
            # Those that were taken together share a token, and may not all be in hand any more.
            ours = TaskRow.id.in_([task.id for task in tasks]), TaskRow.token.in_({task.token for task in tasks})
            with self._database.writing() as connection:
                connection.execute(update(TaskRow).where(*ours).values(lease_until=now + self.lease))

    def _own(self) -> list[int]:
        """Return the numbers of what this process has in hand."""
        return [task.id for task in self.in_hand()]

    def in_hand(self) -> list[Task]:
        """Return what this process has in hand."""
        with self._lock:
            return list(self._in_hand.values())

    @property
    def database(self) -> Database:
        """Where the tasks are."""
        return self._database

    def mend_times(self, now: dt.datetime, longest: Mapping[Kind, dt.timedelta]) -> int:
        """Let nothing wait longer than it may, after the clock has gone back; return how many tasks that concerned.

        Times in the rows are those of the wall: what was put off until 14:05, before the clock went from 14:00 to
        13:00, would wait for an hour more. It may be done by any process, and twice.

        Parameters
        ----------
        longest
            For how long a task of this kind is put off at most.
        """
        count = 0
        with self._database.writing() as connection:
            for kind, most in longest.items():
                late = (TaskRow.kind == kind, TaskRow.due_at > now + most)
                count += int(connection.execute(update(TaskRow).where(*late).values(due_at=now + most)).rowcount)
            beyond = (TaskRow.state == TaskState.LEASED, TaskRow.lease_until > now + 2 * self.lease + _APART)
            count += int(connection.execute(update(TaskRow).where(*beyond).values(lease_until=now)).rowcount)
        return count

    def release(self, owner: str, now: dt.datetime) -> int:
        """End the leases of a process that is known to be dead; return how many it had."""
        with self._database.writing() as connection:
            row = update(TaskRow).where(TaskRow.owner == owner, TaskRow.state == TaskState.LEASED)
            return int(connection.execute(row.values(lease_until=now)).rowcount)

    # ---- settling: in the caller's transaction -----------------------------------------------------------------------

    def finish(self, connection: Connection, task: Task) -> None:
        """Enter that a task is done.

        Raises
        ------
        LeaseLost
            It is not ours any more; the caller's transaction must not be committed.
        """
        self._settled(task, connection.execute(delete(TaskRow).where(*_ours(task))).rowcount)

    def postpone(self, connection: Connection, task: Task, until: dt.datetime, reason: str = "") -> None:
        """Put a task back until later; the attempt counts. Raises as `finish` does."""
        row = update(TaskRow).where(*_ours(task))
        self._settled(task, connection.execute(row.values(**_WAITING, due_at=until, reason=reason)).rowcount)

    def postpone_all(self, connection: Connection, tasks: Collection[Task], until: dt.datetime, reason: str) -> int:
        """Put tasks back until later, those that are still ours; return how many these are. The attempts count."""
        ours = TaskRow.id.in_([task.id for task in tasks]), TaskRow.token.in_({task.token for task in tasks})
        numbers = list(connection.scalars(select(TaskRow.id).where(*ours).order_by(TaskRow.id).with_for_update()))
        row = update(TaskRow).where(TaskRow.id.in_(numbers))
        connection.execute(row.values(**_WAITING, due_at=until, reason=reason))
        return len(numbers)

    def hand_back(self, connection: Connection, task: Task, reason: str = "") -> None:
        """Put a task back as it was, since the fault is not its own: the attempt does not count.

        One that is not ours any more is left as it is.
        """
        row = update(TaskRow).where(*_ours(task))
        connection.execute(row.values(**_WAITING, reason=reason, attempts=TaskRow.attempts - 1))

    def forget(self, task: Task) -> None:
        """Do not renew the lease of a task any more; another thread that has taken it since keeps its own."""
        with self._lock:
            if (held := self._in_hand.get(task.id)) and held.token == task.token:
                del self._in_hand[task.id]

    def _settled(self, task: Task, hits: int) -> None:
        if not hits:
            self.forget(task)
            raise LeaseLost(f"the lease of task {task.id} ({task.kind}) was lost")


_APART = dt.timedelta(minutes=10)
"""How far the clocks of machines may be apart; what is leased for longer was so before a clock went back."""
_WAITING: dict[str, Any] = {"state": TaskState.WAITING, "owner": "", "token": "", "lease_until": None}


def _task(row: Row[*tuple[Any, ...]], claimed_at: dt.datetime) -> Task:
    place = (row.id, Kind(row.kind), row.subject, row.target)
    return Task(*place, row.priority, row.attempts, row.crashes, row.token, row.created_at, claimed_at)


def _ours(task: Task) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return TaskRow.id == task.id, TaskRow.token == task.token


_WAITS = TaskRow.state == TaskState.WAITING


def _run_out(now: dt.datetime, own: Collection[int] = ()) -> ColumnElement[bool]:
    """Return which leases have run out, but for those of what we have in hand.

    Where a clock jumps, a machine was asleep or the database was away, our own leases run out too: the next beat
    prolongs them, and nobody did anything wrong meanwhile.
    """
    return and_(TaskRow.state == TaskState.LEASED, TaskRow.lease_until <= now, TaskRow.id.not_in(list(own)))


def _among(among: Among, now: dt.datetime, own: Collection[int] = ()) -> ColumnElement[bool]:
    """Return which tasks can be had: those that wait, and those whose lease has run out."""
    if among == "fresh":
        return and_(_WAITS, TaskRow.crashes == 0)
    return or_(_run_out(now, own), _WAITS if among == "any" else and_(_WAITS, TaskRow.crashes > 0))


def put(
    connection: Connection,
    kind: Kind,
    subject: int,
    due_at: dt.datetime,
    *,
    target: str = "",
    priority: int = Priority.MEDIUM,
    store: str = "",
) -> bool:
    """Put a task into the queue, in the caller's transaction; return whether it was not there yet."""
    same = (TaskRow.kind == kind, TaskRow.subject == subject, TaskRow.target == target)
    if connection.scalar(select(TaskRow.id).where(*same)) is not None:
        return False
    values = {"kind": kind, "subject": subject, "target": target, "priority": priority, "store": store}
    connection.execute(insert(TaskRow).values(**values, due_at=due_at, created_at=due_at))
    return True


def make_due(connection: Connection, kind: Kind, subjects: Iterable[int], now: dt.datetime) -> None:
    """Make waiting tasks due now, with all their attempts before them, in the caller's transaction."""
    waiting = (TaskRow.kind == kind, TaskRow.subject.in_(list(subjects)), TaskRow.state == TaskState.WAITING)
    connection.execute(update(TaskRow).where(*waiting).values(due_at=now, attempts=0, crashes=0, created_at=now))


def withdraw(connection: Connection, kind: Kind, subject: int, now: dt.datetime) -> bool:
    """Take a task that nobody has in hand out of the queue; return whether there was one."""
    same = (TaskRow.kind == kind, TaskRow.subject == subject, _among("any", now))
    return bool(connection.execute(delete(TaskRow).where(*same)).rowcount)
