"""Which of the contents an image is that came under one SOP Instance UID; it needs no DICOM library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageVersion:
    """Which of the contents an image is that came under one SOP Instance UID.

    `number` counts from 1; `content` tells a later one from all others, and is empty of the first.
    """

    number: int = 1
    content: str = ""


FIRST = ImageVersion()
