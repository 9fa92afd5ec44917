"""Second readings: who waits for which model, once for each, with the earlier finding kept beside the newer one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from alembic import command
from sqlalchemy import text

from dicom_io.errors import InvalidSettings
from dicom_io.finding import Answer, Finding, ModelIdentity
from tests.support.ledgers import again_of, due, fail, record_again, record_finding, task_of, waiting
from tests.unit.worker.ledger.test_receipts import FINDING, NOON, RESULT, SECOND, kinds, received
from worker.database.connection import connect
from worker.ledger import migrations, verification
from worker.ledger.feedback import Verdict, enter, verdicts
from worker.ledger.queries import Filter, findings, story
from worker.ledger.reanalyses import Criteria, Reanalyses, Selection
from worker.ledger.receipts import Ledger
from worker.ledger.records import NewFinding, NewResult
from worker.ledger.shadow_queries import differences, summary
from worker.ledger.tables import ShadowRow
from worker.queue.claim import LEASE, LeaseLost, Queue
from worker.queue.task import Kind

SR = "1.2.840.10008.5.1.4.1.1.88.34"
REPORT = NewResult("structured-report", SR, "2.25.3", "2.25.4", "c" * 64, 9)
NEW_MODEL = ("net-2.0.0", "e" * 64)
NEWER = NewFinding(ModelIdentity("net", "2.0.0", NEW_MODEL[1]), Finding(0.2, "NORMAL", 0.5), 0.5, 0.2, NOON)
NEW_REPORT = replace(REPORT, sop_instance_uid="2.25.5", series_instance_uid="2.25.6")


def first(ledger: Ledger, uid: str = "1.2.3", **changes: Any) -> int:
    """Enter an image that the first model has answered."""
    number = received(ledger, sop_instance_uid=uid, **changes)
    report = replace(REPORT, sop_instance_uid=f"2.25.{number}00", destinations=("pacs",))
    record_finding(ledger, number, FINDING, [report], changes.get("received_at", NOON))
    return number


def wished(ledger: Ledger, *numbers: int) -> Reanalyses:
    made = Reanalyses(ledger)
    assert made.request(numbers, *NEW_MODEL, "jd", NOON) == len(numbers)
    return made


def intact(ledger: Ledger) -> bool:
    with ledger.reading() as connection:
        return verification.verify(connection)[1] == []


def test_both_answers_are_kept_and_the_newer_one_stands(ledger: Ledger) -> None:
    number = first(ledger)
    wished(ledger, number)
    later = NOON + 60 * SECOND
    assert findings(ledger, Filter())[0]["reanalysis"] == "waiting"
    again, claim = again_of(ledger, number, later)
    # Its results are dated by the wish, so that the same work gives the same bytes after a crash.
    assert (claim.id, claim.dated_at, claim.task.attempts, claim.model_sha256) == (number, NOON, 1, NEW_MODEL[1])
    assert (claim.sop_instance_uid, claim.calling_ae, claim.sha256) == ("1.2.3", "PACS", "a" * 64)
    again.record_finding(claim, NEWER, [replace(NEW_REPORT, destinations=("pacs", "archive"))], later)
    (row,) = findings(ledger, Filter())
    assert (row["status"], row["model"], row["answer"], row["probability"]) == (
        "analysed",
        "net-2.0.0",
        "not flagged",
        0.2,
    )
    assert (row["answers"], row["reanalysis"]) == (2, "done")
    assert (row["result_uids"], row["deliveries"], row["delivered"]) == ("2.25.5", 2, 0)
    newest, oldest = findings(ledger, Filter(history=True))
    assert [(each["model"], each["stands"]) for each in (newest, oldest)] == [("net-2.0.0", 1), ("net-1.0.0", 0)]
    assert (oldest["result_uids"], oldest["deliveries"]) == (f"2.25.{number}00", 1)
    assert findings(ledger, Filter(history=True, answer="flagged")) == [oldest]
    # An earlier result still leads to the image, and the deliveries name what each result says.
    found = story(ledger, f"2.25.{number}00")
    assert found is not None
    assert [each["model"] for each in found["answers"]] == ["net-1.0.0", "net-2.0.0"]
    assert [each["answer"] for each in found["deliveries"]] == ["flagged", "not flagged", "not flagged"]
    assert found["reanalysis"]["requested_by"] == "jd"
    assert kinds(ledger, number) == ["received", "analysed", "reanalysis_requested", "reanalysed"]
    assert intact(ledger)


def test_the_predecessor_is_the_last_report_of_another_model(ledger: Ledger) -> None:
    number = first(ledger)
    expected = {
        "StudyInstanceUID": "1.2",
        "SeriesInstanceUID": "2.25.4",
        "SOPClassUID": SR,
        "SOPInstanceUID": f"2.25.{number}00",
    }
    assert ledger.previous_finding(number, FINDING.model.digest, SR) is None
    found = ledger.previous_finding(number, NEW_MODEL[1], SR)
    assert found is not None
    assert (found.answer, found.report) == (Answer.FLAGGED, expected)
    # The second model's report was left out: the third one's points to the first.
    wished(ledger, number)
    record_again(ledger, number, NEWER, [RESULT], NOON)
    found = ledger.previous_finding(number, "d" * 64, SR)
    assert found is not None
    assert (found.answer, found.report) == (Answer.NOT_FLAGGED, expected)
    # Done once more, the second model's work comes out as before, whoever has spoken since.
    assert ledger.previous_finding(number, FINDING.model.digest, SR) is None
    # No report at all is no predecessor.
    other = received(ledger, sop_instance_uid="1.2.9")
    record_finding(ledger, other, FINDING, [replace(RESULT, sop_instance_uid="2.25.77")], NOON)
    found = ledger.previous_finding(other, NEW_MODEL[1], SR)
    assert found is not None
    assert found.report is None


def test_which_images_are_chosen(ledger: Ledger) -> None:
    numbers = [
        first(ledger, "1.1", received_at=NOON, accession_number="A1"),
        first(ledger, "1.2", received_at=NOON + 60 * SECOND, accession_number="A2"),
        first(ledger, "1.3", received_at=NOON + 120 * SECOND, accession_number="A2"),
    ]
    failed = received(ledger, sop_instance_uid="1.4")
    fail(ledger, failed, "no pixels", NOON)
    again, new = Reanalyses(ledger), NEW_MODEL[1]

    def chosen(**wanted: Any) -> list[int]:
        return [numbers.index(each) + 1 for each in again.choose(Criteria(**wanted), new).receipt_ids]

    assert chosen() == [3, 2, 1]  # newest first, and not what has failed
    assert chosen(since=NOON + 60 * SECOND) == [3, 2]
    assert chosen(until=NOON + 60 * SECOND) == [1]
    assert chosen(accession="A2") == [3, 2]
    assert chosen(receipt_ids=(numbers[0], failed, 999)) == [1]
    assert chosen(model="net-1") == [3, 2, 1]
    assert again.choose(Criteria(), FINDING.model.digest) == Selection((), 3, 0, 0)
    with pytest.raises(InvalidSettings, match=r"--model net-2: no such model .* net-1\.0\.0-ffffffffffff"):
        chosen(model="net-2")
    again.request(numbers[:2], *NEW_MODEL, "jd", NOON)
    assert again.choose(Criteria(), new) == Selection((numbers[2],), 0, 2, 0)
    assert again.request(numbers, *NEW_MODEL, "jd", NOON) == 1  # given again, it enters only what does not wait yet
    record_again(ledger, numbers[0], NEWER, [], NOON)
    desk, claim = again_of(ledger, numbers[1], NOON)
    desk.leave_out(claim, "outside", NOON)
    assert again.choose(Criteria(), new) == Selection((), 1, 1, 1)
    assert again.choose(Criteria(receipt_ids=(numbers[1],)), new).receipt_ids == (numbers[1],)
    # The answer that stands decides, not one before it.
    assert numbers[0] not in again.choose(Criteria(model="net-1"), "d" * 64).receipt_ids
    assert again.choose(Criteria(model="net-2"), "d" * 64).receipt_ids == (numbers[0],)
    assert intact(ledger)


def test_a_wish_waits_for_its_model_and_newest_come_first(ledger: Ledger) -> None:
    numbers = [first(ledger, f"1.{n}") for n in range(3)]
    again, queue = wished(ledger, *numbers), Queue(ledger)

    def following(model_sha256: str) -> list[int]:
        """Take what the model is to read next in hand, and put it back."""
        tasks = queue.claim([Kind.REANALYSE], NOON, target=model_sha256, newest_first=True)
        for task in tasks:
            again.hand_back(again.load(task), "")
        return [task.subject for task in tasks]

    assert following(FINDING.model.digest) == []
    assert following(NEW_MODEL[1]) == [numbers[2]]
    assert again.request(numbers[:1], "net-3.0.0", "d" * 64, "jd", NOON) == 1  # a later wish takes its place
    assert following("d" * 64) == [numbers[0]]
    assert again.counts() == [("net-2.0.0", "waiting", 2), ("net-3.0.0", "waiting", 1)]
    desk, claim = again_of(ledger, numbers[2], NOON)
    assert queue.claim([Kind.REANALYSE], NOON, subject=numbers[2], among="any") == []
    assert again.cancel("jd", NOON) == 2
    assert again.counts() == [("net-2.0.0", "waiting", 1), ("net-2.0.0", "withdrawn", 1), ("net-3.0.0", "withdrawn", 1)]
    assert waiting(ledger, NOON, Kind.REANALYSE) == []
    assert again.request(numbers, *NEW_MODEL, "jd", NOON) == 2  # what is in hand is left alone
    assert again.request(numbers[2:], "net-3.0.0", "d" * 64, "jd", NOON) == 0
    desk.record_finding(claim, NEWER, [], NOON)
    assert again.counts() == [("net-2.0.0", "done", 1), ("net-2.0.0", "waiting", 2)]
    assert intact(ledger)


def test_what_becomes_of_one_that_is_not_answered(ledger: Ledger) -> None:
    number = first(ledger)
    wished(ledger, number)
    again, claim = again_of(ledger, number, NOON)
    again.postpone(claim, "disk full", NOON, NOON + 5 * SECOND)
    assert waiting(ledger, NOON + 4 * SECOND, Kind.REANALYSE) == []
    again, claim = again_of(ledger, number, NOON + 5 * SECOND)
    again.hand_back(claim, "another model serves")
    again.hand_back(claim, "another model serves")  # it is not in hand any more
    again, claim = again_of(ledger, number, NOON + 5 * SECOND)
    assert claim.task.attempts == 2  # what was handed back does not count
    again.fail(claim, "no pixels", NOON)
    (row,) = findings(ledger, Filter())
    assert (row["status"], row["model"], row["reanalysis"]) == ("analysed", "net-1.0.0", "failed")
    assert kinds(ledger, number)[2:] == ["reanalysis_requested", "reanalysis_postponed", "reanalysis_failed"]
    assert intact(ledger)


def test_a_dead_process_loses_nothing(ledger: Ledger) -> None:
    number = first(ledger)
    wished(ledger, number)
    for crashes in range(3):
        again, claim = again_of(ledger, number, NOON + crashes * LEASE * SECOND)
        assert (claim.task.crashes, claim.task.attempts) == (crashes, crashes + 1)
    assert waiting(ledger, NOON + 3 * LEASE * SECOND, Kind.REANALYSE) == []  # its turn comes alone
    again.fail(claim, "the worker died", NOON)
    assert again.counts() == [("net-2.0.0", "failed", 1)]
    assert ledger.counts()["analysed"] == 1


def test_an_outcome_counts_only_where_the_task_is_still_ours(ledger: Ledger) -> None:
    number = first(ledger)
    wished(ledger, number)
    old, lost = again_of(ledger, number, NOON)
    again, claim = again_of(ledger, number, NOON + LEASE * SECOND)
    before = findings(ledger, Filter()), kinds(ledger, number)
    with pytest.raises(LeaseLost):
        old.record_finding(lost, NEWER, [NEW_REPORT], NOON)
    with pytest.raises(LeaseLost):
        old.leave_out(lost, "no", NOON, outside=NEWER)
    with pytest.raises(LeaseLost):
        old.fail(lost, "no", NOON)
    with pytest.raises(LeaseLost):
        old.postpone(lost, "no", NOON, NOON)
    old.hand_back(lost, "no")
    assert (findings(ledger, Filter()), kinds(ledger, number)) == before
    again.record_finding(claim, NEWER, [NEW_REPORT], NOON)
    assert intact(ledger)


def test_done_twice_it_makes_one_finding_and_one_delivery(ledger: Ledger) -> None:
    number = first(ledger)
    for _ in range(2):
        wished(ledger, number)
        record_again(ledger, number, NEWER, [replace(NEW_REPORT, destinations=("pacs",))], NOON)
    assert findings(ledger, Filter())[0]["answers"] == 2
    assert due(ledger, "pacs", NOON) == [f"2.25.{number}00", "2.25.5"]
    assert intact(ledger)


def test_results_for_new_images_go_first(ledger: Ledger) -> None:
    number = first(ledger)
    wished(ledger, number)
    record_again(ledger, number, NEWER, [replace(NEW_REPORT, destinations=("pacs",))], NOON)
    live = first(ledger, "1.2.8")
    assert due(ledger, "pacs", NOON) == [f"2.25.{number}00", f"2.25.{live}00", "2.25.5"]


def test_a_new_image_is_in_the_way_while_it_waits_or_is_in_hand(ledger: Ledger) -> None:
    queue, new = Queue(ledger), [Kind.ANALYSE]
    wished(ledger, first(ledger))
    assert not queue.has_due(new, NOON)
    number = received(ledger, sop_instance_uid="1.2.8")
    assert queue.has_due(new, NOON)
    task = task_of(ledger, number, NOON, queue=queue)
    assert queue.has_due(new, NOON)
    with ledger.writing() as connection:
        queue.postpone(connection, task, NOON + 60 * SECOND)
    assert not queue.has_due(new, NOON)
    assert queue.has_due(new, NOON + 60 * SECOND)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE finding SET probability = 0.1 WHERE model = 'net-1.0.0'", "probability differs"),
        ("UPDATE finding SET answer = 'flagged' WHERE model = 'net-2.0.0'", "answer differs"),
        ("UPDATE finding SET model_sha256 = 'x' WHERE model = 'net-2.0.0'", "finding without an event"),
        ("UPDATE result SET finding_id = NULL; DELETE FROM finding WHERE model = 'net-1.0.0'", "was removed"),
        ("UPDATE receipt SET state = 'failed'", "state differs"),
    ],
)
def test_an_alteration_of_any_answer_shows(ledger: Ledger, statement: str, said: str) -> None:
    number = first(ledger)
    wished(ledger, number)
    record_again(ledger, number, NEWER, [NEW_REPORT], NOON)
    assert intact(ledger)
    with ledger.writing() as connection:
        for each in statement.split(";"):
            connection.execute(text(each))
    with ledger.reading() as connection:
        assert any(said in problem for problem in verification.verify(connection)[1])


def test_readers_of_findings_take_the_right_one(ledger: Ledger) -> None:
    number = first(ledger)
    enter(ledger, [Verdict("NORMAL", "jd", "1.2.3")], "x", NOON)
    assert verdicts(ledger, disagree=True)[0]["model"] == "net-1.0.0"
    # The second model looked at the image in the shadow before it served and answered it once more.
    shadow = {"probability": 0.2, "answer": "not flagged", "threshold": 0.5, "at": NOON}
    with ledger.writing() as connection:
        row = ShadowRow.__table__.insert().values(  # type: ignore[attr-defined]
            receipt_id=number, model=NEW_MODEL[0], model_sha256=NEW_MODEL[1], **shadow
        )
        connection.execute(row)
    before = (summary(ledger, None), differences(ledger, None))
    wished(ledger, number)
    record_again(ledger, number, NEWER, [], NOON)
    assert (summary(ledger, None), differences(ledger, None)) == before
    assert before[1][0]["model"] == "net-1.0.0"
    assert verdicts(ledger, disagree=True) == []
    (row_,) = verdicts(ledger)
    assert (row_["model"], row_["answer"]) == ("net-2.0.0", "not flagged")


def test_a_ledger_of_the_second_schema_is_kept(request: pytest.FixtureRequest, database: str) -> None:
    """Every finding, result and delivery of an older database is there after the migration, and back again."""
    engine = connect(request.getfixturevalue(f"{database}_url"))
    config = migrations._config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        for statement in _OLD.split(";"):
            connection.execute(text(statement))
    views = "SELECT {} FROM findings ORDER BY receipt_id", "SELECT {} FROM deliveries ORDER BY delivery_id"

    def seen() -> list[list[tuple[Any, ...]]]:
        queries = [view.format(", ".join(columns)) for view, columns in zip(views, names, strict=True)]
        with engine.connect().execution_options(reading=True) as connection:
            return [[tuple(row) for row in connection.execute(text(query))] for query in queries]

    with engine.connect().execution_options(reading=True) as connection:
        every = [list(connection.execute(text(view.format("*"))).keys()) for view in views]
    # A later version tells the answer in the place of the decision, and all regions in the place of one box; and when
    # a delivery is due only of those that wait.
    gone = ("decision", "region", "next_attempt_at")
    names = [[name for name in columns if name not in gone] for columns in every]
    before = seen()
    assert len(before[0]) == 3
    migrations.upgrade(engine)
    assert seen() == before
    ledger = Ledger(engine)
    found = ledger.previous_finding(1, NEW_MODEL[1], SR)
    assert found is not None
    assert found.report is not None
    assert found.report["SOPInstanceUID"] == "2.25.1"
    assert [each["answers"] for each in findings(ledger, Filter())] == [0, 1, 1]
    assert len(findings(ledger, Filter(history=True))) == 2
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0002")
    assert seen() == before
    with engine.connect().execution_options(reading=True) as connection:
        decisions = connection.scalars(text("SELECT decision FROM findings ORDER BY receipt_id")).all()
    assert decisions == ["PNEUMONIA", "NORMAL", None]
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


_RECEIPT = """INSERT INTO receipt (sop_instance_uid, sop_class_uid, study_instance_uid, series_instance_uid,
 transfer_syntax_uid, modality, accession_number, patient_key, calling_ae, called_ae, peer_address, sha256, size_bytes,
 received_at, next_attempt_at, attempts, crashes, reason, state, analysed_at, model, model_sha256, probability,
 decision, threshold, operating_point) VALUES ('{0}', '1', '1.2', '1.3', '1', 'CR', 'A{0}', 'k', 'X', 'C', '-', 'a', 1,
 '2026-01-01 10:00:00.000000', '2026-01-01 10:00:00.000000', 1, 0, '', {1})"""
_DATED = "'2026-01-01 10:00:01.500000'"
_OLD = f"""{_RECEIPT.format(1, f"'analysed', {_DATED}, 'net-1', 'f', 0.93, 'PNEUMONIA', 0.5, 'screening'")};
{_RECEIPT.format(2, f"'analysed', {_DATED}, 'net-1', 'f', 0.1, 'NORMAL', 0.5, NULL")};
{_RECEIPT.format(3, "'not_analysed', NULL, NULL, NULL, NULL, NULL, NULL, NULL")};
INSERT INTO result (receipt_id, kind, sop_class_uid, sop_instance_uid, series_instance_uid, sha256, size_bytes,
 created_at) VALUES (1, 'structured-report', '{SR}', '2.25.1', '2.25.2', 'b', 1, {_DATED});
INSERT INTO delivery (result_id, destination, state, attempts, error, created_at, first_due_at, next_attempt_at)
 VALUES (1, 'pacs', 'sent', 1, '', {_DATED}, {_DATED}, {_DATED});
INSERT INTO feedback (receipt_id, verdict, reader, source, at) VALUES (2, 'PNEUMONIA', 'jd', 'x', {_DATED})"""
