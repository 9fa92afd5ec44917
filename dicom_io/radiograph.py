"""A radiograph from a DICOM file, rendered: what training needs of DICOM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_io.files import read_dataset, read_header
from dicom_io.pixels import MAX_PIXELS, Rendered, render
from dicom_io.values import text

if TYPE_CHECKING:
    from pathlib import Path


def render_file(path: Path, *, max_pixels: int = MAX_PIXELS) -> Rendered:
    """Return what serving would see of a file (see `dicom_io.pixels.render`).

    Raises
    ------
    UnreadableObject
        It is not a readable DICOM file.
    UnsupportedPixels
        Its pixel data cannot be rendered.
    """
    return render(read_dataset(path), max_pixels=max_pixels)


def patient_id(path: Path) -> str:
    """Return the Patient ID in a file's header, empty where there is none.

    Raises
    ------
    UnreadableObject
        It is not a readable DICOM file.
    """
    return text(read_header(path), "PatientID")
