"""A radiograph from a DICOM file, rendered: what training needs of DICOM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_io.header.attributes import text
from dicom_io.header.eligibility import age_years, view_of
from dicom_io.header.reading import read_dataset, read_header
from dicom_io.pixels.render import MAX_PIXELS, Rendered, render

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom import Dataset


ATTRIBUTES = {
    "PatientSex": "Patient's Sex",
    "AgeBand": "Patient's Age",
    "Manufacturer": "Manufacturer",
    "Modality": "Modality",
    "PhotometricInterpretation": "Photometric Interpretation",
    "ViewPosition": "View Position",
}
"""What `attributes` tells, and what a person calls it (PS3.6 section 6)."""
_AGES = (1, 6, 18, 40, 65)  # completed years at which a band begins
_LONGEST = 40  # characters of a value: a manufacturer's name, not a text that was typed into the wrong field


def read(path: Path, *, max_pixels: int = MAX_PIXELS) -> tuple[Rendered, dict[str, str]]:
    """Return what serving would see of a file (see `dicom_io.pixels.render.render`), and its `attributes`.

    Raises
    ------
    UnreadableObject
        It is not a readable DICOM file.
    UnsupportedPixels
        Its pixel data cannot be rendered.
    """
    dataset = read_dataset(path)
    return render(dataset, max_pixels=max_pixels), attributes(dataset)


def names(path: Path) -> tuple[str, str]:
    """Return Patient ID and SOP Instance UID in a file's header, each empty where there is none.

    Raises
    ------
    UnreadableObject
        It is not a readable DICOM file.
    """
    header = read_header(path)
    return text(header, "PatientID"), text(header, "SOPInstanceUID")


def attributes(header: Dataset) -> dict[str, str]:
    """Return by what radiographs are divided into subgroups: the keys of `ATTRIBUTES`, those that the header states.

    Nothing of it names a patient: the age is a band in completed years, and a sex that is none of the defined terms
    (PS3.3 C.7.1.1) is left out.
    """
    texts = {name: " ".join(text(header, name).split())[:_LONGEST] for name in ATTRIBUTES if name != "AgeBand"}
    sex = texts["PatientSex"].upper()
    texts["PatientSex"] = sex if sex in ("F", "M", "O") else ""
    texts["ViewPosition"] = view_of(header)[:_LONGEST]
    years = age_years(header)
    texts["AgeBand"] = "" if years is None else age_band(years)
    return {name: texts[name] for name in ATTRIBUTES if texts[name]}


def age_band(years: float) -> str:
    """Return the band of an age, for instance ``"1 to 5 years"``."""
    begin = max((age for age in _AGES if age <= years), default=None)
    if begin is None:
        return f"under {_AGES[0]} year"
    end = next((age for age in _AGES if age > begin), None)
    return f"{begin} years and over" if end is None else f"{begin} to {end - 1} years"


AGE_BANDS = tuple(age_band(years) for years in (0, *_AGES))
"""The bands, the youngest first."""
