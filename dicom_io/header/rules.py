"""The rules of eligibility and their defaults: plain values, without pydicom, so that settings load quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Absent = Literal["analyse", "skip"]


@dataclass(frozen=True)
class Rules:
    """What is analysed. Words are compared without regard to case and to anything but letters and digits.

    A Secondary Capture may be a radiograph that was converted (public data sets, digitised film); it is taken for one
    only where its modality says so and it states both body part and view. DX for processing is what comes before the
    modality's own processing: readers never see it, and where a modality sends both, the exposure would be answered
    twice. Whoever has nothing else adds its SOP class.
    """

    modalities: tuple[str, ...] = ("CR", "DX")
    sop_classes: tuple[str, ...] = (
        "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography Image Storage
        "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray Image Storage - For Presentation
        "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture Image Storage
    )
    body_parts: tuple[str, ...] = (
        "CHEST",
        "THORAX",
        "LUNG",
        "LUNGS",
        "PORT CHEST",
        "CHEST PORT",
        "CHEST PA",
        "CHEST AP",
    )
    views: tuple[str, ...] = ("PA", "AP", "FRONTAL", "POSTERO-ANTERIOR", "ANTERO-POSTERIOR")
    absent_body_part: Absent = "analyse"
    absent_view: Absent = "analyse"
    allow_derived: bool = False
    min_age_years: float | None = None
    max_age_years: float | None = None  # in completed years: 5 lets in a child up to its sixth birthday
    absent_age: Absent = "analyse"  # heeded only where an age is asked for
