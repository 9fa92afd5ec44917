"""The ledger on SQLite and on PostgreSQL: nothing twice, nothing lost, every step in the chain."""

from __future__ import annotations

import datetime as dt
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from dicom_io.errors import InvalidSettings, OutOfResources
from dicom_io.finding import Finding, ModelIdentity
from tests.support import databases
from tests.support.disk import fill, small_disk
from tests.support.ledgers import claim_of, due, fail, record_finding, task_of, task_row, waiting
from worker.database.columns import Table
from worker.database.connection import connect
from worker.database.outage import outage
from worker.ledger import migrations, verification
from worker.ledger.deliveries import Deliveries
from worker.ledger.queries import Filter, findings, story
from worker.ledger.reanalyses import Reanalyses
from worker.ledger.receipts import Ledger
from worker.ledger.records import NewFinding, NewReceipt, NewResult
from worker.queue.breaker import BreakerRow
from worker.queue.claim import LEASE, LeaseLost, Queue
from worker.queue.task import Kind

NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)
NEW = NewReceipt(
    sop_instance_uid="1.2.3",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
    study_instance_uid="1.2",
    series_instance_uid="1.2.1",
    transfer_syntax_uid="1.2.840.10008.1.2.1",
    modality="CR",
    accession_number="A1",
    patient_key="k",
    calling_ae="PACS",
    called_ae="CXRD",
    peer_address="127.0.0.1",
    sha256="a" * 64,
    size_bytes=10,
    received_at=NOON,
)
FINDING = NewFinding(ModelIdentity("net", "1.0.0", "f" * 64), Finding(0.93, "PNEUMONIA", 0.5), 0.5, 0.2, NOON)
RESULT = NewResult("secondary-capture", "1.2.840.10008.5.1.4.1.1.7", "2.25.1", "2.25.2", "b" * 64, 20)


def received(ledger: Ledger, **changes: object) -> int:
    number = ledger.receive(replace(NEW, **changes))  # type: ignore[arg-type]
    assert number is not None
    return number


def answered(ledger: Ledger, destinations: tuple[str, ...] = ("pacs",)) -> int:
    number = received(ledger)
    record_finding(ledger, number, FINDING, [replace(RESULT, destinations=destinations)], NOON)
    return number


def kinds(ledger: Ledger, number: int) -> list[str]:
    """Return the kinds of the events of a receipt."""
    found = story(ledger, str(number))
    assert found is not None
    return [each["kind"] for each in found["events"]]


def test_a_second_copy_changes_nothing(ledger: Ledger) -> None:
    copy = replace(NEW, content_sha256="d" * 64)
    number = received(ledger, content_sha256="d" * 64)
    assert ledger.receive(copy) is None
    assert ledger.receive(replace(copy, sha256="c" * 64)) is None  # its File Meta Information is another
    assert waiting(ledger, NOON) == [number]
    found = story(ledger, "1.2.3")
    assert found is not None
    assert [each["kind"] for each in found["events"]] == ["received", "received_again", "received_again"]
    assert '"same_bytes": false' in found["events"][2]["detail"]
    assert found["finding"]["sha256"] == "a" * 64


def test_many_at_once_enter_one_row(ledger: Ledger) -> None:
    entered: list[int | None] = []
    barrier = threading.Barrier(8)

    def enter() -> None:
        barrier.wait()
        for _ in range(20):
            try:
                entered.append(ledger.receive(NEW))
            except OutOfResources:
                continue
            return
        raise AssertionError("the ledger stayed locked")

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entered) == 8
    assert len([number for number in entered if number is not None]) == 1
    with ledger.reading() as connection:
        assert verification.verify(connection)[1] == []


def test_only_one_worker_gets_a_receipt(ledger: Ledger) -> None:
    number = received(ledger)
    _, claim = claim_of(ledger, number, NOON)
    assert (claim.id, claim.task.attempts, claim.dated_at) == (number, 1, NOON)
    assert Queue(ledger).claim([Kind.ANALYSE], NOON, among="any") == []
    assert waiting(ledger, NOON) == []


def test_a_postponed_receipt_waits_for_its_time(ledger: Ledger) -> None:
    number = received(ledger)
    desk, claim = claim_of(ledger, number, NOON)
    desk.postpone(claim, "disk full", NOON, NOON + 5 * SECOND)
    assert waiting(ledger, NOON + 4 * SECOND) == []
    assert waiting(ledger, NOON + 5 * SECOND) == [number]
    assert task_of(ledger, number, NOON + 5 * SECOND).attempts == 2
    assert kinds(ledger, number) == ["received", "postponed"]


def test_what_is_handed_back_is_as_it_was(ledger: Ledger) -> None:
    number = received(ledger)
    before = task_row(ledger, number)
    desk, claim = claim_of(ledger, number, NOON)
    desk.hand_back(claim, "no model is loaded")
    desk.hand_back(claim, "it is not in hand any more")
    assert before is not None
    assert task_row(ledger, number) == before | {"reason": "no model is loaded"}
    assert kinds(ledger, number) == ["received"]


def test_what_a_dead_process_had_in_hand_is_taken_back(ledger: Ledger) -> None:
    number, moment = received(ledger), NOON
    for crashes in range(3):
        desk, claim = claim_of(ledger, number, moment)
        assert (claim.task.crashes, claim.task.attempts) == (crashes, crashes + 1)
        assert waiting(ledger, moment) == []  # it is in hand
        moment += LEASE * SECOND
        assert waiting(ledger, moment) == []  # its turn comes alone, and not among others
    desk.fail(claim, "the worker died", moment)
    assert findings(ledger, Filter())[0]["attempts"] == 3
    assert ledger.requeue([number], moment) == 1
    _, claim = claim_of(ledger, number, moment)
    assert (claim.task.crashes, claim.task.attempts) == (0, 1)


def test_an_outcome_counts_only_where_the_task_is_still_ours(ledger: Ledger) -> None:
    """A worker that stood still until its lease ran out changes nothing, whatever it has to say."""
    number = received(ledger)
    desk, old = claim_of(ledger, number, NOON)
    other, new = claim_of(ledger, number, NOON + LEASE * SECOND)
    before = findings(ledger, Filter()), task_row(ledger, number), kinds(ledger, number)
    late = [replace(RESULT, destinations=("pacs",))]
    with pytest.raises(LeaseLost):
        desk.record_finding(old, FINDING, late, NOON)
    with pytest.raises(LeaseLost):
        desk.leave_out(old, "no", NOON, results=late, outside=FINDING)
    with pytest.raises(LeaseLost):
        desk.fail(old, "no", NOON)
    with pytest.raises(LeaseLost):
        desk.postpone(old, "no", NOON, NOON)
    desk.hand_back(old, "no")
    assert (findings(ledger, Filter()), task_row(ledger, number), kinds(ledger, number)) == before
    assert not ledger.is_result(RESULT.uid)
    other.record_finding(new, FINDING, [], NOON)
    with pytest.raises(LeaseLost):
        other.fail(new, "once is enough", NOON)
    assert ledger.counts() == {"analysed": 1}
    with ledger.reading() as connection:
        assert verification.verify(connection)[1] == []


def test_failed_images_are_given_back_some_at_a_time(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [received(ledger, sop_instance_uid=f"1.{number}", priority=number % 2) for number in range(5)]
    for number in numbers:
        fail(ledger, number, "no pixels", NOON)
    sizes = counted_events(ledger, "requeued", monkeypatch)
    assert ledger.requeue([*numbers, 999], NOON) == 5
    assert sizes == [2, 2, 1]
    assert ledger.requeue(numbers, NOON) == 0
    assert waiting(ledger, NOON) == numbers[::2] + numbers[1::2]  # by the priority that they came with


def test_an_answer_done_twice_makes_one_result_and_one_delivery(ledger: Ledger) -> None:
    number = answered(ledger)
    record_finding(ledger, number, FINDING, [replace(RESULT, destinations=("pacs",))], NOON)
    assert due(ledger, "pacs", NOON) == ["2.25.1"]
    assert ledger.counts() == {"analysed": 1, "delivery_pending": 1}
    assert ledger.is_result("2.25.1")
    assert not ledger.is_result("1.2.3")


def test_each_task_knows_in_which_store_its_files_lie(ledger: Ledger) -> None:
    number = received(ledger, store="here")

    def store(subject: int, kind: Kind) -> str:
        row = task_row(ledger, subject, kind)
        assert row is not None
        return str(row["store"])

    assert store(number, Kind.ANALYSE) == "here"
    fail(ledger, number, "no pixels", NOON)
    ledger.requeue([number], NOON)
    assert store(number, Kind.ANALYSE) == "here"
    record_finding(ledger, number, FINDING, [replace(RESULT, destinations=("pacs",), store="there")], NOON)
    assert store(1, Kind.DELIVER) == "there"
    deliveries = Deliveries(ledger)
    for delivery in deliveries.claim("pacs", NOON, 9):
        deliveries.mark_sent(delivery, 0, NOON)
    deliveries.redeliver(NOON, include_sent=True)
    assert store(1, Kind.DELIVER) == "there"
    deliveries.read_from("here")
    assert not deliveries.has_due("pacs", NOON)
    assert deliveries.claim("pacs", NOON, 9) == []
    deliveries.read_from("there")
    assert deliveries.has_due("pacs", NOON)
    Reanalyses(ledger).request([number], "net-2.0.0", "e" * 64, "jd", NOON)
    assert store(number, Kind.REANALYSE) == "here"


def test_the_life_of_a_delivery(ledger: Ledger) -> None:
    answered(ledger)
    deliveries = Deliveries(ledger)
    (delivery,) = deliveries.claim("pacs", NOON, 9)
    assert deliveries.claim("pacs", NOON, 9) == deliveries.claim("elsewhere", NOON, 9) == []
    deliveries.postpone(delivery, 0xA700, "busy", NOON, NOON + 9 * SECOND)
    assert deliveries.claim("pacs", NOON, 9) == []
    (delivery,) = deliveries.claim("pacs", NOON + 9 * SECOND, 9)
    assert delivery.task.attempts == 2
    deliveries.mark_failed(delivery, 0xA900, "no", NOON)
    assert deliveries.pending_counts() == {}
    assert deliveries.redeliver(NOON, destination="elsewhere") == 0
    assert deliveries.redeliver(NOON, receipt_ids=[delivery.receipt_id]) == 1
    assert deliveries.pending_counts() == {"pacs": 1}
    with pytest.raises(LeaseLost):
        deliveries.mark_sent(delivery, 0, NOON)  # that attempt has been entered
    (delivery,) = deliveries.claim("pacs", NOON, 9)
    assert delivery.task.attempts == 1
    deliveries.mark_sent(delivery, 0xB000, NOON)
    assert deliveries.redeliver(NOON) == 0
    assert deliveries.redeliver(NOON, include_sent=True) == 1
    found = story(ledger, "2.25.1")
    assert found is not None
    assert found["deliveries"][0]["status"] == "0xB000"
    assert kinds(ledger, delivery.receipt_id) == [
        "received", "analysed", "delivery_postponed", "delivery_failed", "redelivery", "delivered", "redelivery",
    ]  # fmt: skip


def test_the_views_answer_what_was_asked_for(ledger: Ledger) -> None:
    answered(ledger, ("pacs", "archive"))
    received(ledger, sop_instance_uid="1.2.4", received_at=NOON + 60 * SECOND, calling_ae="CT1", accession_number="A2")
    with ledger.reading() as connection:
        row = connection.execute(
            text("SELECT study_instance_uid, delivered, deliveries FROM findings WHERE probability > 0.9")
        ).one()
        assert tuple(row) == ("1.2", 0, 2)
        rows = connection.execute(text("SELECT destination, state FROM deliveries ORDER BY destination")).all()
        assert [tuple(each) for each in rows] == [("archive", "pending"), ("pacs", "pending")]
    expected: list[tuple[Filter, list[str]]] = [
        (Filter(), ["1.2.4", "1.2.3"]),
        (Filter(limit=1), ["1.2.4"]),
        (Filter(since=NOON + 30 * SECOND), ["1.2.4"]),
        (Filter(until=NOON + 30 * SECOND), ["1.2.3"]),
        (Filter(at_least=0.9), ["1.2.3"]),
        (Filter(answer="flagged", status="analysed", study="1.2"), ["1.2.3"]),
        (Filter(answer="not flagged"), []),
        (Filter(calling_ae="CT1"), ["1.2.4"]),
        (Filter(accession="A1"), ["1.2.3"]),
        (Filter(undelivered=True), ["1.2.3"]),
    ]
    for wanted, uids in expected:
        assert [row["sop_instance_uid"] for row in findings(ledger, wanted)] == uids, wanted


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE finding SET probability = 0.1", "probability differs"),
        ("UPDATE finding SET answer = 'not flagged'", "answer differs"),
        ("UPDATE finding SET caution = 'only one lung found'", "caution differs"),
        ("UPDATE finding SET regions = '[]'", "regions differs"),
        ("UPDATE finding SET lungs_count = 1", "lungs_count differs"),
        ("UPDATE finding SET score = 9", "score differs"),
        ("UPDATE event SET detail = replace(detail, '0.93', '0.11') WHERE kind = 'analysed'", "altered"),
        ("DELETE FROM event WHERE kind = 'received'", "removed or altered"),
    ],
)
def test_an_alteration_shows(ledger: Ledger, statement: str, said: str) -> None:
    answered(ledger)
    with ledger.reading() as connection:
        assert verification.verify(connection) == (2, [])
    with ledger.writing() as connection:
        connection.execute(text(statement))
    with ledger.reading() as connection:
        assert any(said in problem for problem in verification.verify(connection)[1])


def test_the_migrations_make_what_the_tables_say(ledger: Ledger) -> None:
    assert BreakerRow.metadata is Table.metadata  # its module is imported
    with ledger.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []


def test_the_revisions_are_those_of_the_migrations(ledger: Ledger) -> None:
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent)).walk_revisions()
    assert tuple(script.revision for script in scripts) == migrations.REVISIONS[::-1]


def test_a_newer_schema_is_refused(ledger: Ledger, sqlite_url: str) -> None:
    engine = databases.opened(sqlite_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InvalidSettings, match="9999"):
        migrations.upgrade(engine)


def test_a_locked_ledger_is_out_of_resources(sqlite_url: str, tmp_path: Path) -> None:
    engine = databases.opened(sqlite_url, busy_timeout=0.05)
    other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(OutOfResources):
        Ledger(engine).receive(NEW)
    other.execute("ROLLBACK")
    other.close()
    assert Ledger(engine).receive(NEW) == 1


@pytest.mark.parametrize("url", ["nonsense", "nodriver+x://a/b", "sqlite+nothing:///x"])
def test_a_wrong_url_is_one_line(url: str) -> None:
    with pytest.raises(InvalidSettings, match=r"ledger\.url"):
        connect(url)


def test_naive_times_are_refused(ledger: Ledger) -> None:
    with pytest.raises(Exception, match="must be aware"):
        waiting(ledger, NOON.replace(tzinfo=None))


def counted_events(ledger: Ledger, kind: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make two rows go into one transaction; return a list of how many events of a kind each one enters."""
    monkeypatch.setattr("worker.ledger.receipts.BATCH_SIZE", 2)
    sizes: list[int] = []
    writing = ledger.writing

    def entered() -> int:
        with ledger.reading() as connection:
            return int(connection.scalar(text("SELECT count(*) FROM event WHERE kind = :kind"), {"kind": kind}) or 0)

    @contextmanager
    def counted() -> Iterator[Connection]:
        before = entered()
        with writing() as connection:
            yield connection
        if entered() != before:
            sizes.append(entered() - before)

    monkeypatch.setattr(ledger, "writing", counted)
    return sizes


def failed_deliveries(ledger: Ledger, count: int) -> Deliveries:
    """Enter results that a destination has refused."""
    results = [replace(RESULT, sop_instance_uid=f"2.25.{each}", destinations=("pacs",)) for each in range(count)]
    record_finding(ledger, received(ledger), FINDING, results, NOON)
    deliveries = Deliveries(ledger)
    for delivery in deliveries.claim("pacs", NOON, count):
        deliveries.mark_failed(delivery, 0xA900, "no", NOON)
    return deliveries


def test_many_deliveries_are_made_pending_some_at_a_time(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    deliveries = failed_deliveries(ledger, 5)
    sizes = counted_events(ledger, "redelivery", monkeypatch)
    assert deliveries.redeliver(NOON) == 5
    assert sizes == [2, 2, 1]
    assert len(due(ledger, "pacs", NOON)) == 5
    with ledger.reading() as connection:
        assert verification.verify(connection)[1] == []


def test_what_waited_too_long_is_given_up_some_at_a_time(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    deliveries = failed_deliveries(ledger, 6)
    deliveries.redeliver(NOON)
    (in_hand,) = deliveries.claim("pacs", NOON, 1)
    sizes = counted_events(ledger, "delivery_failed", monkeypatch)
    assert deliveries.give_up("elsewhere", NOON + SECOND, "too long", NOON) == 0
    assert deliveries.give_up("pacs", NOON, "too long", NOON) == 0
    assert deliveries.give_up("pacs", NOON + SECOND, "too long", NOON) == 5
    assert sizes == [2, 2, 1]
    deliveries.mark_sent(in_hand, 0, NOON)  # which is left to who has it
    found = story(ledger, str(in_hand.receipt_id))
    assert found is not None
    told = [(each["state"], each["error"]) for each in found["deliveries"]]
    assert told == [("sent", "")] + [("failed", "too long")] * 5
    assert deliveries.redeliver(NOON + SECOND) == 5
    assert deliveries.give_up("pacs", NOON + SECOND, "too long", NOON) == 0  # the time runs anew


def test_deliveries_that_were_not_tried_are_as_they_were(ledger: Ledger) -> None:
    number = answered(ledger)
    deliveries = Deliveries(ledger)
    before = task_row(ledger, 1, Kind.DELIVER)
    deliveries.hand_back(deliveries.claim("pacs", NOON, 9))
    assert task_row(ledger, 1, Kind.DELIVER) == before
    deliveries.hand_back(deliveries.claim("pacs", NOON, 9), "pacs cannot be reached")
    found = story(ledger, str(number))
    assert found is not None
    (delivery,) = found["deliveries"]
    assert (delivery["state"], delivery["attempts"], delivery["error"]) == ("pending", 0, "pacs cannot be reached")
    assert kinds(ledger, number) == ["received", "analysed"]


def test_a_full_disk_is_called_by_its_name(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2_000_000) as folder:
        engine = databases.opened(f"sqlite:///{folder / 'ledger.sqlite'}", busy_timeout=0.05)
        filling = fill(folder)

        def until_full(ledger: Ledger) -> None:
            for count in range(400):
                ledger.record_event("refused", NOON, {"reason": "x" * 1000, "count": count})

        with pytest.raises(OutOfResources, match="the disk that holds the ledger is full"):
            until_full(Ledger(engine))
        engine.dispose()
        again = connect(f"sqlite:///{folder / 'ledger.sqlite'}", busy_timeout=0.05)
        with pytest.raises(OutOfResources, match="the disk that holds the ledger is full"):
            until_full(Ledger(again))
        filling.unlink()
        assert received(Ledger(again))
        again.dispose()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ({"sqlite_errorname": "SQLITE_FULL"}, "the disk that holds the ledger is full"),
        ({"sqlstate": "53100"}, "the disk that holds the ledger is full"),
        ({"sqlite_errorname": "SQLITE_BUSY_SNAPSHOT"}, "locked by another process"),
        ({"sqlite_errorname": "SQLITE_IOERR_WRITE"}, "something else"),
        ({"sqlite_errorname": "SQLITE_CORRUPT_INDEX"}, "damaged"),
        ({"sqlite_errorname": "SQLITE_NOTADB"}, "damaged"),
        ({"sqlstate": "25006"}, "takes no changes"),
        ({"sqlstate": "42501"}, "the right to"),
        ({}, "something else"),
    ],
)
def test_what_a_database_error_comes_to(code: dict[str, str], said: str, sqlite_url: str) -> None:
    cause = Exception("no words of the driver")
    for name, value in code.items():
        setattr(cause, name, value)
    found = outage(OperationalError("", {}, cause), connect(sqlite_url), "something else")
    assert said in str(found)
    assert "driver" not in str(found)
