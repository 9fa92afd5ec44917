"""Several contents under one SOP Instance UID: each is a version with a receipt of its own, on either database."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from dicom_io.finding import Answer
from dicom_io.header.version import FIRST, ImageVersion
from tests.support.ledgers import claim_of, fail, leave_out, record_finding, waiting
from tests.unit.worker.ledger.test_reanalyses import NEW_MODEL
from tests.unit.worker.ledger.test_receipts import FINDING, NEW, NOON, RESULT, SECOND, kinds, received
from tests.unit.worker.ledger.test_retention import DAY, LATER
from worker.ledger import verification
from worker.ledger.commitments import Commitments
from worker.ledger.feedback import Verdict, enter, verdicts
from worker.ledger.queries import Filter, findings, story
from worker.ledger.reanalyses import Criteria, Reanalyses
from worker.ledger.receipts import Ledger
from worker.ledger.records import OUTSIDE, Replaced
from worker.ledger.retention import Retention
from worker.ledger.versions import OtherContent

REPORT = "1.2.840.10008.5.1.4.1.1.88.34"


def version(ledger: Ledger, digit: str, **changes: Any) -> int:
    """Enter an object whose file and data set have digests of this digit."""
    return received(ledger, sha256=digit * 64, content_sha256=digit * 64, **changes)


def story_of(ledger: Ledger, key: int | str) -> dict[str, Any]:
    whole = story(ledger, str(key))
    assert whole is not None
    return whole


def answered(ledger: Ledger, number: int, uid: str = "2.25.1") -> None:
    report = replace(RESULT, kind="structured-report", sop_class_uid=REPORT, sop_instance_uid=uid)
    record_finding(ledger, number, FINDING, [report], NOON)


def test_another_content_becomes_the_next_version(ledger: Ledger) -> None:
    first = version(ledger, "1")
    second = version(ledger, "2", study_instance_uid="9.9", accession_number="A9")
    third = version(ledger, "3")
    assert waiting(ledger, NOON) == [first, second, third]
    assert [(row["receipt_id"], row["version"], row["replaced_by"]) for row in findings(ledger, Filter())] == [
        (third, 3, None), (second, 2, third), (first, 1, second),
    ]  # fmt: skip
    whole = story_of(ledger, "1.2.3")
    assert whole["finding"]["receipt_id"] == third  # by its UID an image is its newest version
    assert [(each["version"], each["receipt_id"], each["sha256"]) for each in whole["versions"]] == [
        (1, first, "1" * 64), (2, second, "2" * 64), (3, third, "3" * 64),
    ]  # fmt: skip
    (event,) = story_of(ledger, second)["events"]
    assert json.loads(event["detail"]) == {
        "calling_ae": "PACS", "replaces": first, "sha256": "2" * 64, "sop_instance_uid": "1.2.3", "version": 2,
    }  # fmt: skip
    assert "version" not in json.loads(story_of(ledger, first)["events"][0]["detail"])
    with ledger.reading() as connection:
        assert verification.verify(connection)[1] == []


def test_each_content_comes_once_whichever_was_the_last(ledger: Ledger) -> None:
    """Two archives that hold different ones and send them in turn make no endless row of versions."""
    first, second = version(ledger, "1"), version(ledger, "2")
    for digit in "1212":
        assert ledger.receive(replace(NEW, sha256=f"{digit}f" * 32, content_sha256=digit * 64)) is None
    assert kinds(ledger, first) == kinds(ledger, second) == ["received", "received_again", "received_again"]


def test_the_same_bytes_in_another_transfer_syntax_are_another_content(ledger: Ledger) -> None:
    version(ledger, "1")
    for number, syntax in ((2, "1.2.840.10008.1.2.4.50"), (3, "1.2.840.10008.1.2.4.51")):
        other = {"sha256": f"{number}" * 64, "content_sha256": "1" * 64, "transfer_syntax_uid": syntax}
        assert received(ledger, **other) == number
    versions = [claim_of(ledger, number, NOON)[1].version for number in (2, 3)]
    assert versions[0].content != versions[1].content


def test_where_no_versions_are_wanted_another_content_is_refused(ledger: Ledger) -> None:
    first = version(ledger, "1")
    other = replace(NEW, sha256="2" * 64, content_sha256="2" * 64)
    with pytest.raises(OtherContent):
        ledger.receive(other, one_version=True)
    assert ledger.receive(replace(other, content_sha256="1" * 64), one_version=True) is None
    assert kinds(ledger, first) == ["received", "received_again"]
    assert len(findings(ledger, Filter())) == 1


def test_a_worker_learns_which_version_it_has(ledger: Ledger) -> None:
    first, second = version(ledger, "1"), version(ledger, "2")
    assert claim_of(ledger, first, NOON)[1].version == FIRST
    assert claim_of(ledger, second, NOON)[1].version == ImageVersion(2, "2" * 64 + "/1.2.840.10008.1.2.1")


# ---- what was answered before --------------------------------------------------------------------------------------


def test_a_version_follows_what_the_one_before_was_answered(ledger: Ledger) -> None:
    first, second, third = version(ledger, "1", accession_number="A7"), version(ledger, "2"), version(ledger, "3")
    assert ledger.previous_finding(second, "f" * 64, REPORT) is None
    answered(ledger, first)
    for number in (second, third):  # the second has no answer of its own yet
        before = ledger.previous_finding(number, FINDING.model.digest, REPORT)
        assert before is not None
        assert before.report is not None
        assert (before.answer, before.report["SOPInstanceUID"]) == (Answer.FLAGGED, "2.25.1")
        assert before.replaced == Replaced(1, "1.2", "A7")
    answered(ledger, second, "2.25.2")
    before = ledger.previous_finding(third, FINDING.model.digest, REPORT)
    assert before is not None
    assert before.report is not None
    assert (before.replaced, before.report["SOPInstanceUID"]) == (Replaced(2, "1.2", "A1"), "2.25.2")
    # A second reading by another model follows the first one of the same version.
    before = ledger.previous_finding(second, NEW_MODEL[1], REPORT)
    assert before is not None
    assert before.report is not None
    assert (before.replaced, before.report["SOPInstanceUID"]) == (None, "2.25.2")
    # The first version has none before it, and the same work comes out the same.
    assert ledger.previous_finding(first, FINDING.model.digest, REPORT) is None


def test_an_earlier_version_that_waits_is_known_to_be_replaced(ledger: Ledger) -> None:
    first, second = version(ledger, "1"), version(ledger, "2")
    assert ledger.later_answer(first) is None
    claim_of(ledger, first, NOON)
    assert ledger.has_earlier_in_hand(second, NOON)
    assert not ledger.has_earlier_in_hand(second, NOON + 600 * SECOND)  # its lease has run out
    assert not ledger.has_earlier_in_hand(first, NOON)
    answered(ledger, second)
    assert (ledger.later_answer(first), ledger.later_answer(second)) == (2, None)


# ---- what was deleted or lost --------------------------------------------------------------------------------------


def deleted(ledger: Ledger, store: str = "a" * 32) -> tuple[int, Retention]:
    number = version(ledger, "1", store=store)
    answered(ledger, number)
    retention = Retention(ledger, store)
    assert retention.mark([number], ["received"], LATER, "age")
    return number, retention


def test_what_is_stored_anew_is_kept_as_long_as_what_is_new(ledger: Ledger) -> None:
    number, retention = deleted(ledger)
    again = replace(NEW, sha256="2" * 64, content_sha256="1" * 64, size_bytes=12, store="a" * 32, received_at=LATER)
    ledger.restore(number, again, "deleted")
    whole = story_of(ledger, number)
    assert (whole["finding"]["deleted_at"], whole["finding"]["sha256"]) == (None, "2" * 64)
    assert (whole["finding"]["size_bytes"], whole["finding"]["status"]) == (12, "analysed")
    assert waiting(ledger, LATER) == []  # it has its answer
    assert kinds(ledger, number)[-2:] == ["deleted", "restored"]
    assert json.loads(whole["events"][-1]["detail"])["why"] == "deleted"
    assert Commitments(ledger).received(["1.2.3"])["1.2.3"] == [(NEW.sop_class_uid, "2" * 64, 12)]
    assert retention.due("received", LATER - DAY, 9) == []
    assert retention.due("received", LATER, 9) == [number]
    owner = retention.owners("2" * 64)["2" * 64]
    assert (owner.received, owner.deleted_at) == (True, None)
    with ledger.reading() as connection:
        assert verification.verify(connection)[1] == []


def test_one_that_had_failed_is_tried_once_more(ledger: Ledger) -> None:
    number = version(ledger, "1")
    fail(ledger, number, "the file is missing from the storage folder", NOON)
    ledger.restore(number, replace(NEW, sha256="1" * 64, content_sha256="1" * 64), "lost")
    assert waiting(ledger, NOON) == [number]
    assert kinds(ledger, number) == ["received", "failed", "restored", "requeued"]


def test_all_kept_versions_are_looked_at_for_commitment(ledger: Ledger) -> None:
    first, second = version(ledger, "1"), version(ledger, "2", size_bytes=20)
    files = [(NEW.sop_class_uid, "1" * 64, 10), (NEW.sop_class_uid, "2" * 64, 20)]
    assert Commitments(ledger).received(["1.2.3"]) == {"1.2.3": files}
    for number in (first, second):
        answered(ledger, number, f"2.25.{number}")
    assert Retention(ledger, "").mark([first], ["received"], LATER, "age")
    assert Commitments(ledger).received(["1.2.3"]) == {"1.2.3": files[1:]}
    assert Retention(ledger, "").mark([second], ["received"], LATER, "age")
    assert Commitments(ledger).received(["1.2.3"]) == {}


# ---- which version is meant ----------------------------------------------------------------------------------------


def test_a_newer_model_reads_the_version_that_counts(ledger: Ledger) -> None:
    first, second = version(ledger, "1"), version(ledger, "2")
    answered(ledger, first)
    again = Reanalyses(ledger)
    assert again.choose(Criteria(), NEW_MODEL[1]).receipt_ids == (first,)
    leave_out(ledger, second, "outside: no lungs found", NOON)
    assert again.choose(Criteria(also=OUTSIDE), NEW_MODEL[1]).receipt_ids == (second, first)  # the one answer it has
    third = version(ledger, "3")
    answered(ledger, third, "2.25.3")
    assert again.choose(Criteria(also=OUTSIDE), NEW_MODEL[1]).receipt_ids == (third,)
    assert again.choose(Criteria(receipt_ids=(first,)), NEW_MODEL[1]).receipt_ids == (first,)


def test_a_verdict_is_on_the_newest_version(ledger: Ledger) -> None:
    first, second = version(ledger, "1"), version(ledger, "2")
    for number in (first, second):
        answered(ledger, number, f"2.25.{number}")
    assert enter(ledger, [Verdict("NORMAL", "jd", sop_instance_uid="1.2.3")], "test", NOON) == 1
    assert enter(ledger, [Verdict("NORMAL", "jd", accession_number="A1")], "test", NOON) == 1
    assert [row["receipt_id"] for row in verdicts(ledger)] == [second]


def test_a_receipt_s_uid_and_version_are_one(ledger: Ledger) -> None:
    version(ledger, "1")
    version(ledger, "2")
    with pytest.raises(Exception, match=r"(?i)unique"), ledger.writing() as connection:
        connection.execute(text("UPDATE receipt SET version = 1"))
