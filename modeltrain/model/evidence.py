"""From the network's local evidence to a map in the radiograph's frame, and to the regions of that map."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dicom_io.finding import Orientation, Region
from modeltrain.model.lung_areas import connected_areas, lung_areas, outline, resized

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from modeltrain.model.outputs import Outputs

SIDE = 224  # of a map; finer than this the network saw nothing
_SOFT = (0.3, 0.7)  # between these probabilities the map fades out at the lungs' edge
_EDGE = np.ones((5, 5), np.uint8)  # how far beyond a lung's edge it may do so, in cells of the network's lungs
_REGION = 0.5  # a region holds what is at least this part of the map's peak
_LEAST_REGION = 0.004  # of the image: smaller areas are part of the map's grain


def evidence_map(
    outputs: Outputs, index: int, slope: float = 1.0, intercept: float = 0.0, side: int = SIDE
) -> NDArray[np.float32]:
    """Return one image's evidence for PNEUMONIA, float32 [side, side], 0 and up, in the frame of the radiograph.

    A value is the calibrated log-odds of pneumonia if the whole lung looked like this place; 0 where these are below
    even, and outside the lungs that were found (`lung_areas`): 0 everywhere where none was. It is not scaled to its own
    maximum: a weak answer has a weak map.
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
        near = cv2.dilate(np.maximum.reduce([np.zeros_like(lungs, np.uint8), *lung_areas(lungs)]), _EDGE)
        placed = placed * np.clip((resized(lungs * near, side, side) - low) / (high - low), 0, 1)
    return np.maximum(placed, 0, dtype=np.float32)


def regions_of(
    evidence: NDArray[np.float32],
    lungs: NDArray[np.float32],
    rows: int,
    columns: int,
    orientation: Orientation = Orientation.UNSTATED,
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
    orientation
        Of the radiograph, as its header states it.

    Returns
    -------
    None at all where the map is empty.
    """
    peak = float(evidence.max())
    if not peak > 0:
        return ()
    areas = connected_areas((evidence >= _REGION * peak).astype(np.uint8))
    # The one with the peak is named however small it is.
    kept = [area for area in areas if area.mean() >= _LEAST_REGION or float(evidence[area > 0].max()) == peak]
    kept.sort(key=lambda area: -float(evidence[area > 0].max()))
    each_lung = lung_areas(lungs) if lungs.size > 1 else ()
    return tuple(_region(area, each_lung, rows, columns, orientation) for area in kept)


def _region(
    area: NDArray[np.uint8], lungs: Sequence[NDArray[np.uint8]], rows: int, columns: int, orientation: Orientation
) -> Region:
    left, top, width, height = cv2.boundingRect(area)
    across, down = columns / area.shape[1], rows / area.shape[0]
    box = (
        math.floor(left * across),
        math.floor(top * down),
        min(math.ceil((left + width) * across), columns),
        min(math.ceil((top + height) * down), rows),
    )
    side, zone = _place(area, lungs, orientation)
    return Region(box, outline(area, rows, columns), side, zone)


def _place(area: NDArray[np.uint8], lungs: Sequence[NDArray[np.uint8]], orientation: Orientation) -> tuple[str, str]:
    """Return side and zone of an area; a zone is a third of the height of the lung that it lies in.

    Empty where not both lungs were found, or where the orientation does not tell sides.
    """
    if len(lungs) < 2 or not orientation.tells_sides:
        return "", ""
    across, down = lungs[0].shape[1] / area.shape[1], lungs[0].shape[0] / area.shape[0]
    ys, xs = np.nonzero(area)
    x, y = (float(xs.mean()) + 0.5) * across, (float(ys.mean()) + 0.5) * down
    shared = [float(area[resized(lung.astype(np.float32), *area.shape) >= 0.5].sum()) for lung in lungs]
    # Evidence fades out a little beyond a lung's edge; what only lies there belongs to the nearer lung.
    between = (np.nonzero(lungs[0].any(0))[0][-1] + np.nonzero(lungs[1].any(0))[0][0] + 1) / 2
    first = shared[0] > shared[1] if shared[0] != shared[1] else x <= between
    heights = np.nonzero(lungs[0 if first else 1].any(1))[0]
    part = (y - heights[0]) / max(int(heights[-1] - heights[0]) + 1, 1)
    if orientation.is_upside_down:
        part = 1 - part
    zone = "upper" if part < 1 / 3 else "middle" if part < 2 / 3 else "lower"
    return ("right" if first == orientation.shows_right_on_left else "left"), zone
