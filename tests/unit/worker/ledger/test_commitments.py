"""Storage commitment in the ledger: what a node says counts once, whichever process hears it, and whenever."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from dicom_io.network.commitment_messages import Failed, Reference, Report
from tests.support.ledgers import record_finding, task_row
from tests.unit.worker.ledger.test_receipts import FINDING, NOON, RESULT, SECOND, kinds, received
from worker.ledger import overview, verification
from worker.ledger.commitments import Commitments, ReportOutcome
from worker.ledger.deliveries import RESENDS, Deliveries
from worker.ledger.queries import story
from worker.ledger.receipts import Ledger
from worker.ledger.records import DueCommitment
from worker.queue.claim import LEASE, Queue
from worker.queue.task import Kind

AFTER = dt.timedelta(minutes=1)
HOUR = dt.timedelta(hours=1)
LATE = NOON + HOUR


def sent(ledger: Ledger, count: int = 1, sent_as: str = "") -> int:
    """Send results of an image to `pacs`; return the image's number."""
    number = received(ledger)
    results = [replace(RESULT, sop_instance_uid=f"2.25.{n}", destinations=("pacs",)) for n in range(1, count + 1)]
    record_finding(ledger, number, FINDING, results, NOON)
    deliver(ledger, NOON, sent_as)
    return number


def deliver(ledger: Ledger, now: dt.datetime, sent_as: str = "") -> None:
    deliveries = Deliveries(ledger)
    for each in deliveries.claim("pacs", now, 99):
        deliveries.mark_sent(each, 0, now, sent_as, commit_after=AFTER)


def ask(ledger: Ledger, uid: str, now: dt.datetime = LATE) -> list[DueCommitment]:
    """Take what is due in hand and enter that the node was asked."""
    desk = Commitments(ledger)
    due = desk.claim("pacs", now, 99)
    desk.enter_request(uid, due, now)
    desk.mark_asked(uid, due, now, now + HOUR)
    return due


def report(due: Sequence[DueCommitment], uid: str, *reasons: int) -> Report:
    """Return a report that gives these reasons for the first ones; the others are committed."""
    every = [Reference(each.sop_class_uid, each.sop_instance_uid) for each in due]
    failed = tuple(Failed(each, reason) for each, reason in zip(every, reasons, strict=False))
    return Report(uid, tuple(every[len(reasons) :]), failed, "PACS")


def states(ledger: Ledger, number: int) -> list[tuple[str, str]]:
    found = story(ledger, str(number))
    assert found is not None
    with ledger.reading() as connection:
        assert verification.verify(connection)[1] == []
    return [(each["state"], each["error"]) for each in found["deliveries"]]


def row(ledger: Ledger) -> dict[str, Any]:
    found = task_row(ledger, 1, Kind.COMMIT)
    assert found is not None
    return found


def test_what_is_sent_is_to_be_committed_a_little_later(ledger: Ledger) -> None:
    number = sent(ledger)
    assert row(ledger)["due_at"] == NOON + AFTER
    desk = Commitments(ledger)
    assert not desk.has_due("pacs", NOON)
    assert desk.has_due("pacs", NOON + AFTER)
    assert not desk.has_due("other", NOON + AFTER)
    assert states(ledger, number) == [("sent", "")]


def test_a_destination_that_is_not_asked_has_no_task(ledger: Ledger) -> None:
    number = received(ledger)
    record_finding(ledger, number, FINDING, [replace(RESULT, destinations=("pacs",))], NOON)
    deliveries = Deliveries(ledger)
    deliveries.mark_sent(deliveries.claim("pacs", NOON, 1)[0], 0, NOON)
    assert task_row(ledger, 1, Kind.COMMIT) is None


def test_a_report_commits_whoever_hears_it_and_counts_once(ledger: Ledger) -> None:
    number = sent(ledger, 3)
    due = ask(ledger, "2.25.9")
    assert len(due) == 3
    heard_by = Commitments(ledger)  # another process than the one that asked
    outcome = heard_by.enter_report(report(due, "2.25.9"), LATE + SECOND)
    assert outcome == ReportOutcome("pacs", committed=3)
    assert states(ledger, number) == [("committed", "")] * 3
    assert heard_by.enter_report(report(due, "2.25.9"), LATE + HOUR) == ReportOutcome("pacs")
    assert kinds(ledger, number).count("committed") == 3
    assert task_row(ledger, 1, Kind.COMMIT) is None
    found = story(ledger, str(number))
    assert found is not None
    assert [each["committed_at"][:19] for each in found["deliveries"]] == ["2026-01-31 13:00:01"] * 3
    assert found["finding"]["delivered"] == 3


def test_a_report_on_an_unknown_transaction_changes_nothing(ledger: Ledger) -> None:
    number = sent(ledger)
    due = ask(ledger, "2.25.9")
    assert Commitments(ledger).enter_report(report(due, "2.25.10"), LATE) is None
    stranger = Report("2.25.9", (Reference("1.2.840.10008.5.1.4.1.1.7", "2.25.77"),))
    assert Commitments(ledger).enter_report(stranger, LATE) == ReportOutcome("pacs")
    assert states(ledger, number) == [("sent", "")]


def test_a_lossy_copy_is_asked_about_by_its_own_uid(ledger: Ledger) -> None:
    sent(ledger, sent_as="2.25.555")
    (due,) = Commitments(ledger).claim("pacs", LATE, 9)
    assert due.sop_instance_uid == "2.25.555"


def test_what_the_node_does_not_have_is_sent_again_a_few_times_and_then_failed(ledger: Ledger) -> None:
    number = sent(ledger)
    now = NOON
    for loss in range(RESENDS):
        now += dt.timedelta(days=1)
        due = ask(ledger, f"2.25.9{loss}", now)
        outcome = Commitments(ledger).enter_report(report(due, f"2.25.9{loss}", 0x0112), now)
        assert outcome is not None
        assert (outcome.sent_again, outcome.reasons) == (1, {"the node does not have it (0x0112)"})
        words = "it was taken, but is not committed: the node does not have it (0x0112)"
        assert states(ledger, number) == [("pending", words)]
        deliver(ledger, now)
        assert row(ledger)["due_at"] == now + AFTER * 5 ** (loss + 1)
        assert states(ledger, number) == [("sent", "")]
    now += dt.timedelta(days=1)
    due = ask(ledger, "2.25.99", now)
    outcome = Commitments(ledger).enter_report(report(due, "2.25.99", 0x0112), now)
    assert outcome is not None
    assert (outcome.failed, outcome.sent_again) == (1, 0)
    assert states(ledger, number) == [("failed", words)]
    assert kinds(ledger, number)[-1] == "delivery_failed"
    assert kinds(ledger, number).count("commitment_failed") == RESENDS
    # `cxrd redeliver` begins anew, with all attempts before it.
    Deliveries(ledger).redeliver(now)
    deliver(ledger, now)
    assert row(ledger)["due_at"] == now + AFTER


@pytest.mark.parametrize(
    ("reason", "state", "task_left"),
    [
        (0x0119, "failed", False),  # it has something else under this UID: sending again does not help
        (0x0122, "sent", False),  # it commits to no instance of this class
        (0x0110, "sent", True),  # these may pass
        (0x0213, "sent", True),
        (0x0131, "sent", True),
        (0x7777, "sent", True),
    ],
)
def test_other_reasons(ledger: Ledger, reason: int, state: str, task_left: bool) -> None:
    number = sent(ledger, 2)
    due = ask(ledger, "2.25.9")
    Commitments(ledger).enter_report(report(due, "2.25.9", reason), LATE)
    first, second = states(ledger, number)
    assert (first[0], second) == (state, ("committed", ""))
    assert (task_row(ledger, 1, Kind.COMMIT) is not None) == task_left
    assert f"0x{reason:04X}" in (row(ledger)["reason"] if task_left else first[1])


def test_a_report_that_is_faster_than_the_answer_to_the_request_stands(ledger: Ledger) -> None:
    number = sent(ledger, 2)
    desk = Commitments(ledger)
    due = desk.claim("pacs", LATE, 9)
    desk.enter_request("2.25.9", due, LATE)
    partial = Report("2.25.9", report(due[:1], "2.25.9").committed, (), "PACS")
    Commitments(ledger).enter_report(partial, LATE)
    desk.mark_asked("2.25.9", due, LATE, LATE + HOUR)
    assert [state for state, _ in states(ledger, number)] == ["committed", "sent"]
    assert task_row(ledger, 2, Kind.COMMIT) is not None
    assert desk._queue.in_hand() == []


def test_killed_between_request_and_entry_it_is_asked_again_and_either_report_counts(ledger: Ledger) -> None:
    number = sent(ledger)
    dead = Commitments(ledger)
    due = dead.claim("pacs", LATE, 9)
    dead.enter_request("2.25.9", due, LATE)  # and SIGKILL
    later = LATE + dt.timedelta(seconds=LEASE)
    assert ask(ledger, "2.25.10", later)[0].task.attempts == 2
    Commitments(ledger).enter_report(report(due, "2.25.9"), later)
    assert states(ledger, number) == [("committed", "")]
    late = Commitments(ledger).enter_report(report(due, "2.25.10", 0x0112), later)
    assert late == ReportOutcome("pacs")  # what is committed stays so
    assert states(ledger, number) == [("committed", "")]


def test_a_request_that_did_not_reach_the_node_leaves_nothing(ledger: Ledger) -> None:
    sent(ledger)
    desk = Commitments(ledger)
    due = desk.claim("pacs", LATE, 9)
    desk.enter_request("2.25.9", due, LATE)
    desk.hand_back("2.25.9", due, "it cannot be reached")
    assert (row(ledger)["attempts"], row(ledger)["reason"]) == (0, "it cannot be reached")
    with ledger.reading() as connection:
        assert connection.scalar(text("SELECT count(*) FROM commitment")) == 0


def test_given_up_it_stays_sent_and_a_late_report_still_counts(ledger: Ledger) -> None:
    number = sent(ledger)
    asked = ask(ledger, "2.25.9")
    desk = Commitments(ledger)
    (due,) = desk.claim("pacs", LATE + HOUR, 9)
    with ledger.reading() as connection:
        group = overview.uncommitted(connection)["pacs"]
    assert (group.waiting, group.most_requests, group.given_up, group.since) == (1, 2, 0, NOON)
    assert desk.give_up(due, "asked 1 times, and no report came", LATE + HOUR)
    assert not desk.give_up(due, "asked 1 times, and no report came", LATE + HOUR)
    assert states(ledger, number) == [("sent", "not committed: asked 1 times, and no report came")]
    assert kinds(ledger, number)[-1] == "commitment_given_up"
    with ledger.reading() as connection:
        group = overview.uncommitted(connection)["pacs"]
    assert (group.waiting, group.given_up, group.latest) == (0, 1, NOON)
    Commitments(ledger).enter_report(report(asked, "2.25.9"), LATE + 9 * HOUR)
    assert states(ledger, number) == [("committed", "")]
    with ledger.reading() as connection:
        assert overview.uncommitted(connection) == {}


def test_what_is_delivered_again_is_asked_about_anew_and_old_answers_do_not_count(ledger: Ledger) -> None:
    number = sent(ledger)
    due = ask(ledger, "2.25.9")
    assert Deliveries(ledger).redeliver(LATE, include_sent=True) == 1
    assert task_row(ledger, 1, Kind.COMMIT) is None
    assert Commitments(ledger).enter_report(report(due, "2.25.9"), LATE) is None
    assert states(ledger, number)[0][0] == "pending"
    deliver(ledger, LATE)
    assert row(ledger)["due_at"] == LATE + AFTER


def test_withdrawn_nothing_waits(ledger: Ledger) -> None:
    number = sent(ledger, 3)
    desk = Commitments(ledger, Queue(ledger))
    desk.claim("pacs", LATE, 1)
    assert desk.withdraw("pacs") == 3
    assert desk._queue.in_hand() == []
    assert states(ledger, number) == [("sent", "")] * 3


def test_what_was_received_is_known_with_its_file(ledger: Ledger) -> None:
    received(ledger)
    found = Commitments(ledger).received(["1.2.3", "1.2.4", *(f"9.{n}" for n in range(1200))])
    assert found == {"1.2.3": [("1.2.840.10008.5.1.4.1.1.1", "a" * 64, 10)]}
