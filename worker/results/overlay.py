"""Composes the picture that a reader sees: the radiograph beside its heatmap, with the finding in words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worker.storage.files import write_whole

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from dicom_io.finding import Finding, ModelIdentity

# Perceptually even, readable with any colour vision. Its black end is left out: low attention tints, never darkens.
_COLOURS = cv2.applyColorMap(np.linspace(56, 255, 256).astype(np.uint8)[None], cv2.COLORMAP_INFERNO)[:, :, ::-1]
_OPACITY = 0.55  # of the overlay where the attention is 1
_MID_GREY = 110  # the tissue that the colour bar is drawn over

_WIDTHS = (1000, 1600)  # least and greatest width of a picture that is 1,024 pixels high
_BACKGROUND, _WHITE, _GREY = (13, 15, 19), (240, 243, 247), (163, 171, 181)
_AMBER, _PALE = (255, 179, 92), (205, 214, 224)

NOTICE = "For research use. Not for diagnosis."
Layout = Literal["side-by-side", "overlay", "radiograph"]


@dataclass(frozen=True)
class _Frame:
    """Where everything stands, in pixels."""

    width: int
    height: int
    unit: int  # size of plain text, and the measure of all spaces
    top: int  # of the panels
    panels: int  # two side by side, or the overlay alone
    panel: tuple[int, int]  # width and height of each of them
    image: tuple[int, int]  # width and height of the radiograph, in the middle of its panel

    def left(self, number: int) -> int:
        """Return where a panel begins; the number after the last is the colour bar's."""
        return self.unit + number * (self.panel[0] + self.unit)


def compose(
    values: NDArray[np.float32],
    attention: NDArray[np.float32],
    *,
    finding: Finding,
    identity: ModelIdentity,
    created: datetime,
    aspect: float = 1.0,
    height: int = 1024,
    layout: Layout = "side-by-side",
) -> NDArray[np.uint8]:
    """Draw the radiograph, beside it the same with the heatmap over it, a colour bar, and the finding in words.

    Both panels have the radiograph's orientation and proportions. Opacity grows with the attention, so that the anatomy
    stays visible under it and untouched where there is none. Attention is relative to its own maximum, even in an image
    with nothing to see: where the decision is NORMAL the overlay is faded by probability / threshold, not to alarm.

    Parameters
    ----------
    values
        float32 [H,W], 0 black to 1 white, as rendered.
    attention
        float32 [h,w], 0..1, covering the same field of view.
    finding, identity, created
        What is written.
    aspect
        Row spacing / column spacing of `values`.
    height
        Of the picture, pixels, at most: a wide radiograph makes a lower one. Letters grow with it.
    layout
        `overlay` leaves the plain radiograph out, which the study has anyway; `radiograph` is the same with the plain
        radiograph in the overlay's place.

    Returns
    -------
    ndarray
        uint8 [H,W,3], RGB, between 1,000 and 1,600 pixels wide.
    """
    frame = _frame(values.shape[0] * aspect, values.shape[1], height, panels=2 if layout == "side-by-side" else 1)
    grey = _grey(values, frame.image)
    blend = _blend(_fade(finding))
    canvas = np.zeros((frame.height, frame.width, 3), np.uint8)
    cv2.rectangle(canvas, (0, 0), (frame.width, frame.height), _BACKGROUND, cv2.FILLED)
    plain = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8)
    contents = {"side-by-side": (0, 1), "overlay": (1,), "radiograph": (0,)}[layout]
    for number, each in enumerate(contents):
        panel = _overlaid(grey, attention, blend) if each else plain
        left, top = frame.left(number), frame.top
        canvas[top : top + frame.panel[1], left : left + frame.panel[0]] = 0
        left += (frame.panel[0] - frame.image[0]) // 2
        top += (frame.panel[1] - frame.image[1]) // 2
        canvas[top : top + frame.image[1], left : left + frame.image[0]] = panel
    if layout != "radiograph":
        _draw_bar(canvas, frame, blend)
    _letter(canvas, frame, finding, identity, created, contents)
    return canvas


def _frame(rows: float, columns: float, height: int, panels: int = 2) -> _Frame:
    """Fit the panels of a radiograph of such proportions, their captions and a colour bar into the picture."""
    unit = max(9, round(height * 0.0215))
    # header and captions, footer, colour bar with labels
    above, below, bar = round(7.6 * unit), round(2.6 * unit), 4 * unit
    least, most = (round(width * height / 1024) for width in _WIDTHS)
    rest = bar + (panels + 2) * unit  # the width that is not panels
    scale = min((height - above - below) / rows, ((most - rest) // panels) / columns)
    image = max(1, round(columns * scale)), max(1, round(rows * scale))
    panel = max(image[0], -(-(least - rest) // panels)), max(image[1], 10 * unit)
    return _Frame(
        width=panels * panel[0] + rest,
        height=above + panel[1] + below,
        unit=unit,
        top=above,
        panels=panels,
        panel=panel,
        image=image,
    )


def _grey(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Bring the radiograph to its size in the picture, uint8 [h,w]; in eight bits, since that is quicker."""
    shrinks = size[0] <= values.shape[1] and size[1] <= values.shape[0]
    eight = cv2.convertScaleAbs(values, alpha=255.0)
    return np.asarray(cv2.resize(eight, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC), np.uint8)


def _fade(finding: Finding) -> float:
    """Return how strongly the overlay is drawn, 0..1."""
    if finding.probability >= finding.threshold:
        return 1.0
    return float(np.clip(finding.probability / finding.threshold, 0.0, 1.0))


@lru_cache(maxsize=4)
def _blend(fade: float) -> NDArray[np.uint32]:
    """Return what becomes of each grey under each level of attention: uint32 [65536], red, green and blue in its bytes.

    Eight bits of attention are as many as there are colours, and a radiograph has eight bits here: every pixel's blend
    is an entry of this table, at 256 times the level plus the grey.
    """
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(256, axis=0)
    level = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2).repeat(256, axis=1)
    weight = np.linspace(0, _OPACITY * fade, 256, dtype=np.float32).reshape(1, 256, 1)
    remainder = np.repeat(1 - weight, 3, axis=2)
    blended = cv2.multiply(grey, cv2.LUT(level, remainder), dtype=cv2.CV_32F)
    table = cv2.convertScaleAbs(cv2.add(blended, cv2.LUT(level, weight * _COLOURS)))
    packed = np.ascontiguousarray(cv2.cvtColor(table, cv2.COLOR_RGB2RGBA)).view(np.uint32).ravel()
    packed.flags.writeable = False
    return packed


def _overlaid(grey: NDArray[np.uint8], attention: NDArray[np.float32], blend: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Blend the colours of the attention over a radiograph, uint8 [h,w]; each cell covers its part of it.

    Returns
    -------
    ndarray
        uint8 [h,w,3].
    """
    height, width = grey.shape
    smooth = cv2.resize(attention, (width, height), interpolation=cv2.INTER_CUBIC)
    level = cv2.convertScaleAbs(np.maximum(smooth, 0, out=smooth), alpha=255.0)
    entry = np.ascontiguousarray(cv2.merge((grey, level))).view("<u2").reshape(height, width)
    return np.asarray(cv2.cvtColor(blend[entry].view(np.uint8).reshape(height, width, 4), cv2.COLOR_RGBA2RGB), np.uint8)


def _bar_place(frame: _Frame) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the colour bar."""
    left, unit = frame.left(frame.panels), frame.unit
    length = min(frame.panel[1], 18 * unit)
    top = frame.top + (frame.panel[1] - length) // 2
    return left, top, left + round(0.9 * unit), top + length


def _draw_bar(canvas: NDArray[np.uint8], frame: _Frame, blend: NDArray[np.uint32]) -> None:
    """Draw the scale of the overlay as it looks over grey tissue."""
    left, top, right, bottom = _bar_place(frame)
    tissue = np.full((bottom - top, right - left), _MID_GREY, np.uint8)
    ramp = np.repeat(np.linspace(1, 0, bottom - top, dtype=np.float32)[:, None], right - left, axis=1)
    canvas[top:bottom, left:right] = _overlaid(tissue, ramp, blend)


def _letter(
    canvas: NDArray[np.uint8],
    frame: _Frame,
    finding: Finding,
    identity: ModelIdentity,
    created: datetime,
    contents: tuple[int, ...],
) -> None:
    """Write header, captions, labels of the bar, and footer: into strips, since Pillow copies what it writes on.

    `contents` holds 0 for the radiograph, 1 for the overlay.
    """
    foot, right = frame.top + frame.panel[1], frame.left(frame.panels)
    header = Image.fromarray(canvas[: frame.top])
    _write_header(header, frame, finding, identity, created, contents)
    canvas[: frame.top] = np.asarray(header)
    if 1 in contents:
        above, below = frame.top - frame.unit, foot + frame.unit  # a low panel's bar is as long as the panel
        labels = Image.fromarray(canvas[above:below, right:])
        _write_labels(labels, frame, above)
        canvas[above:below, right:] = np.asarray(labels)
    footer = Image.fromarray(canvas[foot:])
    draw, middle = ImageDraw.Draw(footer), frame.height - 1.3 * frame.unit - foot
    draw.text((frame.unit, middle), NOTICE, _WHITE, _font(round(1.05 * frame.unit)), anchor="lm")
    words = _shortened(f"sha256 {identity.digest[:12]}", 24)
    draw.text((frame.width - frame.unit, middle), words, _GREY, _font(round(0.92 * frame.unit)), anchor="rm")
    canvas[foot:] = np.asarray(footer)


def _write_header(
    strip: Image.Image,
    frame: _Frame,
    finding: Finding,
    identity: ModelIdentity,
    created: datetime,
    contents: tuple[int, ...],
) -> None:
    """Write the finding, the model, the date, what makes the answer doubtful, and the panels' captions."""
    draw = ImageDraw.Draw(strip)
    unit, edge = frame.unit, frame.width - frame.unit
    positive = finding.probability >= finding.threshold
    digits = _digits(finding)
    title, large, plain, small = (_font(round(unit * size)) for size in (1.75, 1.25, 1.05, 0.92))

    draw.text((unit, 0.7 * unit), f"Pneumonia probability {finding.probability:.{digits}f}", _WHITE, title)
    decision = f"Decision: {finding.decision}   (threshold {finding.threshold:.{digits}f})"
    draw.text((unit, 2.8 * unit), decision, _AMBER if positive else _PALE, large)
    model = _shortened(f"{identity.name} {identity.version}", 44 if frame.panels == 2 else 30)
    draw.text((edge, 0.95 * unit), model, _PALE, plain, anchor="ra")
    draw.text((edge, 2.4 * unit), created.strftime("%Y-%m-%d %H:%M"), _GREY, plain, anchor="ra")

    words, ink = _caution(finding)  # a line of its own: in a narrow picture nothing has room beside it
    draw.text((unit, 4.45 * unit), words, ink, plain)

    for number, each in enumerate(contents):
        words = caption(finding) if each else "Radiograph"
        draw.text((frame.left(number), frame.top - 0.35 * unit), words, _GREY, small, anchor="ld")


def _write_labels(strip: Image.Image, frame: _Frame, above: int) -> None:
    """Write the numbers of the colour bar and what they are, into the strip at its right that begins `above`."""
    draw, unit = ImageDraw.Draw(strip), frame.unit
    small = _font(round(0.92 * unit))
    left, top, right, bottom = _bar_place(frame)
    right, top, bottom = right - left, top - above, bottom - above
    for share, label in ((0.0, "1"), (0.5, "0.5"), (1.0, "0")):
        draw.text((right + 0.4 * unit, top + share * (bottom - top)), label, _GREY, small, anchor="lm")
    edge = frame.width - unit - left
    _write_upright(strip, "relative attention", small, right=edge, middle=(top + bottom) // 2)


def caption(finding: Finding) -> str:
    """Return what stands over the heatmap."""
    if finding.probability < finding.threshold:
        return "Where the model looked (Grad-CAM, faded)"
    if finding.region is None:  # the threshold lies below the network's own
        return "Grad-CAM: no part speaks for it by itself"
    if finding.beyond_normal:
        return "Where it differs from normal (Grad-CAM)"
    return "Where the model looked (Grad-CAM)"


def _caution(finding: Finding) -> tuple[str, tuple[int, int, int]]:
    """Return what makes the answer doubtful, and its colour; empty where nothing does."""
    if finding.out_of_distribution:
        return "Caution: unlike the images the model was trained on", _AMBER
    if finding.certain is False:
        return "Not sure: " + (" or ".join(finding.prediction_set or ()) or "neither class is likely"), _AMBER
    return "", _PALE


def _digits(finding: Finding) -> int:
    """Return how many decimals it takes to see on which side of the threshold the probability lies, 2 to 4."""
    return next((n for n in (2, 3) if round(finding.probability, n) != round(finding.threshold, n)), 4)


def _write_upright(picture: Image.Image, words: str, font: ImageFont.FreeTypeFont, *, right: int, middle: int) -> None:
    """Write from bottom to top, ending at the right edge."""
    _, _, width, height = (round(value) for value in font.getbbox(words))
    strip = Image.new("L", (width, height))
    ImageDraw.Draw(strip).text((0, 0), words, 255, font)
    turned = strip.transpose(Image.Transpose.ROTATE_90)
    place = (right - turned.width, middle - turned.height // 2)
    picture.paste(Image.new("RGB", turned.size, _GREY), place, turned)


def _shortened(words: str, length: int) -> str:
    return words if len(words) <= length else words[: length - 1] + "…"


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return the typeface that comes with Pillow; it has the Latin letters only, and our words need no others."""
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise TypeError("this Pillow was built without FreeType")
    return font


def write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write a picture, uint8 [H,W,3], as a PNG file that is there whole or not at all.

    Raises
    ------
    OutOfResources
        The disk is full or the folder cannot be written.
    """
    _, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    write_whole(path, data.tobytes())
