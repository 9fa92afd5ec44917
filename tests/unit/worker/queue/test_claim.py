"""The queue on SQLite and on PostgreSQL: a task is one worker's at a time, and no dead worker keeps it."""

from __future__ import annotations

import datetime as dt
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests.support import databases
from tests.support.ledgers import task_row, waiting
from tests.unit.worker.ledger.test_receipts import NOON, SECOND
from worker.ledger import event_chain, verification
from worker.ledger.receipts import Ledger
from worker.queue.claim import LEASE, LeaseLost, Queue, make_due, put, withdraw
from worker.queue.task import Kind, Priority, Task

NEW = [Kind.ANALYSE]
OVER = NOON + LEASE * SECOND
"""When a lease of noon has run out."""


def filled(ledger: Ledger, *subjects: int, kind: Kind = Kind.ANALYSE, at: dt.datetime = NOON, **more: Any) -> None:
    with ledger.writing() as connection:
        for subject in subjects:
            assert put(connection, kind, subject, at, **more)


def claimed(queue: Queue, now: dt.datetime = NOON, **more: Any) -> list[int]:
    """Take all that can be had in hand; return the subjects in their order."""
    return [task.subject for task in queue.claim(NEW, now, limit=99, **more)]


def events(ledger: Ledger) -> int:
    with ledger.reading() as connection:
        return verification.verify(connection)[0]


def all_at_once(acts: list[Any]) -> list[Any]:
    """Call functions in threads that begin together; return what they return, or raise what one of them raised."""
    barrier, results, errors = threading.Barrier(len(acts)), [], []

    def run(act: Any) -> None:
        barrier.wait()
        try:
            results.append(act())
        except BaseException as error:  # noqa: BLE001 - the test is to see it
            errors.append(error)

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise AssertionError(f"{len(errors)} of {len(acts)} failed") from errors[0]
    return results


# ---- putting in --------------------------------------------------------------------------------------------------


def test_put_in_twice_it_is_one_task(ledger: Ledger) -> None:
    filled(ledger, 1)
    with ledger.writing() as connection:
        assert not put(connection, Kind.ANALYSE, 1, NOON + SECOND, priority=Priority.STAT)
        assert put(connection, Kind.REANALYSE, 1, NOON, target="f")
        assert put(connection, Kind.REANALYSE, 1, NOON, target="e")
    queue = Queue(ledger)
    (task,) = queue.claim(NEW, NOON)
    assert (task.priority, task.created_at) == (Priority.MEDIUM, NOON)
    with ledger.writing() as connection:
        assert not put(connection, Kind.ANALYSE, 1, NOON)  # somebody has it in hand
    with ledger.writing() as connection:
        queue.finish(connection, task)
    filled(ledger, 1)


def test_what_is_made_due_has_all_its_attempts_before_it(ledger: Ledger) -> None:
    filled(ledger, 1, 2, 3)
    queue = Queue(ledger)
    for task in queue.claim(NEW, NOON, limit=2):
        with ledger.writing() as connection:
            queue.postpone(connection, task, NOON + 60 * SECOND, "later")
        queue.forget(task)
    (in_hand,) = queue.claim(NEW, NOON)
    with ledger.writing() as connection:
        make_due(connection, Kind.ANALYSE, [1, 3], NOON + SECOND)
        make_due(connection, Kind.DELIVER, [2], NOON + SECOND)
    (task,) = queue.claim(NEW, NOON + SECOND, limit=9)
    assert (task.subject, task.attempts, task.crashes, task.created_at) == (1, 1, 0, NOON + SECOND)
    with ledger.writing() as connection:
        queue.finish(connection, in_hand)  # which is left to who has it


def test_only_what_nobody_has_in_hand_is_withdrawn(ledger: Ledger) -> None:
    filled(ledger, 1, 2)
    assert [task.subject for task in Queue(ledger).claim(NEW, NOON)] == [1]
    with ledger.writing() as connection:
        assert [withdraw(connection, Kind.ANALYSE, each, NOON) for each in (1, 2, 3)] == [False, True, False]
    assert task_row(ledger, 1) is not None
    assert task_row(ledger, 2) is None
    with ledger.writing() as connection:
        assert withdraw(connection, Kind.ANALYSE, 1, OVER)  # whoever had it is gone


# ---- taking ------------------------------------------------------------------------------------------------------


def test_only_one_has_it(ledger: Ledger) -> None:
    filled(ledger, 1)
    queue, other = Queue(ledger), Queue(ledger)
    assert queue.owner != other.owner
    (task,) = queue.claim(NEW, NOON)
    assert (task.attempts, task.crashes, task.claimed_at) == (1, 0, NOON)
    for among in ("fresh", "suspect", "any"):
        assert other.claim(NEW, NOON, among=among) == queue.claim(NEW, NOON, among=among) == []
    assert (queue.in_hand(), other.in_hand()) == ([task], [])


def test_the_urgent_go_first_and_then_the_oldest(ledger: Ledger) -> None:
    for subject, priority in [(9, 2), (8, 3), (7, 2), (6, 0), (5, 1), (4, 5), (3, 2)]:
        filled(ledger, subject, priority=priority)
    filled(ledger, 1, at=NOON + SECOND, priority=Priority.STAT)  # not due yet
    assert waiting(ledger, NOON) == [6, 5, 9, 7, 3, 8, 4]
    assert [task.subject for task in Queue(ledger).claim(NEW, NOON, limit=3)] == [6, 5, 9]
    assert claimed(Queue(ledger)) == [7, 3, 8, 4]
    assert claimed(Queue(ledger), NOON + SECOND) == [1]


def test_the_newest_may_go_first(ledger: Ledger) -> None:
    for subject, priority in [(3, 5), (9, 5), (7, 5), (5, 2)]:
        filled(ledger, subject, priority=priority)
    assert claimed(Queue(ledger), newest_first=True) == [5, 9, 7, 3]


def test_what_was_tried_least_may_go_first(ledger: Ledger) -> None:
    filled(ledger, 1, 2, 3)
    queue = Queue(ledger)
    for task in queue.claim(NEW, NOON, limit=2):
        with ledger.writing() as connection:
            queue.postpone(connection, task, NOON)
        queue.forget(task)
    filled(ledger, 4, priority=Priority.STAT)
    assert claimed(queue, least_tried_first=True) == [4, 3, 1, 2]


def test_one_takes_only_what_it_asks_for(ledger: Ledger) -> None:
    filled(ledger, 1, 2, kind=Kind.DELIVER, target="pacs")
    filled(ledger, 3, kind=Kind.DELIVER, target="archive")
    filled(ledger, 1)
    queue = Queue(ledger)
    assert queue.claim([Kind.DELIVER], NOON, target="nobody") == []
    assert [task.subject for task in queue.claim([Kind.DELIVER], NOON, target="archive", limit=9)] == [3]
    assert [task.target for task in queue.claim([Kind.DELIVER], NOON, subject=2, limit=9)] == ["pacs"]
    tasks = queue.claim([Kind.ANALYSE, Kind.DELIVER], NOON, limit=9)
    assert [(task.kind, task.subject) for task in tasks] == [(Kind.DELIVER, 1), (Kind.ANALYSE, 1)]


def test_many_at_once_have_none_in_common(ledger: Ledger) -> None:
    filled(ledger, *range(40))

    def take_all() -> list[int]:
        queue, mine = Queue(ledger), []
        while tasks := queue.claim(NEW, NOON, limit=3):
            mine += [task.subject for task in tasks]
            for task in tasks:
                with ledger.writing() as connection:
                    queue.finish(connection, task)
        return mine

    shares = all_at_once([take_all] * 4)
    # On PostgreSQL one may have gone with nothing, where the others had locked all that was left.
    rest = take_all()
    assert sorted([subject for share in [*shares, rest] for subject in share]) == list(range(40))


def test_who_looks_in_vain_waits_for_no_writer(sqlite_url: str, tmp_path: Path) -> None:
    engine = databases.opened(sqlite_url, busy_timeout=0.01)
    other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert Queue(Ledger(engine)).claim(NEW, NOON) == []
    other.close()
    engine.dispose()


def test_what_is_due_or_in_hand_is_seen(ledger: Ledger) -> None:
    queue = Queue(ledger)
    assert not queue.has_due(NEW, NOON)
    filled(ledger, 1, at=NOON + SECOND)
    assert not queue.has_due(NEW, NOON)
    assert queue.has_due(NEW, NOON + SECOND)
    assert not queue.has_due([Kind.REANALYSE], NOON + SECOND)
    queue.claim(NEW, NOON + SECOND)
    assert Queue(ledger).has_due(NEW, NOON + SECOND)


# ---- leases ------------------------------------------------------------------------------------------------------


def test_what_a_dead_process_had_in_hand_is_suspect(ledger: Ledger) -> None:
    filled(ledger, 1, 2)
    (lost,) = Queue(ledger).claim(NEW, NOON)
    queue = Queue(ledger)
    assert not queue.has_suspects(NEW, OVER - SECOND)
    assert queue.claim(NEW, OVER - SECOND, among="suspect") == []
    assert queue.has_suspects(NEW, OVER)
    assert queue.has_suspects(NEW, OVER, target="")
    assert not queue.has_suspects(NEW, OVER, target="pacs")
    assert not queue.has_suspects([Kind.DELIVER], OVER)
    assert claimed(queue, OVER) == [2]
    (task,) = queue.claim(NEW, OVER, among="suspect", limit=9)
    assert (task.subject, task.attempts, task.crashes) == (1, 2, 1)
    assert task.token != lost.token
    # It stays one until it is done: put back, it still is no fresh one.
    with ledger.writing() as connection:
        queue.hand_back(connection, task)
    assert queue.claim(NEW, OVER) == []
    assert queue.has_suspects(NEW, OVER)
    (task,) = queue.claim(NEW, OVER, among="any")
    assert (task.attempts, task.crashes) == (2, 1)  # nobody has died of it since
    with ledger.writing() as connection:
        queue.postpone(connection, task, OVER)
        make_due(connection, Kind.ANALYSE, [1], OVER)
    assert claimed(queue, OVER) == [1]


def test_whoever_takes_both_takes_them_in_order(ledger: Ledger) -> None:
    filled(ledger, 1, 2, 3)
    Queue(ledger).claim(NEW, NOON, subject=2)
    tasks = Queue(ledger).claim(NEW, OVER, among="any", limit=9)
    assert [(task.subject, task.crashes) for task in tasks] == [(1, 0), (2, 1), (3, 0)]


def test_a_lease_is_prolonged_while_its_process_lives(ledger: Ledger) -> None:
    filled(ledger, 1, 2, 3)
    queue, dead, other = Queue(ledger, lease=20), Queue(ledger), Queue(ledger)
    kept, forgotten = queue.claim(NEW, NOON, limit=2)
    dead.claim(NEW, NOON)
    queue.forget(forgotten)
    queue.renew(NOON + 15 * SECOND)
    other.renew(NOON + 15 * SECOND)
    assert claimed(other, NOON + 34 * SECOND, among="suspect") == [2, 3]
    assert claimed(other, NOON + 35 * SECOND, among="suspect") == [kept.subject]
    queue.renew(NOON + 36 * SECOND)  # it has lost it
    row = task_row(ledger, 1)
    assert row is not None
    assert (row["owner"], row["lease_until"]) == (other.owner, NOON + 55 * SECOND)


def test_the_leases_of_a_process_that_is_known_to_be_dead_end_at_once(ledger: Ledger) -> None:
    filled(ledger, 1, 2, 3)
    dead, alive = Queue(ledger, "dead"), Queue(ledger)
    dead.claim(NEW, NOON, limit=2)
    alive.claim(NEW, NOON)
    assert alive.release("dead", NOON + SECOND) == 2
    assert alive.release("dead", NOON + SECOND) == 2  # they are as they were until somebody takes them
    tasks = alive.claim(NEW, NOON + SECOND, among="suspect", limit=9)
    assert [(task.subject, task.crashes) for task in tasks] == [(1, 1), (2, 1)]
    assert alive.release("dead", NOON + SECOND) == 0


# ---- settling ----------------------------------------------------------------------------------------------------


def lost_and_had(ledger: Ledger) -> tuple[tuple[Queue, Task], tuple[Queue, Task]]:
    """Return who had a task in hand until the lease ran out, and who has it now."""
    filled(ledger, 1)
    late, now = Queue(ledger), Queue(ledger)
    (lost,) = late.claim(NEW, NOON)
    (had,) = now.claim(NEW, OVER, among="suspect")
    return (late, lost), (now, had)


@pytest.mark.parametrize("settle", ["finish", "postpone"])
def test_whoever_lost_the_lease_changes_nothing(ledger: Ledger, settle: str) -> None:
    (late, lost), (now, had) = lost_and_had(ledger)
    before = task_row(ledger, 1)
    more = [OVER + SECOND, "a reason"] if settle == "postpone" else []

    def enter(queue: Queue, task: Task) -> None:
        with ledger.writing() as connection:
            event_chain.append(connection, "postponed", OVER)
            getattr(queue, settle)(connection, task, *more)
            event_chain.append(connection, "postponed", OVER)

    with pytest.raises(LeaseLost, match="was lost"):
        enter(late, lost)
    assert (task_row(ledger, 1), events(ledger), late.in_hand()) == (before, 0, [])
    with ledger.writing() as connection:
        late.hand_back(connection, lost, "a reason")
    assert task_row(ledger, 1) == before
    enter(now, had)
    assert events(ledger) == 2
    with pytest.raises(LeaseLost):
        enter(now, had)  # once is enough


def test_a_lease_that_ran_out_counts_until_somebody_else_has_it(ledger: Ledger) -> None:
    filled(ledger, 1)
    queue = Queue(ledger)
    (task,) = queue.claim(NEW, NOON)
    assert Queue(ledger).has_suspects(NEW, OVER)
    with ledger.writing() as connection:
        queue.finish(connection, task)
    assert task_row(ledger, 1) is None


def test_what_we_have_in_hand_is_not_taken_a_second_time(ledger: Ledger) -> None:
    """Leases also run out where a clock jumps, or where the database is away while a thread of ours goes on."""
    filled(ledger, 1, 2)
    queue = Queue(ledger)
    (first, _) = queue.claim(NEW, NOON, limit=2)
    assert not queue.has_suspects(NEW, OVER)
    assert claimed(queue, OVER, among="any") == claimed(queue, OVER, among="suspect") == []
    queue.renew(OVER)
    assert claimed(Queue(ledger), OVER, among="any") == []
    queue.forget(first)
    assert claimed(queue, OVER + LEASE * SECOND, among="any") == [1]


def test_who_lost_a_lease_to_another_thread_leaves_it_that_one_s(ledger: Ledger) -> None:
    """A thread that an error has met lets go of what it had, perhaps when another one has it already."""
    filled(ledger, 1)
    queue = Queue(ledger)
    (first,) = queue.claim(NEW, NOON)
    queue.forget(first)
    (second,) = queue.claim(NEW, OVER, among="any")
    with pytest.raises(LeaseLost), ledger.writing() as connection:
        queue.finish(connection, first)
    queue.forget(first)
    assert queue.in_hand() == [second]
    queue.renew(OVER + 10 * SECOND)
    assert claimed(Queue(ledger), OVER + LEASE * SECOND, among="any") == []


def test_what_is_postponed_waits_and_the_attempt_counts(ledger: Ledger) -> None:
    filled(ledger, 1)
    queue = Queue(ledger)
    (task,) = queue.claim(NEW, NOON)
    with ledger.writing() as connection:
        queue.postpone(connection, task, NOON + 5 * SECOND, "busy")
    row = task_row(ledger, 1)
    assert row is not None
    assert (row["state"], row["owner"], row["token"], row["lease_until"], row["reason"]) == (
        "waiting", "", "", None, "busy",
    )  # fmt: skip
    assert queue.claim(NEW, NOON + 4 * SECOND) == []
    (task,) = queue.claim(NEW, NOON + 5 * SECOND)
    assert task.attempts == 2


def test_what_is_handed_back_is_as_it_was(ledger: Ledger) -> None:
    filled(ledger, 1)
    queue, before = Queue(ledger), task_row(ledger, 1)
    for _ in range(3):
        (task,) = queue.claim(NEW, NOON)
        assert task.attempts == 1
        with ledger.writing() as connection:
            queue.hand_back(connection, task)
        assert task_row(ledger, 1) == before


def test_a_task_that_was_altered_by_hand_is_not_ours(ledger: Ledger) -> None:
    filled(ledger, 1)
    queue = Queue(ledger)
    (task,) = queue.claim(NEW, NOON)
    with ledger.writing() as connection:
        connection.execute(text("UPDATE task SET state = 'waiting', token = ''"))
    with pytest.raises(LeaseLost), ledger.writing() as connection:
        queue.finish(connection, task)


# ---- stores --------------------------------------------------------------------------------------------------------


def test_what_lies_in_another_store_is_left_to_those_who_can_read_it(ledger: Ledger) -> None:
    filled(ledger, 1, store="here")
    filled(ledger, 2, store="there")
    filled(ledger, 3)  # of an earlier version, which did not say
    here, anywhere = Queue(ledger, store="here"), Queue(ledger)
    assert claimed(here) == [1, 3]
    assert here.has_due(NEW, NOON)
    assert claimed(anywhere) == [2]
    after = Queue(ledger, store="here")  # started when that one had died
    assert claimed(after, OVER, among="suspect") == [1, 3]
    assert not after.has_suspects(NEW, OVER)
    assert Queue(ledger).has_suspects(NEW, OVER)
    with ledger.writing() as connection:
        connection.execute(text("DELETE FROM task WHERE subject = 3"))
    # Nor is what it cannot read in the way of what it can.
    elsewhere, later = Queue(ledger, store="elsewhere"), OVER + LEASE * SECOND
    assert not elsewhere.has_suspects(NEW, later)
    assert not elsewhere.has_due(NEW, later)
    assert elsewhere.claim(NEW, later, among="any") == []
