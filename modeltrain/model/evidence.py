"""From the network's local evidence to a map in the radiograph's frame, its regions, and what is known of the lungs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dicom_io.finding import Lungs, Region

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from modeltrain.model.outputs import Outputs

SIDE = 224  # of a map; finer than this the network saw nothing
_LUNG = 0.5  # probability from which a place is lung
_SOFT = (0.3, 0.7)  # between these probabilities the map fades out at the lungs' edge
LEAST_LUNG = 0.015  # a lung is no smaller part of the image: a child's in a frame of two bodies has 0.04
_LEAST_OF_OTHER = 0.12  # a second area that is smaller than this part of the first is no lung
_CUT = 0.25  # a lung is cut off where this part of its height or width lies on the image's edge
_REGION = 0.5  # a region holds what is at least this part of the map's peak
_LEAST_REGION = 0.004  # of the image: smaller areas are part of the map's grain


def evidence_map(
    outputs: Outputs, index: int, slope: float = 1.0, intercept: float = 0.0, side: int = SIDE
) -> NDArray[np.float32]:
    """Return one image's evidence for PNEUMONIA, float32 [side, side], 0 and up, in the frame of the radiograph.

    A value is the calibrated log-odds of pneumonia if the whole lung looked like this place; 0 where these are below
    even, and outside the lungs. It is not scaled to its own maximum: a weak answer has a weak map.
    """
    odds = np.float32(slope) * outputs.evidence[index] + np.float32(intercept)
    left, top, right, bottom = (float(value) * side for value in outputs.box[index])
    rows, columns = odds.shape
    # Centres of cells go to their places; beyond the outermost centres the outermost cells go on.
    across, down = (right - left) / columns, (bottom - top) / rows
    matrix = np.array([[across, 0, left + across / 2 - 0.5], [0, down, top + down / 2 - 0.5]])
    placed = cv2.warpAffine(odds, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    lungs = outputs.lungs[index]
    if lungs.size > 1:
        low, high = _SOFT
        placed = placed * np.clip((_resized(lungs, side, side) - low) / (high - low), 0, 1)
    return np.maximum(placed, 0, dtype=np.float32)


def _resized(values: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(values, (columns, rows), interpolation=cv2.INTER_LINEAR), np.float32)


def lung_mask(probability: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.bool_]:
    """Return which places of a radiograph of `rows` and `columns` are lung, from one image's `Outputs.lungs`."""
    return np.asarray(_resized(probability, rows, columns) >= _LUNG)


def lungs_of(probability: NDArray[np.float32], rows: int, columns: int) -> Lungs | None:
    """Return what was found of the lungs.

    Parameters
    ----------
    probability
        float32 [h, w], one image's `Outputs.lungs`.
    rows, columns
        Of the radiograph, for the outlines.

    Returns
    -------
    The lungs, or None where the network does not look for them.
    """
    if probability.size == 1:
        return None
    mask = (probability >= _LUNG).astype(np.uint8)
    areas = [area for area in _areas(mask) if area.mean() >= LEAST_LUNG]
    areas = [area for area in areas if area.sum() >= _LEAST_OF_OTHER * areas[0].sum()][:2]
    if len(areas) == 1 and _is_both(areas[0]):
        return _described(areas, 2, rows, columns)
    return _described(areas, len(areas), rows, columns)


def _described(areas: Sequence[NDArray[np.uint8]], count: int, rows: int, columns: int) -> Lungs:
    return Lungs(
        share=round(float(sum(area.mean() for area in areas)), 4),
        count=count,
        cut=any(_is_cut(area) for area in areas),
        contours=tuple(_outline(area, rows, columns) for area in areas),
    )


def _areas(mask: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Return the connected areas of a mask, the largest first."""
    count, names, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    order = sorted(range(1, count), key=lambda name: -int(stats[name, cv2.CC_STAT_AREA]))
    return [(names == name).astype(np.uint8) for name in order]


def _is_both(area: NDArray[np.uint8]) -> bool:
    """Whether one area is two lungs that touch: it is wider than high, and has a gap below between its halves."""
    rows, columns = np.nonzero(area.any(1))[0], np.nonzero(area.any(0))[0]
    middle = columns[0] + len(columns) // 3, columns[-1] + 1 - len(columns) // 3
    between = area[rows[0] : rows[-1] + 1, middle[0] : middle[1]].mean(axis=0).min()
    return bool(len(columns) > 0.9 * len(rows) and between < 0.6)


def _is_cut(area: NDArray[np.uint8]) -> bool:
    height, width = int(area.any(1).sum()), int(area.any(0).sum())
    sides = (area[:, 0].sum(), area[:, -1].sum())
    ends = (area[0].sum(), area[-1].sum())
    return bool(max(ends) >= _CUT * width or max(sides) >= _CUT * height)


def _outline(area: NDArray[np.uint8], rows: int, columns: int) -> tuple[tuple[float, float], ...]:
    """Return the outer outline of a connected area in the pixels of a radiograph of `rows` and `columns`."""
    outlines, _ = cv2.findContours(area, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    corners = cv2.approxPolyDP(max(outlines, key=len), 0.7, closed=True)[:, 0].astype(np.float64)
    if len(corners) < 3:
        return ()
    scale = np.array([columns / area.shape[1], rows / area.shape[0]])
    return tuple((round(float(x), 2), round(float(y), 2)) for x, y in (corners + 0.5) * scale)


def regions_of(
    evidence: NDArray[np.float32], lungs: NDArray[np.float32], rows: int, columns: int
) -> tuple[Region, ...]:
    """Return the connected areas that are at least half as strong as the map's peak, the strongest first.

    Parameters
    ----------
    evidence
        float32 [h, w], of `evidence_map`.
    lungs
        One image's `Outputs.lungs`, which tell side and zone where there are two: one alone does not say which it is.
    rows, columns
        Of the radiograph.

    Returns
    -------
    None at all where the map is empty.
    """
    peak = float(evidence.max())
    if not peak > 0:
        return ()
    mask = (evidence >= _REGION * peak).astype(np.uint8)
    areas = _areas(mask)
    # The one with the peak is named however small it is.
    kept = [area for area in areas if area.mean() >= _LEAST_REGION or float(evidence[area > 0].max()) == peak]
    kept.sort(key=lambda area: -float(evidence[area > 0].max()))
    anatomy = lungs_of(lungs, rows, columns)
    both = lungs if anatomy and anatomy.count == 2 else None
    return tuple(_region(area, both, rows, columns) for area in kept)


def _region(area: NDArray[np.uint8], lungs: NDArray[np.float32] | None, rows: int, columns: int) -> Region:
    left, top, width, height = cv2.boundingRect(area)
    across, down = columns / area.shape[1], rows / area.shape[0]
    box = (
        math.floor(left * across),
        math.floor(top * down),
        min(math.ceil((left + width) * across), columns),
        min(math.ceil((top + height) * down), rows),
    )
    side, zone = _place(area, lungs) if lungs is not None else ("", "")
    return Region(box, _outline(area, rows, columns), side, zone)


def _place(area: NDArray[np.uint8], lungs: NDArray[np.float32]) -> tuple[str, str]:
    """Return side and zone of an area's middle; a zone is a third of the height of the lung that it lies in."""
    mask = lung_mask(lungs, *area.shape)
    ys, xs = np.nonzero(area)
    x, y = float(xs.mean()), float(ys.mean())
    columns = np.nonzero(mask.any(0))[0]
    if not len(columns):
        return "", ""
    # The patient faces the reader: the right lung is on the picture's left.
    middle = (columns[0] + columns[-1]) / 2
    own = mask[:, : int(middle) + 1] if x <= middle else mask[:, int(middle) + 1 :]
    heights = np.nonzero(own.any(1))[0]
    if not len(heights):
        return "", ""
    part = (y - heights[0]) / max(len(heights), 1)
    return ("right" if x <= middle else "left"), ("upper" if part < 1 / 3 else "middle" if part < 2 / 3 else "lower")
