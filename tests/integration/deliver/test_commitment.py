"""Results are committed to by real nodes: on the same association, on a new one, late, never, or not at all."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from sqlalchemy import text

from dicom_io.errors import OutOfResources
from dicom_io.network.commitment_messages import Reference
from dicom_io.network.commitment_scp import Commitment, send_report
from dicom_io.network.storage_scp import StorageNode
from dicom_io.network.storage_scu import Peer
from dicom_io.objects.common import encode
from tests.support import databases
from tests.support.commitment import committing
from tests.support.orthanc import Orthanc, free_port
from tests.support.peers import chest, send, wait_for
from tests.unit.worker.ledger.test_commitments import LATE, deliver, sent, states
from worker.database.connection import connect
from worker.deliver.committer import CommitmentOffice, Committer
from worker.engines.daemon import Daemon
from worker.engines.outcome import Outcomes
from worker.engines.receiver import node_options
from worker.health import check, status
from worker.ledger.commitments import Commitments
from worker.ledger.queries import Filter, findings
from worker.ledger.receipts import Ledger
from worker.queue.breaker import Breakers
from worker.queue.claim import Queue
from worker.receive.commitments import ReportIntake
from worker.settings import OutboxSettings, Scp, Settings

HOUR = dt.timedelta(hours=1)


class Desk:
    """A ledger with results that were sent to `pacs`, and its committer, which runs only when it is told to."""

    def __init__(self, folder: Path, peer: Peer, count: int = 3, *, required: bool = False, **settings: float) -> None:
        self.engine = databases.opened(f"sqlite:///{folder / 'ledger.sqlite'}")
        self.ledger, self.now, self.woken = Ledger(self.engine), LATE, 0
        self.number = sent(self.ledger, count)
        self.settings = OutboxSettings(**{"retry_first": 0.01, "retry_max": 0.02} | settings)
        self.queue = Queue(self.ledger)
        self.breakers = Breakers(self.ledger, first=1, most=1)
        office = CommitmentOffice(
            Commitments(self.ledger, self.queue),
            self.breakers,
            self.settings,
            lambda: self.now,
            ReportIntake(self.ledger, self._note, lambda: self.now).receive,
            Outcomes(threading.Event()).enter,
        )
        self.committer = Committer("pacs", peer, office, required=required)

    def _note(self) -> None:
        self.woken += 1

    def round(self, later: dt.timedelta = dt.timedelta(0)) -> None:
        self.now += later
        self.committer._round()
        assert self.queue.in_hand() == []

    def states(self) -> set[str]:
        return {state for state, _ in states(self.ledger, self.number)}

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.ledger.reading() as connection:
            return [tuple(each) for each in connection.execute(text(query))]

    def events(self) -> list[str]:
        return [kind for (kind,) in self.rows("SELECT kind FROM event WHERE receipt_id IS NULL ORDER BY id")]


def references(count: int) -> set[Reference]:
    """Return what `sent` has sent."""
    return {Reference("1.2.840.10008.5.1.4.1.1.7", f"2.25.{number}") for number in range(1, count + 1)}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.deliver.committer.WAIT", 0.2)


@pytest.mark.parametrize("way", ["same", "before"])
def test_all_that_is_due_goes_into_one_request_and_is_committed_on_its_association(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.deliver.committer.WAIT", 10)
    with committing(way) as there:
        there.keeps = references(25)
        desk = Desk(tmp_path, there.peer, 25)
        desk.round()
        assert [len(each.references) for each in there.requests] == [25]
        assert desk.states() == {"committed"}
        desk.round(HOUR)
        assert len(there.requests) == 1
    assert desk.events() == ["commitment_requested"]


def test_the_report_comes_on_a_new_association_to_another_process(tmp_path: Path) -> None:
    with committing("never") as there:
        there.keeps = references(3)
        desk = Desk(tmp_path, there.peer)
        desk.round()
        assert desk.states() == {"sent"}
        with node(desk, tmp_path) as us:
            send_report(us, there.report(there.requests[0]))
            assert desk.states() == {"committed"}
            send_report(us, there.report(there.requests[0]))  # once more: it did not hear our answer
        assert desk.states() == {"committed"}


@contextmanager
def node(desk: Desk, folder: Path) -> Iterator[Peer]:
    """Run a node of ours that takes reports, with a connection to the database of its own."""
    ledger = Ledger(connect(str(desk.engine.url)))
    options = node_options(Scp(port=0))
    receive = ReportIntake(ledger, lambda: None).receive
    running = StorageNode(options, folder / "incoming", lambda _: 0, Commitment(receive=receive))
    running.start()
    try:
        yield Peer("127.0.0.1", running.port, "CXRD", "PACS", timeout=5)
    finally:
        running.stop(grace=1)
        ledger.engine.dispose()


def test_what_the_node_has_lost_is_sent_again_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.deliver.committer.WAIT", 10)
    with committing("same") as there:
        there.keeps = references(2)
        desk = Desk(tmp_path, there.peer)
        desk.round()
        assert [state for state, _ in states(desk.ledger, desk.number)] == ["committed", "committed", "pending"]
        assert desk.woken == 1
        there.keeps = references(3)
        deliver(desk.ledger, desk.now)
        desk.round(HOUR)
        assert [len(each.references) for each in there.requests] == [3, 1]
        assert desk.states() == {"committed"}


def test_a_node_that_never_reports_is_asked_again_now_and_then_and_not_for_ever(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with committing("never") as there:
        desk = Desk(tmp_path, there.peer, commit_requests=3)
        for _ in range(60 * 6):
            desk.round(dt.timedelta(minutes=1))
        assert len(there.requests) == 3
        assert len({each.transaction_uid for each in there.requests}) == 3
        assert states(desk.ledger, desk.number) == [("sent", "not committed: asked 3 times, and no report came")] * 3
        assert desk.rows("SELECT count(*) FROM task") == [(0,)]
        with node(desk, tmp_path) as us:  # the first of these reports, a day late
            there.keeps = references(3)
            send_report(us, there.report(there.requests[0]))
    assert desk.states() == {"committed"}
    printed = capsys.readouterr().out
    assert printed.count("commitment_given_up") == 1
    assert printed.count("commitment_report_missing") == 2


def test_a_node_without_storage_commitment_is_said_once_and_results_stay_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with committing("none") as there:
        desk = Desk(tmp_path, there.peer)
        for _ in range(46):
            desk.round(HOUR / 2)
        assert desk.rows("SELECT count(*) FROM task") == [(3,)]  # it may just be starting
        for _ in range(4):
            desk.round(HOUR / 2)
        assert states(desk.ledger, desk.number) == [("sent", "")] * 3
        assert desk.rows("SELECT count(*) FROM task") == [(0,)]
        assert desk.rows("SELECT count(*) FROM commitment") == [(0,)]
        assert desk.committer.not_offered == "the peer does not accept Storage Commitment Push Model SOP Class"
    assert desk.events() == ["commitment_not_offered"]
    assert capsys.readouterr().out.count("commitment_not_offered") == 1


def test_a_start_of_ours_does_not_begin_the_day_anew(tmp_path: Path) -> None:
    with committing("none") as there:
        desk = Desk(tmp_path, there.peer)
        desk.now += 20 * HOUR  # some other process of ours was rejected so long
        for _ in range(9):
            desk.round(HOUR / 2)
        assert desk.rows("SELECT count(*) FROM task") == [(0,)]


def test_a_ledger_that_takes_nothing_leaves_no_task_in_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with committing("never") as there:
        desk = Desk(tmp_path, there.peer, commit_requests=1)
        desk.round()
        desk.now += 2 * HOUR

        def fail(*_: object) -> None:
            desk.committer.stop()
            raise OutOfResources("locked")

        monkeypatch.setattr(desk.committer._office.commitments, "give_up", fail)
        desk.committer.run()
        assert desk.queue.in_hand() == []


def test_a_node_that_has_to_commit_and_does_not_is_asked_again_and_again(tmp_path: Path) -> None:
    with committing("none") as there:
        desk = Desk(tmp_path, there.peer, required=True)
        for _ in range(50):
            desk.round(HOUR)
        assert desk.rows("SELECT count(*) FROM task") == [(3,)]
    with committing("same") as there:
        there.keeps = references(3)
        desk.committer._peer = there.peer
        desk.round(2 * HOUR)
        assert desk.states() == {"committed"}
    assert desk.committer.not_offered == ""
    assert desk.events() == ["commitment_not_offered", "commitment_requested"]


def test_a_node_that_is_away_costs_no_request(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Peer("127.0.0.1", free_port(), "PACS", "CXRD", timeout=1))
    for _ in range(3):
        desk.round(dt.timedelta(minutes=2))
    assert desk.rows("SELECT attempts FROM task") == [(0,)] * 3
    assert desk.rows("SELECT count(*) FROM commitment") == [(0,)]
    assert desk.states() == {"sent"}
    assert desk.events() == []


def test_a_node_that_deliveries_cannot_reach_is_not_asked(tmp_path: Path) -> None:
    with committing("never") as there:
        desk = Desk(tmp_path, there.peer)
        desk.breakers.trip("pacs", "it cannot be reached", desk.now)
        desk.round()
        assert there.requests == []
        desk.breakers.close("pacs", desk.now)
        desk.round()
        assert len(there.requests) == 1


@pytest.mark.parametrize(("answer", "attempts"), [(0x0124, 1), (0x0213, 0)])
def test_a_node_that_does_not_take_the_request_is_asked_later(tmp_path: Path, answer: int, attempts: int) -> None:
    with committing("never", answer) as there:
        desk = Desk(tmp_path, there.peer)
        desk.round()
    assert desk.states() == {"sent"}
    assert {
        (count, f"0x{answer:04X}" in reason) for count, reason in desk.rows("SELECT attempts, reason FROM task")
    } == {(attempts, True)}


# ---- the whole daemon ------------------------------------------------------------------------------------------------


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[tuple[Orthanc, int]]:
    """Orthanc, and the port that it knows our node by."""
    port = free_port()
    running = Orthanc(tmp_path / "orthanc", port)
    yield running, port
    running.stop()


def test_orthanc_commits_to_what_it_has_and_gets_again_what_it_lost(
    daemon: Callable[..., Daemon], orthanc: tuple[Orthanc, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, port = orthanc
    monkeypatch.setattr("worker.ledger.deliveries.LATER", 1)
    monkeypatch.setattr("worker.deliver.committer.POLL", 0.1)
    times = {"retry_first": 0.1, "retry_max": 0.5, "commit_after": 2.0}
    worker = daemon([("orthanc", there.dicom, "ORTHANC")], scp={"port": port}, outbox=times)
    send(port, [chest("committed", rows=300, cols=260)])
    wait_for(lambda: findings(worker.ledger, Filter())[0]["delivered"] == 3, 60)
    there.delete("/instances/" + there.get("/instances")[0])
    wait_for(lambda: worker.ledger.counts().get("delivery_committed") == 3, 60)
    assert there.get("/statistics")["CountInstances"] == 3
    with worker.ledger.reading() as connection:
        kinds = list(connection.scalars(text("SELECT kind FROM event WHERE kind LIKE 'commit%' OR kind = 'delivered'")))
    assert (kinds.count("delivered"), kinds.count("commitment_failed"), kinds.count("committed")) == (4, 1, 3)
    (line,) = [each.text for each in check.run(worker.settings) if each.name == "deliveries"]
    assert line == "3 committed"
    assert status.look(worker.settings, worker.ledger, dt.datetime.now(dt.UTC)).destinations[0].today == {
        "committed": 3
    }


def test_orthanc_asks_us_and_hears_what_is_safe_here(
    daemon: Callable[..., Daemon], orthanc: tuple[Orthanc, int]
) -> None:
    there, port = orthanc
    report_to = [{"ae_title": "ORTHANC", "host": "127.0.0.1", "port": there.dicom}]
    worker = daemon(scp={"port": port}, commitment={"offered": True, "report_to": report_to})
    images = [there.upload(encode(chest(f"ask-{number}"))) for number in range(3)]
    there.send_to_cxrd(images[:2])
    assert asked(there, images[:2]) == ("Success", 2, [])
    assert asked(there, images) == ("Failure", 2, [0x0112])
    sha256 = findings(worker.ledger, Filter())[0]["sha256"]
    worker.blobs.path(sha256).unlink()  # answered 0x0000, and gone
    assert asked(there, images[:2]) == ("Failure", 1, [0x0112])


def test_by_default_nobody_may_ask_us(daemon: Callable[..., Daemon], orthanc: tuple[Orthanc, int]) -> None:
    there, port = orthanc
    daemon(scp={"port": port})
    instance = there.upload(encode(chest("ask")))
    there.send_to_cxrd([instance])
    with pytest.raises(HTTPError):  # 0x0124, not authorised
        request(there, [instance])


def request(there: Orthanc, instances: list[str]) -> str:
    body = json.dumps({"Resources": instances}).encode()
    return str(json.loads(there.raw("/modalities/cxrd/storage-commitment", body))["ID"])


def asked(there: Orthanc, instances: list[str]) -> tuple[str, int, list[int]]:
    """Let Orthanc ask; return the status, how many instances are safe, and why others are not."""
    transaction = request(there, instances)
    wait_for(lambda: there.get(f"/storage-commitment/{transaction}")["Status"] != "Pending")
    answer = there.get(f"/storage-commitment/{transaction}")
    return answer["Status"], len(answer["Success"]), [each["FailureReason"] for each in answer["Failures"]]


def test_a_commitment_that_is_missing_is_seen_and_is_a_fault_only_where_it_is_demanded(tmp_path: Path) -> None:
    """`cxrd check` and `cxrd status` tell of a node that never reports."""
    with committing("never") as there:
        desk = Desk(tmp_path, there.peer, commit_requests=2)
        desk.round()
        desk.round(2 * HOUR)
    for demanded, faults in ((True, 1), ("auto", 0)):
        settings = Settings.model_validate(
            {
                "storage": {"folder": tmp_path},
                "destinations": [
                    {"name": "pacs", "host": "127.0.0.1", "port": 1, "ae_title": "PACS", "commitment": demanded}
                ],
            }
        )
        (line,) = check._commitments(desk.ledger, settings)
        assert line.text.startswith("pacs: 3 waiting, the oldest for ")
        assert line.text.endswith(", asked 2 times")
        assert line.ok is not bool(faults)
        report = status.look(settings, desk.ledger, desk.now)
        assert len([each for each in report.wrong if "no storage commitment for 3 results" in each]) == faults
    # A node that was taken out of the settings keeps the images from being deleted: that is said.
    without = Settings.model_validate({"storage": {"folder": tmp_path}})
    (line,) = check._commitments(desk.ledger, without)
    words = "results are to be committed to by pacs, not configured: they stay on disk"
    assert (line.ok, line.text) == (False, words)
    assert (
        "results wait for pacs, which is not in the configuration" in status.look(without, desk.ledger, desk.now).wrong
    )


def test_two_nodes_of_cxrd_get_on_with_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own SCP reports on the association that our SCU keeps open."""
    monkeypatch.setattr("worker.deliver.committer.WAIT", 10)
    options = node_options(Scp(ae_title="OTHER", port=0))
    kept = {each.sop_instance_uid: each.sop_class_uid for each in references(2)}
    other = StorageNode(options, tmp_path / "other", lambda _: 0, Commitment(held=lambda _: kept))
    other.start()
    try:
        desk = Desk(tmp_path, Peer("127.0.0.1", other.port, "OTHER", "CXRD", timeout=5))
        desk.round()
    finally:
        other.stop(grace=1)
    assert [state for state, _ in states(desk.ledger, desk.number)] == ["committed", "committed", "pending"]
