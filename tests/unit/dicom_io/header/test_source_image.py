"""The radiograph's header as results take it: each attribute read once, whatever it holds."""

from __future__ import annotations

from collections import Counter
from typing import Any, get_args

import numpy as np
import pytest
from pydicom import Dataset

from dicom_io.header.copied import COPIED
from dicom_io.header.source_image import Code, sop_instance, source_image
from dicom_io.pixels.render import render
from tests.unit.worker.results.test_result_set import EVIDENCE, FINDING, MODEL, NOW, Drawn, raw, sequence, source
from worker.destination_settings import Kind
from worker.inference.analyzer import Reading
from worker.results.result_set import make
from worker.settings import Results


class Counted(Dataset):
    """Counts how often each attribute is asked for, by keyword."""

    def __init__(self, original: Dataset) -> None:
        super().__init__(original)
        object.__setattr__(self, "reads", Counter[str]())

    def get(self, key: Any, default: Any = None) -> Any:
        """Count, and answer."""
        if isinstance(key, str):  # pydicom itself asks for the character set, by its tag
            self.__dict__["reads"][key] += 1
        return super().get(key, default)


def test_each_attribute_is_read_once_and_what_is_copied_once_more() -> None:
    header = Counted(source("DX"))
    source_image(header)
    reads: Counter[str] = header.__dict__["reads"]
    assert {"Rows", "Columns", "SOPInstanceUID", "PatientAge"} <= set(reads)
    assert {keyword for keyword, number in reads.items() if number > 1} <= set(COPIED)
    assert max(reads.values()) <= 2


def test_results_are_made_without_another_look_at_the_header() -> None:
    def answered(original: Dataset, *, forgotten: bool) -> list[bytes]:
        zeros = np.zeros((7, 7), np.float32)
        reading = Reading(FINDING, EVIDENCE, render(original), zeros)
        header = source_image(original)
        if forgotten:
            original.clear()
        made = make(header, reading, MODEL, Results(kinds=get_args(Kind)), NOW, pictures=Drawn())
        assert made.left_out == {}
        return [each.data for each in made.results]

    assert answered(source("DX"), forgotten=True) == answered(source("DX"), forgotten=False)


def test_a_result_changes_nothing_in_the_record() -> None:
    request = sequence(RequestedProcedureID="RP1", RequestedProcedureCodeSequence=sequence(CodeValue="X"))
    header = source_image(source("DX", RequestAttributesSequence=request, PatientWeight=70))
    first = header.patient_and_study()
    first.PatientName, first.PatientWeight = "Other^Name", 3
    first.RequestAttributesSequence[0].RequestedProcedureID = "RP2"
    del first.StudyID
    second = header.patient_and_study()
    assert (second.PatientName, second.PatientWeight, second.StudyID) == ("Phantom^Chest", 70, "1")
    assert second.RequestAttributesSequence[0].RequestedProcedureID == "RP1"


def test_nothing_is_raised_by_an_empty_header() -> None:
    header = source_image(Dataset())
    assert sop_instance(Dataset()).sop_instance_uid == header.sop_instance_uid == ""
    assert (header.rows, header.columns, header.modality, header.orientation) == (0, 0, "", ())
    assert (header.pixel_spacing, header.imager_spacing, header.procedure, header.requests) == (None, None, None, ())
    assert (header.burned_in, header.lossy, header.time_zone) == ("YES", "", "")
    assert len(header.patient_and_study()) == 11


@pytest.mark.parametrize(
    ("attributes", "name", "expected"),
    [
        ({"Modality": b"cr "}, "modality", "CR"),
        ({"Rows": b"abc"}, "rows", 0),
        ({"PatientOrientation": b"L \\F"}, "orientation", ("L", "F")),
        ({"PixelSpacing": b"0\\0"}, "pixel_spacing", (2.8125, 2.8125)),  # the imager's
        ({"ImagerPixelSpacing": b"0.1"}, "imager_spacing", None),
        ({"TimezoneOffsetFromUTC": b"+0530"}, "time_zone", "+0530"),
        ({"TimezoneOffsetFromUTC": b"+2500"}, "time_zone", ""),
        ({"BurnedInAnnotation": b"no"}, "burned_in", "NO"),
        ({"BurnedInAnnotation": b"NONE"}, "burned_in", "YES"),
        ({"LossyImageCompression": b"00"}, "lossy", "00"),
        ({"LossyImageCompression": b"1 "}, "lossy", ""),
        ({"RequestedProcedureID": b"RP1 "}, "requested_procedure", "RP1"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # pydicom's, about what was spoilt
def test_what_it_says_of_odd_headers(attributes: dict[str, bytes], name: str, expected: object) -> None:
    original = source()
    for keyword, value in attributes.items():
        vr = {"Rows": "US", "RequestedProcedureID": "SH", "TimezoneOffsetFromUTC": "SH"}.get(keyword, "CS")
        raw(original, keyword, "DS" if keyword.endswith("Spacing") else vr, value)
    assert getattr(source_image(original), name) == expected


def test_the_first_code_that_every_character_set_can_carry_names_the_procedure() -> None:
    fit = {"CodeValue": "XTHOR", "CodingSchemeDesignator": "L", "CodeMeaning": "Thorax"}
    unfit = fit | {"CodeMeaning": "Thorax in zwei Ebenen, ä"}
    original = source(ProcedureCodeSequence=[*sequence(**unfit), *sequence(**fit)])
    assert source_image(original).procedure == Code("XTHOR", "L", "Thorax")
