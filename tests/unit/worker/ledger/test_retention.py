"""Only what is done with may be deleted, and its rows say so."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select, update

from tests.support.ledgers import fail, record_finding, waiting
from tests.unit.worker.ledger.test_receipts import FINDING, NOON, RESULT, received
from worker.engines.housekeeper import BOTH, remove
from worker.ledger import verification
from worker.ledger.commitments import Commitments
from worker.ledger.deliveries import Deliveries
from worker.ledger.queries import story
from worker.ledger.reanalyses import Criteria, Reanalyses
from worker.ledger.receipts import Ledger
from worker.ledger.retention import Order, Retention, oldest_kept
from worker.ledger.tables import DeliveryRow, DeliveryState, ReceiptRow, ResultRow
from worker.queue.claim import put
from worker.queue.task import Kind
from worker.settings import Storage
from worker.storage.blobs import Blobs
from worker.storage.orphans import Owner

DAY = dt.timedelta(days=1)
LATER = NOON + 30 * DAY
STORE = "a" * 32


def answered(ledger: Ledger, name: str, *, at: dt.datetime = NOON, delivery: str = DeliveryState.SENT) -> int:
    """Enter an image that was answered, with one result and a delivery of it; `name` makes their digests."""
    number = received(ledger, sop_instance_uid=f"1.{name}", sha256=name * 64, received_at=at, store=STORE)
    result = replace(RESULT, sop_instance_uid=f"2.{name}", sha256=f"{name}f" * 32, destinations=("pacs",), store=STORE)
    record_finding(ledger, number, FINDING, [result], at)
    if delivery != DeliveryState.PENDING:
        deliveries = Deliveries(ledger)
        for each in deliveries.claim("pacs", at, 9):
            if delivery == DeliveryState.SENT:
                deliveries.mark_sent(each, 0x0000, at)
            else:
                deliveries.mark_failed(each, None, "refused", at)
    return number


@pytest.fixture
def retention(ledger: Ledger) -> Retention:
    return Retention(ledger, STORE)


def test_what_is_done_with_may_go_the_oldest_first(ledger: Ledger, retention: Retention) -> None:
    new, old = answered(ledger, "1", at=NOON + DAY), answered(ledger, "2")
    assert retention.due("received", LATER, 9) == retention.due("results", LATER, 9) == [old, new]
    assert retention.due("received", LATER, 1) == [old]
    assert retention.due("results", NOON, 9) == [old]
    assert retention.due("received", NOON - DAY, 9) == []
    with ledger.reading() as connection:
        assert oldest_kept(connection) == NOON


def test_a_backlog_never_goes(ledger: Ledger, retention: Retention) -> None:
    waits = received(ledger, sop_instance_uid="1.8", sha256="8" * 64)
    failed = received(ledger, sop_instance_uid="1.9", sha256="9" * 64)
    fail(ledger, failed, "damaged", NOON)
    refused = answered(ledger, "2", delivery=DeliveryState.FAILED)
    to_commit, to_read = answered(ledger, "3"), answered(ledger, "4")
    pending = answered(ledger, "1", delivery=DeliveryState.PENDING)
    with ledger.writing() as connection:
        of_it = select(DeliveryRow.id).join(ResultRow).where(ResultRow.receipt_id == to_commit)
        put(connection, Kind.COMMIT, connection.scalars(of_it).one(), NOON, target="pacs")
        put(connection, Kind.REANALYSE, to_read, NOON, target="m")
    every = [waits, failed, pending, refused, to_commit, to_read]
    assert retention.due("received", LATER, 9) == retention.due("results", LATER, 9) == []
    assert retention.mark(every, BOTH, LATER, "age") == []
    # A person may order that what has failed, or was not committed to, is deleted; then nobody asks for it any more.
    ordered = retention.mark(every, BOTH, LATER, "ordered", ordered=True)
    assert [each.receipt_id for each in ordered] == [failed, refused, to_commit]
    assert waiting(ledger, LATER, Kind.COMMIT) == []


def test_what_was_not_committed_to_does_not_go_by_itself(ledger: Ledger, retention: Retention) -> None:
    """The node said that it commits, and never did: unless it is not to be asked any more, or a person orders it."""
    first, second = answered(ledger, "1"), answered(ledger, "2")
    desk = Commitments(ledger)
    with ledger.writing() as connection:
        for number in connection.scalars(select(DeliveryRow.id)).all():
            put(connection, Kind.COMMIT, number, NOON, target="pacs")
    due = desk.claim("pacs", NOON, 9)
    desk.enter_request("2.25.1", due, NOON)
    desk.mark_asked("2.25.1", due, NOON, NOON)
    for each in desk.claim("pacs", NOON, 9):
        desk.give_up(each, "asked once, and no report came", NOON)
    assert retention.due("results", LATER, 9) == retention.due("received", LATER, 9) == []
    assert len(retention.mark([first], BOTH, LATER, "ordered", ordered=True)) == 1
    desk.withdraw("pacs")
    assert retention.due("results", LATER, 9) == [second]


def test_the_rows_stay_and_say_so(ledger: Ledger, retention: Retention) -> None:
    number = answered(ledger, "1")
    (deletion,) = retention.mark([number], ["received"], LATER, "age")
    assert (deletion.sha256, deletion.size_bytes) == (("1" * 64,), 10)
    assert retention.mark([number], ["received"], LATER, "age") == []
    (deletion,) = retention.mark([number], BOTH, LATER, "space")
    assert (deletion.sha256, deletion.size_bytes) == (("1f" * 32,), 20)
    found = story(ledger, str(number))
    assert found is not None
    assert found["finding"]["deleted_at"] == found["results"][0]["deleted_at"] == "2026-03-02 12:00:00.000000"
    events = [(each["kind"], each["detail"]) for each in found["events"] if each["kind"] == "deleted"]
    assert [kind for kind, _ in events] == ["deleted", "deleted"]
    assert '"why": "age"' in events[0][1]
    with ledger.reading() as connection:
        assert verification.verify(connection)[1] == []
        assert oldest_kept(connection) is None


def test_what_lies_in_another_store_is_not_ours(ledger: Ledger, retention: Retention) -> None:
    number = answered(ledger, "1")
    with ledger.writing() as connection:
        connection.execute(update(ReceiptRow).values(store="b" * 32))
    assert retention.due("received", LATER, 9) == []
    (deletion,) = retention.mark([number], BOTH, LATER, "age")
    assert deletion.sha256 == ("1f" * 32,)
    assert retention.choose(Order(study="1.2")).elsewhere == 1


def test_what_is_deleted_is_neither_sent_nor_read_again(ledger: Ledger, retention: Retention) -> None:
    number = answered(ledger, "1")
    retention.mark([number], BOTH, LATER, "age")
    assert Deliveries(ledger).redeliver(LATER, include_sent=True) == 0
    chosen = Reanalyses(ledger).choose(Criteria(), "0" * 64)
    assert (chosen.receipt_ids, chosen.deleted) == ((), 1)
    assert ledger.deleted([number, 99]) == {number: LATER}
    failed = received(ledger, sop_instance_uid="1.9", sha256="9" * 64)
    fail(ledger, failed, "damaged", NOON)
    retention.mark([failed], BOTH, LATER, "ordered", ordered=True)
    assert ledger.requeue([failed], LATER) == 0


def test_an_order_names_study_patient_or_time(ledger: Ledger, retention: Retention) -> None:
    first, second = answered(ledger, "1"), answered(ledger, "2", at=NOON + DAY)
    waits = received(ledger, sop_instance_uid="1.9", sha256="9" * 64)
    chosen = retention.choose(Order(study="1.2"))
    assert (chosen.receipt_ids, chosen.size_bytes, chosen.unfinished) == ((first, second), 60, 1)
    assert retention.choose(Order(before=NOON + DAY)).receipt_ids == (first,)
    assert retention.choose(Order(patient_key="k", before=NOON)).receipt_ids == ()
    assert retention.choose(Order(patient_key="nobody")) == retention.choose(Order(study="9"))
    retention.mark([first], BOTH, LATER, "ordered", ordered=True)
    chosen = retention.choose(Order(study="1.2"))
    assert (chosen.receipt_ids, chosen.unfinished, chosen.gone) == ((second,), 1, 1)
    assert waits not in chosen.receipt_ids


def test_a_file_that_two_rows_own_goes_with_the_last(ledger: Ledger, retention: Retention, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "objects")
    sha256 = blobs.put(b"the same bytes")
    first, second = answered(ledger, "1"), answered(ledger, "2")
    with ledger.writing() as connection:
        connection.execute(update(ResultRow).values(sha256=sha256, store=blobs.store))
        connection.execute(update(ReceiptRow).values(store=blobs.store))
    ours = Retention(ledger, blobs.store)
    moment = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1)
    assert remove(blobs, ours, ours.mark([first], ["results"], moment, "age"), moment) == 0
    assert ours.owners(sha256[:2]) == {sha256: Owner(received=False)}
    assert remove(blobs, ours, ours.mark([second], ["results"], moment, "age"), moment) == len(b"the same bytes")
    assert ours.owners(sha256[:2]) == {sha256: Owner(received=False, deleted_at=moment)}
    assert blobs.every(sha256) == []


def test_settings_that_refuse_images_before_they_make_room_are_said() -> None:
    with pytest.raises(ValueError, match="must be above min_free_mb"):
        Storage(min_free_mb=3000, make_room_mb=2000)
    assert Storage(min_free_mb=3000).room_bytes == 12_000_000_000
    assert Storage(min_free_mb=3000, make_room_mb=0).room_bytes == 0
