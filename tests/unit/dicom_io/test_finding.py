"""The one answer, and the words that every reader sees of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from dicom_io.finding import Answer, Finding, Lungs, Orientation, readable
from tests.support.answers import GRID, REGIONS, answers_in, findings

FLAGGED = Finding(0.934, "PNEUMONIA", 0.41, "screening", ("PNEUMONIA",), 0.4)
NOT_FLAGGED = Finding(0.02, "NORMAL", 0.41, "screening", ("NORMAL",), 0.4)


@pytest.mark.parametrize(
    ("finding", "expected"),
    [
        (FLAGGED, Answer.FLAGGED),
        (replace(FLAGGED, prediction_set=None, outlier=None), Answer.FLAGGED),
        (replace(FLAGGED, lungs=Lungs(0.3, 2, cut=True)), Answer.FLAGGED),
        (NOT_FLAGGED, Answer.NOT_FLAGGED),
        (replace(FLAGGED, prediction_set=("NORMAL", "PNEUMONIA")), Answer.UNCERTAIN),
        (replace(FLAGGED, prediction_set=("NORMAL",)), Answer.UNCERTAIN),
        (replace(NOT_FLAGGED, prediction_set=()), Answer.UNCERTAIN),
        (replace(NOT_FLAGGED, lungs=Lungs(0.2, 1)), Answer.UNCERTAIN),
        (replace(FLAGGED, outlier=1.0), Answer.OUTSIDE),
        (replace(FLAGGED, lungs=Lungs(0.0, 0)), Answer.OUTSIDE),
    ],
)
def test_the_answer_follows_population_then_lungs_then_set_then_threshold(finding: Finding, expected: Answer) -> None:
    assert finding.answer is expected


@pytest.mark.parametrize(
    ("probability", "digits", "expected"),
    [
        (1.0, 2, "> 0.99"),
        (0.9951, 2, "> 0.99"),
        (0.9949, 2, "0.99"),
        (0.0, 2, "< 0.01"),
        (0.004, 2, "< 0.01"),
        (0.006, 2, "0.01"),
        (0.004, 3, "0.004"),
        (0.99996, 4, "> 0.9999"),
        (0.5, 2, "0.50"),
    ],
)
def test_no_probability_is_written_as_none_or_certainty(probability: float, digits: int, expected: str) -> None:
    assert readable(probability, digits) == expected


@pytest.mark.parametrize(("probability", "threshold"), [(0.4996, 0.5), (0.501, 0.5), (0.72, 0.7199)])
def test_a_near_thing_is_written_with_enough_decimals(probability: float, threshold: float) -> None:
    finding = Finding(probability, "", threshold)
    assert finding.probability_text != finding.threshold_text


@GRID
@given(findings())
def test_the_summary_names_the_answer_and_no_other(finding: Finding) -> None:
    assert answers_in(finding.summary) == {finding.answer}
    assert finding.summary.startswith(finding.answer.sentence)
    assert all(words in finding.summary for words in (*finding.cautions, finding.places))
    assert not any(text in finding.summary for text in ("1.00", " 0.00 ", "NORMAL", "PNEUMONIA"))


def test_what_is_doubtful_is_said_in_words() -> None:
    doubtful = replace(FLAGGED, prediction_set=(), lungs=Lungs(0.2, 1))
    assert doubtful.cautions == ("only one lung found", "neither answer is likely")
    outside = ("not like the images the model was made for", "only one lung found")
    assert replace(doubtful, outlier=1.3).cautions == outside
    assert replace(doubtful, age_outside=True).caution.startswith("the patient's age is not one")
    assert replace(FLAGGED, prediction_set=("NORMAL",)).cautions == (
        "above the threshold, but as low as in images without pneumonia",
    )
    assert FLAGGED.cautions == ()


def test_each_place_is_named_once() -> None:
    finding = replace(FLAGGED, regions=(*REGIONS, REGIONS[0]), orientation=Orientation.FACING)
    assert finding.places == "right lower, left middle"
    assert replace(finding, orientation=Orientation.UNSTATED).places == (
        "right lower, left middle (orientation not stated)"
    )
    assert "Where: right lower, left middle." in finding.summary
