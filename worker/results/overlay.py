"""Composes the picture that a reader sees: the radiograph, its evidence for pneumonia, and the answer in words."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from dicom_io.finding import STRONG_EVIDENCE
from worker.results import words
from worker.results.frame import Frame, fit
from worker.results.lettering import AMBER, LUNGS, letter, letter_bar, lines
from worker.storage.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from dicom_io.finding import Finding, ModelIdentity, Region

# Perceptually even, readable with any colour vision. Without its ends: black would darken, and white looks like bone.
_COLOURS = cv2.applyColorMap(np.linspace(56, 228, 256).astype(np.uint8)[None], cv2.COLORMAP_INFERNO)[:, :, ::-1]
_OPACITY = 0.45  # of strong evidence: the anatomy stays visible under it
_MID_GREY = 110  # the tissue that the colour bar is drawn over
_BACKGROUND = (13, 15, 19)
_LUNG_LINE = 0.75  # opacity of the lungs' outline
_REGION_LINE = (0.35, 0.95)  # opacity of a region's outline where its evidence is nil, and where it is strong

Layout = Literal["side-by-side", "overlay", "radiograph"]


def compose(
    values: NDArray[np.float32],
    evidence: NDArray[np.float32],
    *,
    finding: Finding,
    identity: ModelIdentity,
    created: datetime,
    aspect: float = 1.0,
    height: int = 1024,
    layout: Layout = "side-by-side",
) -> NDArray[np.uint8]:
    """Draw the radiograph, beside it the same with the evidence over it, a colour bar, and the answer in words.

    Panels have the radiograph's orientation and proportions. Opacity grows with the evidence in absolute terms, up to
    `STRONG_EVIDENCE`, and is bounded by the answer (`Finding.strength`): weak evidence looks weak in every picture, and
    so does the evidence for a weak answer. The lungs are outlined, and each region. Where the
    answer is no or outside, the plain radiograph stands alone.

    Parameters
    ----------
    values
        float32 [H,W], 0 black to 1 white, as rendered.
    evidence
        float32 [h,w] in log-odds, 0 and up, covering the same field of view.
    finding, identity, created
        What is written. Outlines are in pixels of `values`.
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
        uint8 [H,W,3], RGB, between 1,000 and 1,600 pixels wide where it is 1,024 high.
    """
    shown = finding.answer.shows_evidence
    below = lines(finding, height)
    # One line at least, so that the pictures of most answers have their panels in the same place.
    panels = 2 if layout == "side-by-side" and shown else 1
    rows = values.shape[0] * aspect
    frame = fit(rows, values.shape[1], height, panels=panels, lines=max(1, len(below)), bar=shown)
    grey = _grey(values, frame.image)
    canvas = np.zeros((frame.height, frame.width, 3), np.uint8)
    cv2.rectangle(canvas, (0, 0), (frame.width, frame.height), _BACKGROUND, cv2.FILLED)
    plain = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8)
    captions = [("Radiograph", False), (words.caption(finding), shown and bool(finding.lungs))]
    contents = captions[-panels:] if layout != "radiograph" else captions[:1]
    for number, each in enumerate(contents):
        over = shown and each is captions[1]
        panel = _evidence(grey, evidence, finding, values.shape, frame.unit) if over else plain
        _place(canvas, frame, number, panel)
    if shown and layout != "radiograph":
        _draw_bar(canvas, frame)
        letter_bar(canvas, frame)
    letter(canvas, frame, finding, identity, created, contents, below)
    return canvas


def _place(canvas: NDArray[np.uint8], frame: Frame, number: int, panel: NDArray[np.uint8]) -> None:
    """Put a radiograph into the middle of its panel, on black."""
    left, top = frame.left(number), frame.top
    canvas[top : top + frame.panel[1], left : left + frame.panel[0]] = 0
    left, top = frame.corner(number)
    canvas[top : top + frame.image[1], left : left + frame.image[0]] = panel


def _grey(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Bring the radiograph to its size in the picture, uint8 [h,w].

    In eight bits, and by halves as long as it stays larger, which OpenCV makes much faster than other parts.
    """
    grey = cv2.convertScaleAbs(values, alpha=255.0)
    while size[0] <= grey.shape[1] // 2 and size[1] <= grey.shape[0] // 2:
        halves = (grey.shape[1] // 2, grey.shape[0] // 2)
        grey = cv2.resize(grey, halves, interpolation=cv2.INTER_AREA)
    shrinks = size[0] <= grey.shape[1] and size[1] <= grey.shape[0]
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC), np.uint8)


def _evidence(
    grey: NDArray[np.uint8], evidence: NDArray[np.float32], finding: Finding, shape: tuple[int, ...], unit: int
) -> NDArray[np.uint8]:
    """Return the radiograph with colours and outlines over it; `shape` is that of the image they are given in."""
    evidence = _bounded(evidence, finding.strength)
    panel = _overlaid(grey, evidence)
    lungs = finding.lungs.contours if finding.lungs else ()
    _outline(panel, lungs, shape, LUNGS, _LUNG_LINE, max(1, round(unit / 20)))
    least, most = _REGION_LINE
    for region in finding.regions:
        opacity = least + (most - least) * min(1.0, _peak(region, evidence, shape) / STRONG_EVIDENCE)
        _outline(panel, [region.outline], shape, AMBER, opacity, max(1, round(unit / 15)))
    return panel


def _bounded(evidence: NDArray[np.float32], strength: float) -> NDArray[np.float32]:
    """Weaken a map so that its peak is at most such a part of `STRONG_EVIDENCE`; its shape stays."""
    peak, most = float(evidence.max(initial=0.0)), strength * STRONG_EVIDENCE
    return evidence if peak <= most else np.asarray(evidence * (most / peak), np.float32)


def _peak(region: Region, evidence: NDArray[np.float32], shape: tuple[int, ...]) -> float:
    """Return the strongest evidence in a region's box."""
    across, down = evidence.shape[1] / shape[1], evidence.shape[0] / shape[0]
    left, top, right, bottom = region.box
    rows = slice(int(top * down), max(int(bottom * down), int(top * down) + 1))
    columns = slice(int(left * across), max(int(right * across), int(left * across) + 1))
    return float(evidence[rows, columns].max(initial=0.0))


def _outline(
    panel: NDArray[np.uint8],
    contours: Sequence[Sequence[tuple[float, float]]],
    shape: tuple[int, ...],
    colour: tuple[int, int, int],
    opacity: float,
    thickness: int,
) -> None:
    """Draw closed lines over a panel, in place; contours are in pixels of an image of `shape`."""
    scale = np.array([panel.shape[1] / shape[1], panel.shape[0] / shape[0]])
    # In sixteenths of a pixel; OpenCV counts from the middle of the first pixel, contours from its corner.
    paths = [np.rint((np.array(each) * scale - 0.5) * 16).astype(np.int32) for each in contours if len(each) > 2]
    if not paths:
        return
    lined = panel.copy()
    cv2.polylines(lined, paths, isClosed=True, color=colour, thickness=thickness, lineType=cv2.LINE_AA, shift=4)
    cv2.addWeighted(lined, opacity, panel, 1 - opacity, 0, dst=panel)


@lru_cache(maxsize=1)
def _blend() -> NDArray[np.uint32]:
    """Return what becomes of each grey under each level of evidence: uint32 [65536], red, green and blue in its bytes.

    Eight bits of evidence are as many as there are colours, and a radiograph has eight bits here: every pixel's blend
    is an entry of this table, at 256 times the level plus the grey.
    """
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(256, axis=0)
    level = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2).repeat(256, axis=1)
    weight = np.linspace(0, _OPACITY, 256, dtype=np.float32).reshape(1, 256, 1)
    remainder = np.repeat(1 - weight, 3, axis=2)
    blended = cv2.multiply(grey, cv2.LUT(level, remainder), dtype=cv2.CV_32F)
    table = cv2.convertScaleAbs(cv2.add(blended, cv2.LUT(level, weight * _COLOURS)))
    packed = np.ascontiguousarray(cv2.cvtColor(table, cv2.COLOR_RGB2RGBA)).view(np.uint32).ravel()
    packed.flags.writeable = False
    return packed


def _overlaid(grey: NDArray[np.uint8], evidence: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Blend the colours of the evidence over a radiograph, uint8 [h,w]; each cell covers its part of it.

    Returns
    -------
    ndarray
        uint8 [h,w,3].
    """
    height, width = grey.shape
    smooth = cv2.resize(evidence, (width, height), interpolation=cv2.INTER_CUBIC)
    level = cv2.convertScaleAbs(np.maximum(smooth, 0, out=smooth), alpha=255.0 / STRONG_EVIDENCE)
    entry = np.ascontiguousarray(cv2.merge((grey, level))).view("<u2").reshape(height, width)
    blended = _blend()[entry].view(np.uint8).reshape(height, width, 4)
    return np.asarray(cv2.cvtColor(blended, cv2.COLOR_RGBA2RGB), np.uint8)


def _draw_bar(canvas: NDArray[np.uint8], frame: Frame) -> None:
    """Draw the scale of the evidence as it looks over grey tissue."""
    left, top, right, bottom = frame.bar
    tissue = np.full((bottom - top, right - left), _MID_GREY, np.uint8)
    ramp = np.linspace(STRONG_EVIDENCE, 0, bottom - top, dtype=np.float32)[:, None]
    canvas[top:bottom, left:right] = _overlaid(tissue, np.repeat(ramp, right - left, axis=1))


def write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write a picture, uint8 [H,W,3], as a PNG file that is there whole or not at all.

    Raises
    ------
    OutOfResources
        The disk is full or the folder cannot be written.
    """
    _, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    write_whole(path, data.tobytes())
