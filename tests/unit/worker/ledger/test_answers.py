"""The one answer in the ledger: as the finding says it, in every place, and in databases of earlier versions."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from alembic import command
from hypothesis import HealthCheck, given, settings
from sqlalchemy import Engine, text

from dicom_io.finding import Answer, Finding, Lungs
from tests.support import databases
from tests.support.answers import REGIONS, SETS, findings
from tests.support.ledgers import leave_out, record_finding
from tests.unit.worker.ledger.test_receipts import FINDING, NOON, SECOND, received
from worker.database.connection import connect
from worker.ledger import event_chain, migrations, queries, verification
from worker.ledger.feedback import Verdict, enter, verdicts
from worker.ledger.findings import record_shadow
from worker.ledger.queries import Filter, story
from worker.ledger.receipts import Ledger
from worker.ledger.shadow_queries import differences, summary

OTHER = replace(FINDING.model, version="2", digest="e" * 64)


def intact(ledger: Ledger) -> list[str]:
    with ledger.reading() as connection:
        return verification.verify(connection)[1]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    engine = databases.opened(f"sqlite:///{tmp_path_factory.mktemp('answers') / 'ledger.sqlite'}")
    return Ledger(engine)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=findings(), shadow=findings())
def test_what_is_read_back_names_the_very_answer(filled: Ledger, found: Finding, shadow: Finding) -> None:
    with filled.writing() as connection:
        for table in ("feedback", "shadow", "finding", "event", "task", "receipt"):
            connection.execute(text(f"DELETE FROM {table}"))
    number = received(filled)
    record_finding(filled, number, replace(FINDING, finding=found), [], NOON)
    with filled.writing() as connection:
        record_shadow(connection, number, OTHER, shadow, NOON)
    for answer in Answer:
        rows = queries.findings(filled, Filter(answer=answer.value))
        assert len(rows) == (answer is found.answer)
        assert rows == [] or rows[0]["caution"] == (found.caution or None)
    (row,) = queries.findings(filled, Filter(history=True))
    assert row["answer"] == found.answer
    has_number = found.answer is not Answer.OUTSIDE  # a number would be taken for an answer
    told = story(filled, str(number))
    assert told is not None
    for shown in (row, told["finding"], *told["answers"]):
        assert (shown["probability"] is not None, shown["threshold"] is not None) == (has_number, has_number)
    assert [each["place"] for each in json.loads(row["regions"] or "[]")] == [each.place for each in found.regions]
    assert row["lungs_count"] == (None if found.lungs is None else found.lungs.count)
    enter(filled, [Verdict("NORMAL", "jd", "1.2.3")], "x", NOON)
    assert verdicts(filled)[0]["answer"] == found.answer
    assert bool(verdicts(filled, disagree=True)) == (found.answer is Answer.FLAGGED)
    assert summary(filled, None)[0]["agree"] == (shadow.answer is found.answer)
    said = [(each["answer"], each["shadow_answer"]) for each in differences(filled, None)]
    assert said == ([] if shadow.answer is found.answer else [(found.answer, shadow.answer)])
    assert intact(filled) == []


def test_all_that_was_found_is_in_the_audit(ledger: Ledger) -> None:
    number = received(ledger)
    lungs = Lungs(0.3125, 1, cut=True)
    found = Finding(0.93, "PNEUMONIA", 0.5, lungs=lungs, regions=REGIONS[:2], score=2.25)
    record_finding(ledger, number, replace(FINDING, finding=found), [], NOON)
    (row,) = queries.findings(ledger, Filter())
    assert (row["answer"], row["caution"]) == (
        "uncertain",
        "only one lung found, and it is cut off at the image's edge",
    )
    assert (row["lungs_share"], row["lungs_count"], row["lungs_cut"], row["score"]) == (0.3125, 1, 1, 2.25)
    assert json.loads(row["regions"]) == [
        {"place": "right lower", "box": [10, 20, 60, 90]},
        {"place": "left middle", "box": [62, 30, 80, 50]},
    ]
    assert intact(ledger) == []


@pytest.mark.parametrize("found", [Finding(0.9, "PNEUMONIA", 0.5, outlier=1.5), Finding(0.1, "NORMAL", 0.5)])
def test_an_image_that_was_left_out_is_outside(ledger: Ledger, found: Finding) -> None:
    found = replace(found, lungs=Lungs(0.0, 0))
    number, by_rule = received(ledger), received(ledger, sop_instance_uid="1.2.4")
    leave_out(ledger, number, f"outside: {found.caution}", NOON, outside=replace(FINDING, finding=found))
    leave_out(ledger, by_rule, "modality CT (rules.modalities)", NOON)
    assert [row["answer"] for row in queries.findings(ledger, Filter())] == [None, "outside"]
    (row,) = queries.findings(ledger, Filter(answer="outside"))
    assert (row["receipt_id"], row["status"], row["probability"]) == (number, "not_analysed", None)
    record = story(ledger, str(number))
    assert record is not None
    (saw,) = record["outside"]
    assert (saw["outlier"], saw["lungs_count"]) == (found.outlier, 0)
    assert intact(ledger) == []
    record_finding(ledger, number, FINDING, [], NOON + SECOND)  # under other settings
    assert queries.findings(ledger, Filter())[1]["answer"] == "flagged"


# ---- databases of earlier versions ---------------------------------------------------------------------------------

EARLIER = [
    Finding(probability, "PNEUMONIA" if probability >= 0.5 else "NORMAL", 0.5, "screening", classes, outlier)
    for probability, classes, outlier in itertools.product((0.2, 0.5, 0.9), SETS, (None, 0.2, 1.0, 3.0))
]


def enter_earlier(engine: Engine, number: int, found: Finding) -> None:
    """Enter a finding as revision 0005 had it, with its event."""
    receipt: dict[str, object] = dict.fromkeys(("sop_class_uid", "study_instance_uid", "series_instance_uid"), "1")
    receipt |= dict.fromkeys(("transfer_syntax_uid", "modality", "accession_number", "patient_key"), "x")
    receipt |= dict.fromkeys(("calling_ae", "called_ae", "peer_address", "sha256", "reason"), "x")
    receipt |= {"id": number, "sop_instance_uid": f"1.{number}", "state": "analysed"}
    times = {"received_at": _NOON, "next_attempt_at": _NOON}
    counts = {"size_bytes": 1, "attempts": 1, "crashes": 0}
    facts = {
        "model": "net-1.0.0",
        "model_sha256": "f",
        "probability": found.probability,
        "decision": found.decision,
        "threshold": found.threshold,
        "operating_point": found.operating_point,
        "prediction_set": None if found.prediction_set is None else " ".join(found.prediction_set),
        "outlier": found.outlier,
    }
    region = {"region": "10,20,60,90" if found.decision == "PNEUMONIA" else None}
    with engine.begin() as connection:
        for table, values in (
            ("receipt", receipt | times | counts),
            ("finding", facts | region | {"receipt_id": number, "analysed_at": _NOON}),
            ("shadow", facts | {"receipt_id": number, "model_sha256": "e", "at": _NOON}),
        ):
            names = ", ".join(values)
            places = ", ".join(f":{name}" for name in values)
            connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({places})"), values)
        detail = json.dumps(facts | region | {"results": [], "reason": ""}, sort_keys=True)
        last = connection.scalar(text("SELECT digest FROM event ORDER BY id DESC LIMIT 1")) or event_chain.GENESIS
        values = {"receipt_id": number, "at": _NOON, "kind": "analysed", "detail": detail, "previous": last}
        values["digest"] = event_chain.digest(last, number, NOON, "analysed", detail)
        places = ", ".join(f":{name}" for name in values)
        connection.execute(text(f"INSERT INTO event ({', '.join(values)}) VALUES ({places})"), values)


_NOON = NOON.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_answers_of_earlier_versions_follow_the_same_rules(request: pytest.FixtureRequest, database: str) -> None:
    engine = connect(request.getfixturevalue(f"{database}_url"))
    config = migrations._config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0005")
    for number, found in enumerate(EARLIER, start=1):
        enter_earlier(engine, number, found)
    migrations.upgrade(engine)
    ledger = Ledger(engine)
    rows = queries.findings(ledger, Filter())[::-1]
    assert [row["answer"] for row in rows] == [found.answer for found in EARLIER]
    with ledger.reading() as connection:
        shadows = connection.scalars(text("SELECT answer FROM shadow ORDER BY receipt_id")).all()
    assert shadows == [found.answer for found in EARLIER]
    assert [row["regions"] for row in rows[-2:]] == ['[{"place": "", "box": [10, 20, 60, 90]}]'] * 2
    assert intact(ledger) == []
    with ledger.writing() as connection:
        connection.execute(text("UPDATE finding SET answer = 'flagged'"))
    assert len(intact(ledger)) == sum(found.answer is not Answer.FLAGGED for found in EARLIER)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0005")
        kept = connection.execute(text("SELECT decision, region FROM finding ORDER BY receipt_id")).all()
    boxes = {"PNEUMONIA": "10,20,60,90", "NORMAL": None}
    assert [tuple(row) for row in kept] == [(found.decision, boxes[found.decision]) for found in EARLIER]
    engine.dispose()
