"""How an image shows the patient: what its header states, and nothing beyond that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_io.finding import Orientation
from dicom_io.header.attributes import values

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# By the first letters of the two values: where the rows run to, and where the columns run to.
_BY_LETTERS = {
    ("L", "F"): Orientation.FACING,
    ("R", "F"): Orientation.MIRRORED,
    ("R", "H"): Orientation.UPSIDE_DOWN,
    ("L", "H"): Orientation.FLIPPED,
}


def orientation_of(header: Dataset) -> Orientation:
    """Return how an image shows the patient, by Patient Orientation (PS3.3 C.7.6.1.1.1).

    The first letter of each value is the direction that it mainly is.
    """
    stated = [str(each).strip().upper() for each in values(header, "PatientOrientation")]
    if not any(stated):
        return Orientation.UNSTATED
    try:
        rows, columns = (each[:1] for each in stated)
    except ValueError:  # not two values
        return Orientation.OTHER
    return _BY_LETTERS.get((rows, columns), Orientation.OTHER)
