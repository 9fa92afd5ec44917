"""Writes the words of a picture into their places."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dicom_io.finding import Answer
from worker.results import words
from worker.results.frame import least_width, unit_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from dicom_io.finding import Finding, ModelIdentity
    from worker.results.frame import Frame

Colour = tuple[int, int, int]

AMBER: Colour = (255, 179, 92)
LUNGS: Colour = (126, 178, 214)
_WHITE: Colour = (240, 243, 247)
_PALE: Colour = (205, 214, 224)
_GREY: Colour = (163, 171, 181)
_HEADLINES = {Answer.FLAGGED: AMBER}  # all others are calm
_TITLE, _LARGE, _PLAIN, _SMALL = 1.75, 1.25, 1.05, 0.92  # sizes in units


def lines(finding: Finding, height: int) -> list[tuple[str, Colour]]:
    """Return what stands below headline and probability, as lines that fit the narrowest picture of a height."""
    unit = unit_of(height)
    width, font = least_width(height) - 2 * unit, _font(round(unit * _PLAIN))
    texts = ((words.where(finding), _PALE), (words.caution(finding), AMBER))
    return [(line, colour) for text, colour in texts for line in _wrapped(text, font, width)]


def letter(
    canvas: NDArray[np.uint8],
    frame: Frame,
    finding: Finding,
    identity: ModelIdentity,
    created: datetime,
    captions: Sequence[tuple[str, bool]],
    below: Sequence[tuple[str, Colour]],
) -> None:
    """Write header, captions, labels of the bar, and footer: into strips, since Pillow copies what it writes on.

    `captions` are the panels', each with whether the lungs are outlined there; `below` is what `lines` returned.
    """
    header = Image.fromarray(canvas[: frame.top])
    _write_header(ImageDraw.Draw(header), frame, finding, below)
    _write_captions(ImageDraw.Draw(header), frame, captions)
    canvas[: frame.top] = np.asarray(header)
    foot = frame.top + frame.panel[1]
    footer = Image.fromarray(canvas[foot:])
    _write_footer(ImageDraw.Draw(footer), frame, identity, created)
    canvas[foot:] = np.asarray(footer)


def letter_bar(canvas: NDArray[np.uint8], frame: Frame) -> None:
    """Write what the colour bar shows, in words: how strong the evidence is."""
    left, top, right, bottom = frame.bar
    unit, begin = frame.unit, frame.top
    strip = Image.fromarray(canvas[begin : begin + frame.panel[1], left:])
    draw, small = ImageDraw.Draw(strip), _font(round(_SMALL * unit))
    draw.text((0, top - begin - 0.6 * unit), "evidence", _GREY, small, anchor="ld")
    for share, label in ((0.0, "strong"), (0.75, "weak"), (1.0, "none")):
        place = (right - left + 0.4 * unit, top - begin + share * (bottom - top))
        draw.text(place, label, _GREY, small, anchor="lm")
    canvas[begin : begin + frame.panel[1], left:] = np.asarray(strip)


def _write_header(
    draw: ImageDraw.ImageDraw, frame: Frame, finding: Finding, below: Sequence[tuple[str, Colour]]
) -> None:
    """Write the answer, its probability, where, and what makes it doubtful."""
    unit, width = frame.unit, frame.width - 2 * frame.unit
    answer = finding.answer
    text, font = _fitted(answer.sentence, unit * _TITLE, width)
    draw.text((unit, 0.6 * unit), text, _HEADLINES.get(answer, _WHITE), font)
    text, font = _fitted(finding.likelihood, unit * _LARGE, width)
    draw.text((unit, 4.1 * unit), text, _PALE, font, anchor="ls")
    place, small = unit + font.getlength(text) + unit, _font(round(unit * _SMALL))
    if place + small.getlength(finding.limit) <= frame.width - unit:
        draw.text((place, 4.1 * unit), finding.limit, _GREY, small, anchor="ls")
    plain = _font(round(unit * _PLAIN))
    for number, (line, colour) in enumerate(below):
        draw.text((unit, (4.65 + 1.4 * number) * unit), line, colour, plain)


def _write_captions(draw: ImageDraw.ImageDraw, frame: Frame, captions: Sequence[tuple[str, bool]]) -> None:
    """Write over each panel what it shows; the name of the lungs' outline has its colour."""
    for number, (text, outlined) in enumerate(captions):
        left, line = frame.left(number), frame.top - 0.35 * frame.unit
        small = _font(round(frame.unit * _SMALL))
        name = "lungs" if outlined else ""
        shown, font = _fitted(text, frame.unit * _SMALL, round(frame.panel[0] - small.getlength(f"{name}  ")))
        draw.text((left, line), shown, _PALE, font, anchor="ld")
        draw.text((left + frame.panel[0], line), name, LUNGS, small, anchor="rd")


def _write_footer(draw: ImageDraw.ImageDraw, frame: Frame, identity: ModelIdentity, created: datetime) -> None:
    """Write what it is for, when it was made, and by which model."""
    unit, edge = frame.unit, frame.width - frame.unit
    plain, small = _font(round(_PLAIN * unit)), _font(round(_SMALL * unit))
    draw.text((unit, 1.3 * unit), words.NOTICE, _WHITE, plain, anchor="lm")
    draw.text((edge, 1.3 * unit), words.time(created), _GREY, small, anchor="rm")
    digest = f"sha256 {identity.digest[:12]}"
    draw.text((edge, 2.8 * unit), digest, _GREY, small, anchor="rm")
    rest = round(edge - 2 * unit - small.getlength(digest))
    model, font = _fitted(f"{identity.name} {identity.version}", unit * _SMALL, rest)
    draw.text((unit, 2.8 * unit), model, _GREY, font, anchor="lm")


def _fitted(text: str, size: float, width: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """Return a text and its typeface so that it fits a width: smaller by a fifth at most, then cut short."""
    font = _font(round(size))
    if font.getlength(text) > width:
        font = _font(max(8, round(size * max(0.8, width / font.getlength(text)))))
    while text and font.getlength(text) > width:
        text = text.rstrip("…")[:-1] + "…" if len(text) > 1 else ""
    return text, font


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break a text into lines of at most a width, between words."""
    broken: list[str] = []
    for word in text.split():
        if broken and font.getlength(f"{broken[-1]} {word}") <= width:
            broken[-1] += f" {word}"
        else:
            broken.append(word)
    return broken


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return the typeface that comes with Pillow; it has the Latin letters only, and our words need no others."""
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise TypeError("this Pillow was built without FreeType")
    return font
