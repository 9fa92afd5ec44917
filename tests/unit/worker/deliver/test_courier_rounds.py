"""Rounds of a courier, with a destination and a clock of the test's own: who is charged, and how often one asks."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from dicom_io.errors import (
    AssociationLost,
    InvalidSettings,
    NotSecure,
    OutOfResources,
    PeerUnavailable,
    UnreadableObject,
)
from dicom_io.network.status import Verdict
from tests.support import databases
from tests.support.ledgers import record_again, record_finding
from tests.unit.worker.ledger.test_receipts import FINDING, NOON, RESULT, SECOND, kinds, received
from worker.deliver.courier import Courier, Office
from worker.deliver.port import Observation, Outcome, outcome_of, refusal, retry
from worker.engines.outcome import Outcomes
from worker.ledger import verification
from worker.ledger.deliveries import Deliveries
from worker.ledger.queries import Filter, findings, story
from worker.ledger.reanalyses import Reanalyses
from worker.ledger.receipts import Ledger
from worker.ledger.records import DueDelivery
from worker.queue.breaker import Breakers
from worker.queue.claim import LEASE, Queue
from worker.settings import OutboxSettings
from worker.storage.blobs import Blobs

SENT = Outcome(Verdict.SENT, 0)


class Place:
    """A destination: counts the sessions, and answers for each result as it is told to; success by default."""

    def __init__(self) -> None:
        self.down = ""
        self.fault: type[PeerUnavailable] = PeerUnavailable
        self.sessions = 0
        self.got: list[str] = []
        self.answers: dict[str, list[Outcome | Exception]] = {}
        self.carries_all = True
        self.on_send: Callable[[str], None] = lambda _: None

    @contextmanager
    def open(self, due: Sequence[DueDelivery], blobs: Blobs) -> Iterator[Place]:
        del blobs
        assert due
        self.sessions += 1
        if self.down:
            raise self.fault(self.down)
        yield self

    def carries(self, delivery: DueDelivery) -> bool:
        del delivery
        return self.carries_all

    def send(self, delivery: DueDelivery) -> Outcome:
        uid = delivery.sop_instance_uid
        self.on_send(uid)
        answers = self.answers.get(uid)
        answer = answers.pop(0) if answers else SENT
        if isinstance(answer, Exception):
            raise answer
        if answer.verdict is Verdict.SENT:
            self.got.append(uid)
        return answer

    def check(self, *, closely: bool, store: bool) -> Iterator[Observation]:
        del closely, store
        return iter(())


class Post:
    """A ledger with an image whose results go to the place, and its courier, which runs only when it is told to."""

    def __init__(self, folder: Path, **settings: float) -> None:
        engine = databases.opened(f"sqlite:///{folder / 'ledger.sqlite'}")
        self.ledger, self.place, self.now = Ledger(engine), Place(), NOON
        self.blobs = Blobs(folder / "objects")
        self.receipt = received(self.ledger)
        self.settings = OutboxSettings(**{"retry_first": 10, "retry_max": 40} | settings)
        self.queue = Queue(self.ledger)
        self.courier = self.made()

    def made(self, first: Courier | None = None) -> Courier:
        outbox = self.settings
        office = Office(
            Deliveries(self.ledger, self.queue),
            self.blobs,
            Breakers(self.ledger, first=outbox.retry_first, most=outbox.retry_max),
            outbox,
            lambda: self.now,
            Outcomes(threading.Event()).enter,
        )
        return Courier("pacs", self.place, office, timeout=30, first=first)

    def add(self, count: int) -> list[str]:
        """Enter results that are due; return their UIDs."""
        uids = [f"2.25.{number}" for number in range(1, count + 1)]
        results = [replace(RESULT, sop_instance_uid=uid, destinations=("pacs",)) for uid in uids]
        record_finding(self.ledger, self.receipt, FINDING, results, self.now)
        return uids

    def run(self, seconds: int = 0) -> None:
        """Let the clock run, and the courier have its rounds each second as long as it is busy."""
        for _ in range(seconds + 1):
            while self.courier._round():
                pass
            self.now += SECOND

    def deliveries(self) -> dict[str, dict[str, Any]]:
        found = story(self.ledger, str(self.receipt))
        assert found is not None
        return {each["result_sop_instance_uid"]: each for each in found["deliveries"]}

    def states(self) -> list[str]:
        return [each["state"] for each in self.deliveries().values()]

    def events(self) -> list[str]:
        """Return the kinds of the events that belong to no receipt."""
        with self.ledger.reading() as connection:
            assert verification.verify(connection)[1] == []
            return list(connection.scalars(text("SELECT kind FROM event WHERE receipt_id IS NULL ORDER BY id")))


@pytest.fixture
def post(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Post:
    monkeypatch.setattr("worker.deliver.courier.LINGER", 0)
    return Post(tmp_path)


# ---- versions ----------------------------------------------------------------------------------------------------


def correct(post: Post, *uids: str) -> int:
    """Enter a later version of the image, with results of these UIDs for the same destination."""
    number = received(post.ledger, sha256="9" * 64, content_sha256="9" * 64)
    results = [replace(RESULT, sop_instance_uid=uid, destinations=("pacs",)) for uid in uids]
    record_finding(post.ledger, number, FINDING, results, post.now)
    return number


def test_what_waits_of_an_earlier_version_is_withdrawn(post: Post) -> None:
    """However it comes that it was not sent before: what arrives last is taken for what counts."""
    first, second, _ = post.add(3)
    post.place.answers = {first: [retry("busy")], second: [refusal("no")]}
    post.run()
    assert post.states() == ["pending", "failed", "sent"]
    correct(post, "2.25.9")
    post.run(60)
    assert post.place.got == ["2.25.3", "2.25.9"]
    assert post.states() == ["withdrawn", "failed", "sent"]
    assert "replaced" in post.deliveries()[first]["error"]
    assert kinds(post.ledger, post.receipt).count("delivery_withdrawn") == 1
    assert [row["receipt_id"] for row in findings(post.ledger, Filter(undelivered=True))] == [post.receipt]
    # Neither does a person send it again without meaning to: what has failed is withdrawn, what was sent stays so.
    assert Deliveries(post.ledger).redeliver(post.now, include_sent=True) == 2
    post.run(1)
    assert post.place.got == ["2.25.3", "2.25.9", "2.25.9"]
    assert post.states() == ["withdrawn", "withdrawn", "sent"]
    assert findings(post.ledger, Filter(undelivered=True)) == []
    assert post.events() == []


def test_what_is_in_hand_of_an_earlier_version_is_withdrawn_too(post: Post) -> None:
    uids = post.add(3)

    def answer_later(uid: str) -> None:
        if uid == uids[0]:
            correct(post, "2.25.9")

    post.place.on_send = answer_later
    post.run(1)
    assert post.place.got == [uids[0], "2.25.9"]
    assert post.states() == ["sent", "withdrawn", "withdrawn"]


def test_a_probe_is_none_of_an_earlier_version(post: Post) -> None:
    post.add(3)
    post.place.down = "pacs cannot be reached"
    post.run()
    correct(post, "2.25.9")
    post.place.down = ""
    post.run(10)
    assert post.place.got == ["2.25.9"]
    assert post.states() == ["withdrawn"] * 3
    assert post.events() == ["destination_down", "destination_up"]


def test_a_second_reading_of_an_earlier_version_that_a_person_asks_for_is_sent(post: Post) -> None:
    post.add(1)
    correct(post, "2.25.9")
    other = replace(FINDING, model=replace(FINDING.model, digest="e" * 64))
    Reanalyses(post.ledger).request([post.receipt], "other", "e" * 64, "jd", post.now)
    again = replace(RESULT, sop_instance_uid="2.25.8", destinations=("pacs",))
    record_again(post.ledger, post.receipt, other, [again], post.now)
    post.run()
    assert sorted(post.place.got) == ["2.25.8", "2.25.9"]


# ---- a destination that is down ----------------------------------------------------------------------------------


def test_a_destination_that_is_down_is_asked_now_and_then_by_one(
    post: Post, capsys: pytest.CaptureFixture[str]
) -> None:
    uids = post.add(25)
    post.place.down = "pacs cannot be reached"
    post.run(120)
    # After 10 seconds at most, then 20, then 40 each, where chance may halve each of them: and not once a second.
    assert 4 <= post.place.sessions <= 10
    told = post.deliveries().values()
    assert {(each["state"], each["attempts"]) for each in told} == {("pending", 0)}
    assert "pacs cannot be reached" in {each["error"] for each in told}
    assert kinds(post.ledger, post.receipt) == ["received", "analysed"]
    post.place.down = ""
    post.run(41)
    assert post.place.got == uids
    assert {each["attempts"] for each in post.deliveries().values()} == {1}
    assert post.events() == ["destination_down", "destination_up"]
    said = capsys.readouterr().out
    assert (said.count("peer_unavailable"), said.count("peer_available")) == (1, 1)


def test_the_audit_hears_that_a_destination_does_not_prove_itself(post: Post) -> None:
    post.add(1)
    for fault in (PeerUnavailable, NotSecure):
        post.place.down, post.place.fault = "its certificate does not hold", fault
        post.run(1)
        post.place.down = ""
        post.run(41)
        post.add(2)
    with post.ledger.reading() as connection:
        query = text("SELECT detail FROM event WHERE kind = 'destination_down' ORDER BY id")
        facts = [json.loads(detail) for detail in connection.scalars(query)]
    assert [each.get("tls") for each in facts] == [None, False]


def test_of_two_processes_one_asks(post: Post) -> None:
    post.add(20)
    post.place.down = "pacs cannot be reached"
    post.run()
    before = post.place.sessions
    second = Post.made(post)
    post.now += 10 * SECOND
    assert not post.courier._round()
    assert not second._round()
    assert post.place.sessions == before + 1


def test_the_first_success_lets_the_others_go_at_once(post: Post) -> None:
    """Whatever each one's own patience was."""
    uids = post.add(2)
    post.place.answers = {uid: [retry("busy")] for uid in uids}
    post.run()
    post.place.down = "pacs cannot be reached"
    post.run(40)
    assert post.place.got == []
    post.place.down = ""
    sessions = post.place.sessions
    while not post.place.got:
        post.run()
    post.run()
    assert sorted(post.place.got) == uids
    assert post.place.sessions <= sessions + 3


def test_nobody_asks_with_empty_hands(post: Post) -> None:
    """Else the one who comes a second later would wait for the next turn."""
    (uid,) = post.add(1)
    post.place.answers = {uid: [outcome_of(0xA700)]}
    post.run()
    assert post.events() == ["destination_down"]
    post.run(30)
    assert post.place.got == [uid]
    assert post.events() == ["destination_down", "destination_up"]


def test_a_destination_without_room_is_left_alone_and_only_the_one_it_refused_is_charged(post: Post) -> None:
    uids = post.add(12)
    post.place.answers = {uids[2]: [outcome_of(0xA700)]}
    post.courier._round()
    assert post.place.got == uids[:2]
    told = post.deliveries()
    assert [told[uid]["attempts"] for uid in uids] == [1, 1, 1] + [0] * 9
    assert (told[uids[2]]["status"], told[uids[2]]["state"]) == ("0xA700", "pending")
    assert not post.courier._round()
    assert post.place.sessions == 1
    post.run(60)
    assert sorted(post.place.got) == sorted(uids)


def test_what_waits_too_long_for_a_destination_that_is_down_is_given_up(tmp_path: Path) -> None:
    post = Post(tmp_path, give_up_after_hours=0.01)
    post.add(12)
    post.place.down = "pacs cannot be reached"
    post.run(36)
    assert set(post.states()) == {"pending"}
    post.run(5)
    assert set(post.states()) == {"failed"}
    assert {each["error"] for each in post.deliveries().values()} == {
        "given up after 0.01 hours: pacs cannot be reached"
    }
    assert kinds(post.ledger, post.receipt).count("delivery_failed") == 12
    sessions = post.place.sessions
    post.run(200)
    assert post.place.sessions == sessions  # there is nothing to ask for
    assert Deliveries(post.ledger).redeliver(post.now) == 12
    post.place.down = ""
    post.run(1)
    assert set(post.states()) == {"sent"}


def test_one_for_which_there_is_never_room_holds_up_no_other(post: Post) -> None:
    """As where a node has no room for large objects: it waits longer each time, and the others go."""
    uids = post.add(12)
    post.place.answers = {uids[2]: [outcome_of(0xA700)] * 100}
    post.run(60)
    assert sorted(post.place.got) == sorted(set(uids) - {uids[2]})
    attempts = post.deliveries()[uids[2]]["attempts"]
    post.run(400)
    assert post.deliveries()[uids[2]]["attempts"] <= attempts + 21  # every 20 to 40 seconds, of its own
    assert post.events() == ["destination_down", "destination_up"]


# ---- one that breaks off ------------------------------------------------------------------------------------------

BROKEN = AssociationLost("the peer broke off")


def test_one_at_which_the_session_breaks_off_twice_is_put_aside_and_the_others_go_on(post: Post) -> None:
    uids = post.add(8)
    post.place.answers = {uids[1]: [BROKEN] * 2}
    while post.courier._round():
        pass
    assert post.place.got == [uids[0], *uids[2:]]
    told = post.deliveries()
    assert [told[uid]["attempts"] for uid in uids] == [1, 2] + [1] * 6
    assert (told[uids[1]]["state"], told[uids[1]]["error"]) == ("pending", "the peer broke off")
    assert post.events() == []
    post.run(60)
    assert post.place.got[-1] == uids[1]


def test_a_session_that_breaks_off_once_is_opened_anew_at_once(post: Post) -> None:
    uids = post.add(3)
    post.place.answers = {uids[1]: [BROKEN]}
    while post.courier._round():
        pass
    assert post.place.got == uids
    assert post.place.sessions == 2


def test_a_destination_that_breaks_off_at_every_second_one_is_not_down(post: Post) -> None:
    """A receiver that aborts at reports: pictures are not delayed, however many reports wait."""
    uids = post.add(40)
    reports = uids[::2]
    post.place.answers = {uid: [BROKEN] * 1000 for uid in reports}
    while post.courier._round():
        pass
    assert post.place.got == uids[1::2]
    post.run(300)  # all reports come due again, and are older than what comes now
    late = [f"2.25.9{number}" for number in range(3)]
    results = [replace(RESULT, sop_instance_uid=uid, destinations=("pacs",)) for uid in late]
    record_finding(post.ledger, post.receipt, FINDING, results, post.now)
    while post.courier._round():
        pass
    assert post.place.got[-3:] == late
    assert post.events() == []
    assert {post.deliveries()[uid]["state"] for uid in reports} == {"pending"}


def test_sessions_that_break_off_one_after_the_other_have_another_cause(post: Post) -> None:
    uids = post.add(8)
    post.place.answers = {uid: [BROKEN] * 9 for uid in uids}
    while post.courier._round():
        pass
    assert post.place.sessions == 5
    assert post.events() == ["destination_down"]
    assert [each["attempts"] for each in post.deliveries().values()] == [2, 2, 1] + [0] * 5
    post.run(600)
    assert post.place.sessions <= 5 + 10 + 600 / 20  # a probe now and then, and not one for each result
    post.place.answers = {}
    post.run(60)
    assert sorted(post.place.got) == sorted(uids)


def test_a_probe_that_breaks_off_leaves_the_next_one_to_another(post: Post) -> None:
    uids = post.add(3)
    post.place.down = "pacs cannot be reached"
    post.run()
    post.place.down = ""
    post.place.answers = {uids[0]: [BROKEN] * 1000}
    post.run(60)
    assert post.place.got == uids[1:]
    assert post.events() == ["destination_down", "destination_up"]


def test_one_that_brings_an_error_of_the_server_holds_up_no_other(post: Post) -> None:
    """As where a server answers with 500 to one object, and takes all others."""
    uids = post.add(12)
    post.place.answers = {uids[0]: [PeerUnavailable("HTTP status 500")] * 1000}
    post.run(60)
    assert sorted(post.place.got) == sorted(uids[1:])
    post.run(300)
    assert post.events() == ["destination_down", "destination_up"]


def test_a_destination_that_puts_everything_off_is_asked_now_and_then(post: Post) -> None:
    """As one whose database is down: it answers 0x0110 to each, and each would come again by its own patience."""
    uids = post.add(30)
    post.place.answers = {uid: [outcome_of(0x0110)] * 100 for uid in uids}
    post.run(600)
    assert post.place.sessions <= 1 + 10 + 600 / 20
    assert post.events() == ["destination_down"]
    post.place.answers = {}
    post.run(60)
    assert sorted(post.place.got) == sorted(uids)


def test_what_cannot_be_read_here_says_nothing_of_the_destination(post: Post) -> None:
    uids = post.add(6)
    post.place.answers = {uid: [OutOfResources("cannot read the file")] * 2 for uid in uids[:5]}
    post.run(60)
    assert sorted(post.place.got) == sorted(uids)
    assert post.events() == []


# ---- outcomes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "state", "error"),
    [
        (SENT, "sent", ""),
        (refusal("it does not fit", 0xA900), "failed", "it does not fit"),
        (UnreadableObject("not a DICOM file"), "failed", "not a DICOM file"),
        (retry("busy", 0x0110), "pending", "busy"),
        (OutOfResources("cannot read the file"), "pending", "cannot read the file"),
        (ValueError("Doe^Jane"), "pending", "unexpected ValueError"),
    ],
)
def test_what_becomes_of_one_is_no_matter_of_the_others(
    post: Post, answer: Outcome | Exception, state: str, error: str
) -> None:
    uids = post.add(3)
    post.place.answers = {uids[1]: [answer]}
    post.courier._round()
    told = post.deliveries()
    assert [told[uid]["state"] for uid in uids] == ["sent", state, "sent"]
    assert told[uids[1]]["error"].startswith(error)
    assert "Jane" not in told[uids[1]]["error"]
    assert [each["attempts"] for each in told.values()] == [1] * 3
    assert post.place.sessions == 1
    assert post.queue.in_hand() == []


def test_one_is_sent_once_however_often_the_ledger_is_locked(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    uids = post.add(2)
    mark_sent, refused = Deliveries.mark_sent, [0]

    def locked(self: Deliveries, *arguments: Any, **options: Any) -> None:
        refused[0] += 1
        if refused[0] % 4:
            raise OutOfResources("the ledger is locked")
        mark_sent(self, *arguments, **options)

    monkeypatch.setattr(Deliveries, "mark_sent", locked)
    post.courier._round()
    assert post.place.got == uids
    assert set(post.states()) == {"sent"}
    assert refused == [8]


def test_what_somebody_else_has_by_now_is_left_to_them(post: Post, capsys: pytest.CaptureFixture[str]) -> None:
    (uid,) = post.add(1)
    other = Deliveries(post.ledger)
    taken: list[DueDelivery] = []
    late = post.now + dt.timedelta(seconds=LEASE)
    post.place.on_send = lambda _: taken.extend(other.claim("pacs", late, 1))  # we stood still so long
    post.courier._round()
    assert post.states() == ["pending"]
    assert "lease_lost" in capsys.readouterr().out
    assert "delivered" not in kinds(post.ledger, post.receipt)
    other.mark_sent(taken[0], 0, late)
    assert post.states() == ["sent"]
    assert post.place.got == [uid]


def test_what_is_not_sent_at_the_end_is_handed_back(post: Post) -> None:
    uids = post.add(6)
    post.place.on_send = lambda _: post.courier.stop()
    post.courier._round()
    assert post.place.got == uids[:1]
    assert post.queue.in_hand() == []
    assert [each.task.attempts for each in Deliveries(post.ledger).claim("pacs", post.now, 9)] == [1] * 5


def test_what_the_session_cannot_carry_goes_in_the_next_one(post: Post) -> None:
    uids = post.add(14)
    post.place.carries_all = False
    post.run()
    assert post.place.got == uids
    assert post.place.sessions == 2
    assert post.queue.in_hand() == []


def test_a_ledger_that_breaks_off_in_between_leaves_nothing_in_hand(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the lease of what nobody knows to have would be prolonged for ever."""
    post.add(2)
    reading, calls = post.ledger.reading, [0]

    def broken() -> Any:
        calls[0] += 1
        if calls[0] == 3:  # the breaker, the queue, and what the tasks are about
            raise OutOfResources("the ledger cannot be reached")
        return reading()

    monkeypatch.setattr(post.ledger, "reading", broken)
    with pytest.raises(OutOfResources):
        post.courier._round()
    assert post.queue.in_hand() == []
    post.now += dt.timedelta(seconds=LEASE)
    post.run()
    assert set(post.states()) == {"sent"}


def test_an_error_that_nobody_foresaw_leaves_nothing_in_hand_for_good(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent and could not be entered is in hand until its lease runs out, and not as long as we live."""
    post.add(2)

    def fail(*_: object, **__: object) -> None:
        monkeypatch.undo()
        post.courier.stop()
        raise ZeroDivisionError

    monkeypatch.setattr(post.courier._office.deliveries, "mark_sent", fail)
    post.courier.run()
    assert post.queue.in_hand() == []
    assert len(post.place.got) == 1


# ---- several at once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "helps"), [(10, False), (11, True)])
def test_a_further_courier_helps_only_while_more_waits_than_the_first_has_in_hand(
    post: Post, count: int, helps: bool
) -> None:
    helper = post.made(first=post.courier)
    uids = post.add(count)
    assert helper._round() is helps
    assert post.courier._round() is not helps
    assert post.place.got == uids


def test_a_session_that_a_further_courier_does_not_get_says_nothing(post: Post) -> None:
    helper = post.made(first=post.courier)
    post.add(12)
    post.place.down = "too many associations"
    for _ in range(30):
        assert not helper._round()
        post.now += SECOND
    assert (post.place.sessions, post.events()) == (1, [])
    post.place.down = ""
    assert post.courier._round()
    assert post.states().count("sent") == 12


def test_a_further_courier_does_not_ask_whether_a_destination_is_back(post: Post) -> None:
    helper = post.made(first=post.courier)
    post.add(12)
    post.place.down = "cannot be reached"
    assert not post.courier._round()
    post.now += dt.timedelta(hours=1)
    post.place.down = ""
    assert not helper._round()
    assert post.courier._round()


def test_what_an_error_leaves_in_one_hand_stays_in_the_other(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = post.made(first=post.courier)
    post.add(12)
    others = post.courier._take(1)

    def fail(*_: object, **__: object) -> None:
        monkeypatch.undo()
        helper.stop()
        raise ZeroDivisionError

    monkeypatch.setattr(helper._office.deliveries, "mark_sent", fail)
    helper.run()
    assert [each.id for each in post.queue.in_hand()] == [each.task.id for each in others]


def test_a_store_that_is_not_mounted_is_said_once(
    post: Post, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks: list[str] = []

    def fail() -> None:
        looks.append("look")
        if len(looks) == 9:
            post.courier.stop()
        raise OutOfResources("another volume" if len(looks) > 5 else "no volume")

    monkeypatch.setattr("worker.deliver.courier.POLL", 0.01)
    monkeypatch.setattr(post.blobs, "check_there", fail)
    post.courier.run()
    assert capsys.readouterr().out.count("outbox_waits") == 2


def test_settings_that_cannot_be_followed_any_more_are_said_once_and_in_words(
    post: Post, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as a certificate that was taken away while cxrd runs: what is due waits, and is sent when it is back."""
    post.add(2)
    opened: list[str] = []

    def fail(*_: object) -> None:
        opened.append("open")
        if len(opened) == 5:
            post.courier.stop()
        raise InvalidSettings("tls.ca_file cannot be read")

    monkeypatch.setattr("worker.deliver.courier.POLL", 0.01)
    with monkeypatch.context() as gone:
        gone.setattr(post.place, "open", fail)
        post.courier.run()
    out = capsys.readouterr().out
    assert (out.count("outbox_waits"), out.count("tls.ca_file cannot be read")) == (1, 1)
    assert "outbox_error" not in out
    assert post.queue.in_hand() == []
    post.courier = post.made()
    post.run()
    assert post.states() == ["sent", "sent"]
