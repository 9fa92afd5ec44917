"""What machines are told names the very answer of the finding, and no other."""

from __future__ import annotations

import datetime as dt
import json
import re

from hypothesis import given, settings

from dicom_io.finding import Answer, Finding, ModelIdentity
from dicom_io.header.source_image import source_image
from tests.support.answers import answers_in, findings
from tests.support.peers import chest
from worker.deliver.hl7_message import message
from worker.deliver.webhook import notification
from worker.engines.offline import FileOutcome
from worker.engines.pipeline import is_news
from worker.ledger.records import PreviousFinding

SOURCE = source_image(chest("answers"))
MODEL = ModelIdentity("net", "1.0.0", "f" * 64)
NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
PRESENCE = {Answer.FLAGGED: "Present", Answer.NOT_FLAGGED: "Absent"}
ABNORMAL = {Answer.FLAGGED: "A", Answer.NOT_FLAGGED: "N"}


@settings(max_examples=40, deadline=None)
@given(found=findings())
def test_an_hl7_message_names_the_answer(found: Finding) -> None:
    body = message(SOURCE, found, MODEL, created=NOON, sender="CXRD")[1].decode()
    fields = [line.split("|") for line in body.split("\r") if line.startswith("OBX")]
    seen = {line[3].split("^")[0]: line for line in fields}
    code, words, scheme = seen["answer"][5].split("^")
    assert (code.replace("-", " "), words, scheme) == (found.answer, found.answer.sentence, "99CXRD")
    assert seen["233604007"][5].split("^")[1] == PRESENCE.get(found.answer, "Indeterminate")
    for name in ("answer", "233604007"):
        assert seen[name][8] == ABNORMAL.get(found.answer, "")
    assert ("122157" in seen) == ("operating-point" in seen) == found.answered
    assert ("122157" in seen and seen["122157"][8] == "H") == (found.answer is Answer.FLAGGED)
    assert "122157" not in seen or seen["122157"][5] not in ("1.0000", "0.0000")
    assert ("caution" in seen) == bool(found.caution)
    assert ("regions" in seen) == bool(found.places)
    technical = ("answer", "prediction-set")
    rest = "\r".join("|".join(line) for name, line in seen.items() if name not in technical)
    assert answers_in(rest) == set()
    assert not re.search("PNEUMONIA|NORMAL", rest)


@settings(max_examples=40, deadline=None)
@given(found=findings())
def test_a_notification_and_a_row_of_analyze_name_the_answer(found: Finding) -> None:
    told = json.loads(notification(SOURCE, found, MODEL, [])[1])
    row = FileOutcome("a.png", "net-1.0.0", "analysed", finding=found).as_json()
    for each in (told, row):
        assert (each["answer"], each["answer_in_words"]) == (found.answer, found.answer.sentence)
        assert each["caution"] == found.caution
        assert [region["place"] for region in each["regions"]] == [region.place for region in found.regions]
        assert answers_in(json.dumps(each)) == {found.answer}
        assert "decision" not in each
        numbers = [each[name] for name in ("probability", "threshold", "operating_point")]
        assert (None in numbers) == (not found.answered)
        assert each["out_of_distribution"] or found.answered
    assert json.loads(json.dumps(row)) == row


@settings(max_examples=40, deadline=None)
@given(found=findings())
def test_what_has_become_flagged_is_told_and_what_is_so_no_longer(found: Finding) -> None:
    flagged = found.answer is Answer.FLAGGED
    assert is_news(found, None) == flagged
    for earlier in (None, *Answer):
        assert is_news(found, PreviousFinding(earlier)) == (flagged != (earlier is Answer.FLAGGED))
