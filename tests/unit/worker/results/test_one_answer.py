"""One answer everywhere: whatever a reader opens of a result names it, and nothing there contradicts it."""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any, get_args

import numpy as np
import pydicom
import pypdf
import pytest
from hypothesis import given
from PIL import ImageDraw
from pydicom import Dataset

from dicom_io.finding import Answer, Finding
from dicom_io.header.source_image import source_image
from dicom_io.pixels.render import render
from tests.support.answers import GRID, answers_in, findings
from tests.unit.worker.results.test_result_set import EVIDENCE, MODEL, NOW, source, tree
from worker.destination_settings import Kind
from worker.inference.analyzer import Reading
from worker.results.overlay import Layout, compose
from worker.results.result_set import make
from worker.results.words import NOTICE
from worker.settings import Results

ORIGINAL = source()
RENDERED = render(ORIGINAL)
PRESENCE = {
    Answer.FLAGGED: "Present",
    Answer.NOT_FLAGGED: "Absent",
    Answer.UNCERTAIN: "Indeterminate",
    Answer.OUTSIDE: "Indeterminate",
}
RESEARCH = re.compile(r"research", re.IGNORECASE)


def results(finding: Finding) -> dict[str, Dataset]:
    """Return every kind of result of a finding, read again from its bytes."""
    reading = Reading(finding, EVIDENCE, RENDERED, np.zeros((1, 224, 224), np.float32))
    asked = Results(kinds=get_args(Kind), height=400)
    made = make(source_image(ORIGINAL), reading, MODEL, asked, NOW)
    assert made.left_out == {}
    return {each.kind: pydicom.dcmread(BytesIO(each.data)) for each in made.results}


def texts(made: dict[str, Dataset]) -> dict[str, str]:
    """Return all words of the finding that a reader of each kind sees."""
    (annotation,) = made["presentation-state"].GraphicAnnotationSequence
    page = pypdf.PdfReader(BytesIO(made["encapsulated-pdf"].EncapsulatedDocument)).pages[0].extract_text()
    return {
        "structured-report": "\n".join(each.get("TextValue", "") for each in tree(made["structured-report"])),
        "presentation-state": "\n".join(each.UnformattedTextValue for each in annotation.TextObjectSequence),
        "secondary-capture": made["secondary-capture"].DerivationDescription,
        "multi-frame-capture": made["multi-frame-capture"].DerivationDescription,
        "encapsulated-pdf": page,
    }


def drawn(finding: Finding, layout: Layout) -> str:
    """Return all that is written into a picture."""
    lines: list[str] = []
    write = ImageDraw.ImageDraw.text

    def record(self: ImageDraw.ImageDraw, place: Any, text: str, *arguments: Any, **options: Any) -> None:
        lines.append(text)
        write(self, place, text, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageDraw.ImageDraw, "text", record)
        compose(RENDERED.values, EVIDENCE, finding=finding, identity=MODEL, created=NOW, layout=layout, height=1024)
    return "\n".join(lines)


def contradicts_nothing(text: str, finding: Finding) -> None:
    """Hold a text to the answer: it names this one and no other, and no class as if that were the answer."""
    assert answers_in(text) == {finding.answer}
    assert finding.answer.sentence in " ".join(text.split())
    rest = text.replace(", ".join(finding.prediction_set or ()) or "\0", "")
    assert not re.search(r"\b(NORMAL|PNEUMONIA)\b", rest)
    assert not re.search(r"probability[^\d.]*(1\.0+|0\.0+)\b", text, re.IGNORECASE)  # nothing is certain
    assert all(words in " ".join(text.split()) for words in finding.cautions)
    assert RESEARCH.search(text)
    if not finding.answered:
        assert not re.search(r"threshold|prediction set|operating point|probability of pneumonia", text, re.IGNORECASE)


@GRID
@given(findings())
def test_every_result_names_the_one_answer(finding: Finding) -> None:
    made = results(finding)
    for text in texts(made).values():
        contradicts_nothing(text, finding)
    report = tree(made["structured-report"])[1:]
    coded = {each.ConceptCodeSequence[0].CodeMeaning for each in report if "ConceptCodeSequence" in each}
    assert coded & set(PRESENCE.values()) == {PRESENCE[finding.answer]}


@GRID
@given(findings())
def test_every_picture_names_the_one_answer(finding: Finding) -> None:
    for layout in get_args(Layout):
        text = drawn(finding, layout)
        contradicts_nothing(text, finding)
        assert NOTICE in text
        assert ("strong" in text) == (finding.answer in (Answer.FLAGGED, Answer.UNCERTAIN) and layout != "radiograph")


@GRID
@given(findings())
def test_what_stands_beside_the_answer_is_the_same_for_all(finding: Finding) -> None:
    for each in results(finding).values():
        label = " ".join(str(each.get(name, "")) for name in ("SeriesDescription", "ContentLabel", "DocumentTitle"))
        about = str(each.get("ContentDescription", ""))
        assert answers_in(f"{label} {about}") == set()
        assert not re.search(r"\b(NORMAL|PNEUMONIA)\b", label)
        assert each.ContentQualification == "RESEARCH"
        assert RESEARCH.search(label)
