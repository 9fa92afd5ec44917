"""Transactions of many at once: none is refused, none waits for another in a circle, and the chain stays one chain."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text

from dicom_io.errors import OutOfResources
from tests.support import databases
from tests.support.ledgers import record_finding
from tests.support.peers import wait_for
from tests.unit.worker.ledger.test_receipts import FINDING, NEW, NOON, RESULT, SECOND, received
from tests.unit.worker.queue.test_claim import all_at_once
from worker.database.connection import Patience, connect
from worker.database.transactions import at_end
from worker.ledger import event_chain, migrations, verification
from worker.ledger import findings as ledger_findings
from worker.ledger.deliveries import Deliveries
from worker.ledger.receipts import Ledger
from worker.ledger.retention import Retention
from worker.ledger.versions import FileDeleted
from worker.queue.claim import Queue

LONG = Patience(busy=120, connect=120, statement=240, pool=16)
"""On a busy machine nobody is refused for being late; what waits in a circle is refused all the same."""


def opened(url: str, patience: Patience = LONG) -> Iterator[Ledger]:
    engine = databases.opened(url, patience=patience)
    yield Ledger(engine, patience.busy)
    engine.dispose()


@pytest.fixture
def server(postgres_ledger_url: str) -> Iterator[Ledger]:
    """A ledger on PostgreSQL."""
    yield from opened(postgres_ledger_url)


@pytest.fixture(params=["sqlite", "postgres"])
def patient(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """A ledger on each database, for many at once."""
    yield from opened(request.getfixturevalue(f"{request.param}_ledger_url"))


def kinds(ledger: Ledger) -> list[str]:
    """Return the kinds of all events; the chain must hold."""
    with ledger.reading() as connection:
        assert verification.verify(connection)[1] == []
        return list(connection.scalars(text("SELECT kind FROM event ORDER BY id")))


def test_of_two_versions_that_are_answered_at_once_the_later_one_comes_second(
    patient: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the earlier one is being entered, after it was seen that no later one was answered, that one waits."""
    numbers = [received(patient, sha256=digit * 64, content_sha256=digit * 64) for digit in "12"]
    enter, threads = ledger_findings.record_finding, []

    def slow(connection: Connection, number: int, *arguments: Any, **options: Any) -> None:
        if number == numbers[0]:
            second = threading.Thread(target=record_finding, args=(patient, numbers[1], FINDING, [], NOON))
            threads.append(second)
            second.start()
            second.join(1)
            assert second.is_alive()
        enter(connection, number, *arguments, **options)

    monkeypatch.setattr(ledger_findings, "record_finding", slow)
    record_finding(patient, numbers[0], FINDING, [], NOON)
    threads[0].join(60)
    assert kinds(patient) == ["received", "received", "analysed", "analysed"]
    with patient.reading() as connection:
        subjects = list(connection.scalars(text("SELECT receipt_id FROM event WHERE kind = 'analysed' ORDER BY id")))
    assert subjects == numbers


def with_results(ledger: Ledger, count: int) -> None:
    """Enter images with results for a destination, three of each."""
    for image in range(-(-count // 3)):
        numbers = range(3 * image, min(count, 3 * image + 3))
        results = [replace(RESULT, sop_instance_uid=f"2.25.{n}", destinations=("pacs",)) for n in numbers]
        record_finding(ledger, received(ledger, sop_instance_uid=f"1.{image}"), FINDING, results, NOON)


# ---- what comes last ---------------------------------------------------------------------------------------------


def broken_off(ledger: Ledger, act: Callable[[Connection], None]) -> None:
    """Do something in a transaction that fails."""
    with contextlib.suppress(ZeroDivisionError), ledger.writing() as connection:
        act(connection)
        raise ZeroDivisionError


def test_what_is_to_come_last_comes_last_and_in_order(ledger: Ledger) -> None:
    done: list[str] = []
    with ledger.writing() as connection:
        at_end(connection, lambda _: done.append("first of the last"))
        at_end(connection, lambda same: done.append(f"second {same is connection}"))
        done.append("body")
    assert done == ["body", "first of the last", "second True"]
    broken_off(ledger, lambda connection: at_end(connection, lambda _: done.append("of one that was broken off")))
    with ledger.writing():  # on the connection that went back to the pool
        pass
    with ledger.engine.begin() as connection:  # of somebody who knows of no end
        at_end(connection, lambda _: done.append("at once"))
        done.append("body")
    assert done[3:] == ["at once", "body"]


def test_what_fails_at_the_end_undoes_all(ledger: Ledger) -> None:
    def fail(_: Connection) -> None:
        raise ValueError("no")

    def enter() -> None:
        with ledger.writing() as connection:
            event_chain.append(connection, "refused", NOON)
            at_end(connection, fail)

    with pytest.raises(ValueError, match="no"):
        enter()
    assert kinds(ledger) == []


def test_an_event_waits_for_others_only_when_nothing_else_is_to_be_done(server: Ledger) -> None:
    """Whoever holds the chain wants no row any more: so none can wait for it in a circle."""
    first, second = threading.Event(), threading.Event()

    def one() -> None:
        with server.writing() as connection:
            event_chain.append(connection, "refused", NOON)
            first.set()
            assert second.wait(60)
            connection.execute(text("UPDATE alembic_version SET version_num = version_num"))

    def other() -> None:
        assert first.wait(60)
        with server.writing() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = version_num"))
            event_chain.append(connection, "refused", NOON)
            second.set()

    all_at_once([one, other])
    assert kinds(server) == ["refused"] * 2


# ---- many at once on a server ------------------------------------------------------------------------------------


def test_many_at_once_make_the_same_deliveries_pending(server: Ledger) -> None:
    with_results(server, 30)
    redeliver = [lambda: Deliveries(server).redeliver(NOON, include_sent=True)] * 12
    assert all_at_once(redeliver) == [30] * 12
    assert kinds(server).count("redelivery") == 12 * 30


def test_many_couriers_enter_at_once_what_was_sent(server: Ledger) -> None:
    with_results(server, 63)
    deliveries = Deliveries(server, Queue(server))
    claimed = deliveries.claim("pacs", NOON, 63)
    assert len(claimed) == 63
    all_at_once([partial(deliveries.mark_sent, each, 0, NOON) for each in claimed])
    assert server.counts()["delivery_sent"] == 63
    assert kinds(server).count("delivered") == 63


def test_what_is_given_up_and_sent_again_at_once_does_not_wait_in_a_circle(
    server: Ledger, postgres_ledger_url: str
) -> None:
    with_results(server, 3)
    holder = create_engine(postgres_ledger_url)
    watch = create_engine(postgres_ledger_url, isolation_level="AUTOCOMMIT")
    blocked = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )

    def await_blocked(count: int) -> None:
        with watch.connect() as connection:
            wait_for(lambda: connection.scalar(blocked) == count)

    def give_up() -> int:
        return Deliveries(server).give_up("pacs", NOON + SECOND, "too long", NOON)

    def redeliver() -> int:
        await_blocked(1)
        return Deliveries(server).redeliver(NOON)

    with holder.connect() as connection:
        connection.execute(text("SELECT id FROM task WHERE kind = 'deliver' FOR UPDATE"))

        def release() -> int:
            await_blocked(2)
            connection.rollback()
            return 0

        assert sorted(all_at_once([give_up, redeliver, release])) == [0, 3, 3]
    holder.dispose()
    watch.dispose()
    assert server.counts()["delivery_pending"] == 3
    assert len(Deliveries(server).claim("pacs", NOON, 9)) == 3


def test_files_are_marked_as_deleted_while_images_are_received_again(server: Ledger) -> None:
    """The one holds the images and wants the chain, the other the chain, and an image to refer to."""
    numbers = []
    for image in range(20):
        numbers.append(received(server, sop_instance_uid=f"1.{image}", sha256=f"{image:064x}"))
        record_finding(server, numbers[-1], FINDING, [], NOON)
    retention = Retention(server, "")

    def again() -> int:
        for image in range(20):
            with contextlib.suppress(FileDeleted):  # it is to be placed anew, and restored
                server.receive(replace(NEW, sop_instance_uid=f"1.{image}", sha256=f"{image:064x}"))
        return 0

    def mark() -> int:
        return sum(
            len(retention.mark(numbers[start : start + 5], ["received"], NOON, "age")) for start in (0, 5, 10, 15)
        )

    assert sum(all_at_once([again, mark] * 6)) == 20


def test_what_is_deleted_meanwhile_is_not_sent_again(server: Ledger) -> None:
    """And what is to be sent again meanwhile is not deleted: whoever comes second sees what the first has done."""
    with_results(server, 3)
    deliveries = Deliveries(server, Queue(server))
    for each in deliveries.claim("pacs", NOON, 9):
        deliveries.mark_sent(each, 0, NOON)
    with server.reading() as connection:
        numbers = list(connection.scalars(text("SELECT id FROM receipt")))
    retention = Retention(server, "")
    acts = [
        lambda: deliveries.redeliver(NOON, include_sent=True),
        lambda: -len(retention.mark(numbers, ["results"], NOON, "age")),
    ]
    for _ in range(10):
        assert sorted(all_at_once(acts)) in ([-1, 0], [0, 3])
        with server.writing() as connection:
            gone = "SELECT count(*) FROM result WHERE deleted_at IS NOT NULL"
            waits = "SELECT count(*) FROM delivery WHERE state = 'pending'"
            assert 0 in (connection.scalar(text(gone)), connection.scalar(text(waits)))
            connection.execute(text("UPDATE result SET deleted_at = NULL"))
        for each in deliveries.claim("pacs", NOON, 9):
            deliveries.mark_sent(each, 0, NOON)


@pytest.mark.parametrize("sql", ["UPDATE receipt SET nothing = 1", "UPDATE nothing SET id = 1"])
def test_a_schema_that_is_not_ours_is_the_database_s_fault(patient: Ledger, sql: str) -> None:
    with pytest.raises(OutOfResources), patient.writing() as connection:
        connection.execute(text(sql))


def test_a_database_that_takes_no_changes_is_said_to(server: Ledger) -> None:
    def change() -> None:
        with server.writing() as connection:
            connection.execute(text("SET TRANSACTION READ ONLY"))
            connection.execute(text("UPDATE alembic_version SET version_num = version_num"))

    with pytest.raises(OutOfResources, match="takes no changes"):
        change()


def test_the_chain_does_not_fork_whatever_the_servers_default_is(postgres_ledger_url: str) -> None:
    name = postgres_ledger_url.rsplit("/", 1)[1]
    admin = create_engine(databases.POSTGRES, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"))
    admin.dispose()
    for ledger in opened(postgres_ledger_url):
        with ledger.reading() as connection:
            assert connection.scalar(text("SHOW default_transaction_isolation")) == "repeatable read"

        def enter(ledger: Ledger = ledger) -> None:
            for _ in range(10):
                ledger.record_event("refused", NOON, {"reason": "r"})

        all_at_once([enter] * 9)
        assert kinds(ledger) == ["refused"] * 90


def test_a_server_s_connections_are_not_waited_for_for_ever(postgres_ledger_url: str) -> None:
    for ledger in opened(postgres_ledger_url, Patience(busy=0.1, connect=0.1, pool=1)):
        with ledger.reading() as first, ledger.reading() as second:
            first.execute(text("SELECT 1"))
            second.execute(text("SELECT 1"))
            for using in (ledger.reading, ledger.writing):
                with pytest.raises(OutOfResources, match="all connections to the ledger are in use"), using():
                    pass
        # What another process has locked is not waited for for ever either.
        with ledger.writing() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = version_num"))
            with pytest.raises(OutOfResources, match="locked by another process"), ledger.writing() as other:
                other.execute(text("UPDATE alembic_version SET version_num = version_num"))


# ---- many at once on both ----------------------------------------------------------------------------------------


def duplicates(ledger: Ledger, count: int) -> list[Callable[[], int | None]]:
    """Return so many receipts of the same object, each with File Meta Information of its own."""
    same = replace(NEW, content_sha256="c" * 64)
    return [partial(ledger.receive, replace(same, sha256=f"{n:064x}")) for n in range(count)]


def test_each_of_many_duplicates_leaves_an_event(patient: Ledger) -> None:
    received(patient, content_sha256="c" * 64)
    assert all_at_once(duplicates(patient, 40)) == [None] * 40
    assert kinds(patient) == ["received"] + ["received_again"] * 40
    with patient.reading() as connection:
        same = connection.scalar(text("SELECT count(*) FROM event WHERE detail LIKE '%\"same_bytes\": true%'"))
    assert same == 0


def test_of_many_that_come_at_once_one_is_received_and_each_other_leaves_an_event(patient: Ledger) -> None:
    results = all_at_once(duplicates(patient, 40))
    assert len([each for each in results if each is not None]) == 1
    assert kinds(patient) == ["received"] + ["received_again"] * 39


def test_of_many_contents_that_come_at_once_each_is_a_version(patient: Ledger) -> None:
    contents = [replace(NEW, sha256=f"{n:064x}", content_sha256=f"{n % 20:064x}") for n in range(40)]
    results = all_at_once([partial(patient.receive, each) for each in contents])
    assert sorted(each for each in results if each is not None) == list(range(1, 21))
    assert sorted(kinds(patient)) == ["received"] * 20 + ["received_again"] * 20
    with patient.reading() as connection:
        rows = connection.execute(text("SELECT version, content_sha256 FROM receipt ORDER BY version")).all()
    assert [row[0] for row in rows] == list(range(1, 21))
    assert len({row[1] for row in rows}) == 20


# ---- many at once in a file --------------------------------------------------------------------------------------


def test_many_threads_write_to_a_file_and_none_is_refused(sqlite_url: str) -> None:
    # SQLite itself would refuse whoever does not find it free within a moment.
    engine = databases.opened(sqlite_url, busy_timeout=0.05)
    ledger = Ledger(engine, LONG.busy)

    def enter() -> None:
        for _ in range(5):
            ledger.record_event("refused", NOON, {"reason": "r"})

    all_at_once([enter] * 24)
    assert kinds(ledger) == ["refused"] * 120
    engine.dispose()


def test_two_ledgers_of_one_file_take_turns(sqlite_url: str, tmp_path: Path) -> None:
    engines = [connect(sqlite_url, busy_timeout=0.05), connect(f"sqlite:///{tmp_path}/./ledger.sqlite", 0.05)]
    migrations.upgrade(engines[0])
    first, second = (Ledger(engine, 0.05) for engine in engines)
    entered = threading.Event()
    with first.writing():
        with pytest.raises(OutOfResources, match="locked by another process"), second.writing():
            entered.set()
        assert not entered.is_set()
    with second.writing():
        entered.set()
    for engine in engines:
        engine.dispose()
