"""How an image shows the patient is what its header states, and is never guessed (PS3.3 C.7.6.1.1.1)."""

from __future__ import annotations

import pytest
from pydicom import Dataset

from dicom_io.finding import Orientation
from dicom_io.header.orientation import orientation_of


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (None, Orientation.UNSTATED),
        ("", Orientation.UNSTATED),
        ("L\\F", Orientation.FACING),
        ("l\\f", Orientation.FACING),
        ("LH\\FR", Orientation.FACING),  # a little turned
        ("R\\F", Orientation.MIRRORED),
        ("R\\H", Orientation.UPSIDE_DOWN),
        ("L\\H", Orientation.FLIPPED),
        ("F\\L", Orientation.OTHER),
        ("A\\F", Orientation.OTHER),
        ("P\\F", Orientation.OTHER),
        ("L", Orientation.OTHER),
        ("L\\F\\A", Orientation.OTHER),
        ("LEFT\\FOOT", Orientation.FACING),
        ("?\\?", Orientation.OTHER),
    ],
)
def test_each_orientation_is_told(stated: str | None, expected: Orientation) -> None:
    header = Dataset()
    if stated is not None:
        header.PatientOrientation = stated
    assert orientation_of(header) is expected


def test_what_is_known_of_each() -> None:
    known = {each: (each.tells_sides, each.shows_right_on_left, each.is_upside_down) for each in Orientation}
    assert known == {
        Orientation.UNSTATED: (True, True, False),
        Orientation.FACING: (True, True, False),
        Orientation.MIRRORED: (True, False, False),
        Orientation.UPSIDE_DOWN: (True, False, True),
        Orientation.FLIPPED: (True, True, True),
        Orientation.OTHER: (False, False, False),
    }
    assert [each for each in Orientation if not each.caution] == [Orientation.UNSTATED, Orientation.FACING]
