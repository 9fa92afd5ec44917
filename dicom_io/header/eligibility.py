"""Decides by its header whether a received object is one to analyse: a frontal radiograph of a human chest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset
from pydicom.uid import UID, SecondaryCaptureImageStorage

from dicom_io.finding import MANUFACTURER
from dicom_io.header.attributes import items, text, values
from dicom_io.header.rules import Rules

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Verdict:
    """Whether to analyse an object, and if not, why: in words a person can act on, without a patient's data."""

    analyse: bool
    reason: str  # empty where it is analysed
    radiograph: bool = True  # by modality, SOP class and image type, and not our own: what a report can be about


def judge(header: Dataset, rules: Rules) -> Verdict:
    """Apply the rules to a header; a malformed value counts as an absent one.

    Parameters
    ----------
    header
        The dataset, with or without its pixel data.
    rules
        What is analysed.

    Returns
    -------
    Verdict
        With the reason of the first rule that is not met.
    """
    # A copy: what is decoded here is still copied into results in the bytes that it came in.
    tags = header.keys()
    header = Dataset({tag: header.get_item(tag, keep_deferred=True) for tag in tags})
    for rule in _RULES:
        reason = rule(header, rules)
        if reason:
            return Verdict(analyse=False, reason=reason, radiograph=rule not in _NO_RADIOGRAPH)
    return Verdict(analyse=True, reason="")


def _own_output(header: Dataset, _: Rules) -> str:
    """Recognise our own results, so that a PACS that sends everything back starts no loop."""
    makers = [text(header, "Manufacturer")]
    makers += [text(item, "Manufacturer") for item in items(header, "ContributingEquipmentSequence")]
    return "own output" if MANUFACTURER in (maker.lower() for maker in makers) else ""


def _modality(header: Dataset, rules: Rules) -> str:
    modality = text(header, "Modality")
    if not modality:
        return "no modality is stated (rules.modalities)"
    if _word(modality) in _words(rules.modalities):
        return ""
    return f"modality {_quoted(modality)} is not among rules.modalities"


def _sop_class(header: Dataset, rules: Rules) -> str:
    uid = UID(text(header, "SOPClassUID"))
    if not uid:
        return "no SOP class is stated"
    if uid not in rules.sop_classes:
        return f"SOP class {uid.name if uid.is_valid and not uid.is_private else 'unknown'} is not in rules.sop_classes"
    if uid == SecondaryCaptureImageStorage and not (_body_part(header) and view_of(header)):
        return "a Secondary Capture that does not state both body part and view may be anything"
    return ""


def _species(header: Dataset, _: Rules) -> str:
    """Recognise veterinary images, where they say so (PS3.3 C.7.1.1: species and breed are for animals)."""
    species = _word(text(header, "PatientSpeciesDescription"))
    codes = {text(item, "CodeValue") for item in items(header, "PatientSpeciesCodeSequence")}
    animal = species not in ("", "HUMAN", "HOMOSAPIENS") or bool(codes - _HUMAN - {""})
    return "the patient is an animal" if animal or text(header, "PatientBreedDescription") else ""


# Homo sapiens in SNOMED CT and in its older notation.
_HUMAN = frozenset({"337915000", "L-85B00"})


def _image_type(header: Dataset, rules: Rules) -> str:
    # Some modalities put the values behind one another with a space.
    kinds = [kind.upper() for value in values(header, "ImageType") for kind in str(value).split()]
    if "SECONDARY" in kinds:
        return "a secondary image (Image Type SECONDARY), not the radiograph itself"
    if "DERIVED" in kinds and not rules.allow_derived and not _only_compressed(header):
        return "a derived image (Image Type DERIVED; rules.allow_derived)"
    return ""


def _only_compressed(header: Dataset) -> bool:
    """Tell whether lossy compression is all that an image was derived by: then it still is the radiograph.

    PS3.3 C.7.6.1.1.2 makes it DERIVED for that alone; the Derivation Code Sequence must say so.
    """
    codes = [(text(item, "CodeValue"), text(item, "CodingSchemeDesignator")) for item in items(header, _DERIVATION)]
    return bool(codes) and all(code == ("113040", "DCM") for code in codes)


_DERIVATION = "DerivationCodeSequence"


def _chest(header: Dataset, rules: Rules) -> str:
    part = _body_part(header)
    if not part:
        return "" if rules.absent_body_part == "analyse" else "no body part is stated (rules.absent_body_part)"
    return "" if _word(part) in _words(rules.body_parts) else f"body part {_quoted(part)} is not among rules.body_parts"


def _body_part(header: Dataset) -> str:
    """Return the body part in a word, from its attribute or else from the code of the anatomic region."""
    part = text(header, "BodyPartExamined")
    if part:
        return part
    codes = [text(item, "CodeValue") for item in items(header, "AnatomicRegionSequence")]
    return next((_REGIONS.get(code, "of another code") for code in codes if code), "")


# SNOMED CT and its older notation (PS3.16 CID 4009, CID 4031).
_REGIONS = {
    "51185008": "CHEST",
    "816094009": "CHEST",
    "T-D3000": "CHEST",
    "39607008": "LUNG",
    "T-28000": "LUNG",
}


def _frontal(header: Dataset, rules: Rules) -> str:
    view = view_of(header)
    if view:
        return "" if _word(view) in _words(rules.views) else f"view {_quoted(view)} is not frontal (rules.views)"
    if _looks_lateral(header):
        return "no view is stated, and orientation or protocol say lateral (rules.views)"
    return "" if rules.absent_view == "analyse" else "no view is stated (rules.absent_view)"


def view_of(header: Dataset) -> str:
    """Return the view in a word, from its attribute or else from its code."""
    view = text(header, "ViewPosition")
    if view:
        return view
    codes = [text(item, "CodeValue") for item in items(header, "ViewCodeSequence")]
    return next((_VIEWS.get(code, "of another code") for code in codes if code), "")


# SNOMED CT and its older notations (PS3.16 CID 4010).
_VIEWS = {
    "399348003": "AP",
    "R-10206": "AP",
    "272479007": "PA",
    "R-40888": "PA",
    "R-10214": "PA",
    "399033003": "FRONTAL",
    "399067008": "LATERAL",
    "399173006": "LEFT LATERAL",
    "399198007": "RIGHT LATERAL",
}


def _looks_lateral(header: Dataset) -> bool:
    """Look for a lateral where no view is stated: rows that run front to back, or a protocol's name that says so."""
    orientation = values(header, "PatientOrientation")
    if orientation and str(orientation[0])[:1].upper() in ("A", "P"):
        return True
    words: set[str] = set()
    for keyword in ("ProtocolName", "SeriesDescription", "AcquisitionDeviceProcessingDescription"):
        words |= set(re.findall(r"[A-Z]+", text(header, keyword).upper().replace(".", "")))
    return bool(words & _LATERAL_WORDS) and not words & _FRONTAL_WORDS


_LATERAL_WORDS = frozenset("LAT LATERAL LATERALE LATERALIS LL RL SEITLICH SEITL PROFIL PERFIL".split())  # noqa: SIM905
_FRONTAL_WORDS = frozenset("PA AP FRONTAL FRONTALE FACE DV VD".split())  # noqa: SIM905


def _age(header: Dataset, rules: Rules) -> str:
    low, high = rules.min_age_years, rules.max_age_years
    if low is None and high is None:
        return ""
    years = age_years(header)
    if years is None:
        return "" if rules.absent_age == "analyse" else "no age is stated (rules.absent_age)"
    if (low is None or years >= low) and (high is None or int(years) <= high):
        return ""
    if low is None:
        return f"age above {high:g} years (rules.max_age_years)"
    if high is None:
        return f"age below {low:g} years (rules.min_age_years)"
    return f"age outside {low:g}–{high:g} years (rules.min_age_years, rules.max_age_years)"


def age_years(header: Dataset) -> float | None:
    """Return the patient's age at the study in years, by Patient's Age or else by the birth date; None if unknown."""
    age = re.fullmatch(r"(\d{1,3})([DWMY]?)", text(header, "PatientAge").upper())
    if age:
        # Without a unit, years are meant: other units are never left out.
        return int(age[1]) / {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0, "": 1.0}[age[2]]
    birth_date = _date(header, "PatientBirthDate")
    dates = (_date(header, keyword) for keyword in ("StudyDate", "AcquisitionDate", "SeriesDate", "ContentDate"))
    image_date = next(filter(None, dates), None)
    if birth_date is None or image_date is None or image_date < birth_date:
        return None
    whole = (
        image_date.year - birth_date.year - ((image_date.month, image_date.day) < (birth_date.month, birth_date.day))
    )
    # Completed years are counted by the calendar, so that a birthday is a birthday.
    return whole + min(0.999, max(0.0, (image_date - birth_date).days / 365.25 - whole))


def _date(header: Dataset, keyword: str) -> date | None:
    digits = re.fullmatch(r"(\d{4})\D?(\d\d)\D?(\d\d)", text(header, keyword))
    try:
        return date(int(digits[1]), int(digits[2]), int(digits[3])) if digits else None
    except ValueError:
        return None


def _word(value: str) -> str:
    """Bring a word to what it is compared by."""
    return "".join(character for character in value.upper() if character.isalnum())


def _words(rule: tuple[str, ...]) -> set[str]:
    return {_word(value) for value in rule}


def _quoted(value: str) -> str:
    """Repeat a code, but nothing that is none: free text may hold anything (PS3.5 6.2, CS)."""
    return value if re.fullmatch(r"[\w -]{1,20}", value, re.ASCII) else "(not a code)"


_RULES: tuple[Callable[[Dataset, Rules], str], ...] = (
    _own_output,
    _modality,
    _sop_class,
    _species,
    _image_type,
    _chest,
    _frontal,
    _age,
)

# What these leave out is no radiograph, a copy of one, or somebody's result.
_NO_RADIOGRAPH = (_own_output, _modality, _sop_class, _image_type)
