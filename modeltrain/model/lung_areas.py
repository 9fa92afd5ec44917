"""What was found of the lungs: from the network's probability of lung to one mask for each lung."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from dicom_io.finding import Lungs

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LUNG = 0.5  # probability from which a place is lung
LEAST_LUNG = 0.015  # a lung is no smaller part of the image: a child's in a frame of two bodies has 0.04
_LEAST_OF_OTHER = 0.12  # a further area that is smaller than this part of the first is no lung
_CUT = 0.25  # a lung is cut off where this part of its height or width lies at the image's edge
_NEAR = 0.02  # of the image's side: so near to the edge, what is beyond it is not seen
_SAME = 0.5  # areas that share this part of the narrower one's columns lie in one lung, one above the other
_BESIDE = 0.35  # the most of their columns that two lungs share,
_LEVEL = 0.4  # and the least of the shorter one's rows
_WIDE = 0.6  # two lungs are at least so wide, in parts of their height: the halves of one are narrower
_MIDDLE = (0.25, 0.75)  # between two lungs lies the spine, in this part of the image's width


def lung_mask(probability: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.bool_]:
    """Return which places of a radiograph of `rows` and `columns` are lung, from one image's `Outputs.lungs`."""
    return np.asarray(resized(probability, rows, columns) >= _LUNG)


def resized(values: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """Return values at another size, float32 [rows, columns], by bilinear interpolation."""
    return np.asarray(cv2.resize(values, (columns, rows), interpolation=cv2.INTER_LINEAR), np.float32)


def lung_areas(probability: NDArray[np.float32]) -> tuple[NDArray[np.uint8], ...]:
    """Return one mask for each lung that was found, the one on the picture's left first: none, one, or two.

    Two only where one lies on each side. Pieces above one another are one lung, and so are pieces beside one another
    that are too narrow together for two, or lie on one side of the image. What lies elsewhere is no lung.

    Parameters
    ----------
    probability
        float32 [h, w], one image's `Outputs.lungs`.

    Returns
    -------
    tuple
        Each uint8 [h, w], 1 where it is.
    """
    pieces = [area for area in connected_areas((probability >= _LUNG).astype(np.uint8)) if area.mean() >= LEAST_LUNG]
    if not pieces:
        return ()
    if _is_both(pieces[0]):
        return _halves(pieces[0])
    pieces = [area for area in pieces if area.sum() >= _LEAST_OF_OTHER * pieces[0].sum()]
    first, rest = _gathered(pieces)
    if not rest:
        return (first,)
    second, _ = _gathered(rest)
    if not _are_a_pair(first, second):
        return (first | second,)
    return (first, second) if _centre(first) < _centre(second) else (second, first)


def _gathered(pieces: list[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], list[NDArray[np.uint8]]]:
    """Return the largest area with what lies above or below it, and the other areas."""
    own = [each for each in pieces if _shared(pieces[0], each, axis=0) > _SAME]
    others = [each for each in pieces if not any(each is mine for mine in own)]
    return np.maximum.reduce(own), others


def _shared(one: NDArray[np.uint8], other: NDArray[np.uint8], axis: int) -> float:
    """Return which part of the columns (axis 0) or rows (axis 1) of the narrower area both have."""
    (begin, end), (start, stop) = _range(one, axis), _range(other, axis)
    return max(0, min(end, stop) - max(begin, start)) / min(end - begin, stop - start)


def _range(area: NDArray[np.uint8], axis: int) -> tuple[int, int]:
    places = np.flatnonzero(area.any(axis))
    return int(places[0]), int(places[-1]) + 1


def _centre(area: NDArray[np.uint8]) -> float:
    """Return the middle column of an area."""
    return sum(_range(area, axis=0)) / 2


def _are_a_pair(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Whether two areas are the two lungs: beside each other, with the spine between them."""
    if _shared(one, other, axis=0) > _BESIDE or _shared(one, other, axis=1) < _LEVEL:
        return False
    both = one | other
    (left, right), (top, bottom) = _range(both, axis=0), _range(both, axis=1)
    spine = (_centre(one) + _centre(other)) / 2 / both.shape[1]
    return right - left >= _WIDE * (bottom - top) and _MIDDLE[0] < spine < _MIDDLE[1]


def _is_both(area: NDArray[np.uint8]) -> bool:
    """Whether one area is two lungs that touch: it is wider than high, and has a gap below between its halves."""
    (top, bottom), (left, right) = _range(area, axis=1), _range(area, axis=0)
    third = (right - left) // 3
    between = area[top:bottom, left + third : right - third].mean(axis=0).min()
    return bool(right - left > 0.9 * (bottom - top) and between < 0.6)


def _halves(area: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Part two lungs that touch, at the column of the middle third that has the least of them."""
    left, right = _range(area, axis=0)
    third = (right - left) // 3
    at = left + third + int(area[:, left + third : right - third].sum(axis=0).argmin())
    one, other = area.copy(), area.copy()
    one[:, at:] = 0
    other[:, :at] = 0
    return one, other


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
    areas = lung_areas(probability)
    outlines = (outline(piece, rows, columns) for area in areas for piece in connected_areas(area))
    return Lungs(
        share=round(float(sum(area.mean() for area in areas)), 4),
        count=len(areas),
        cut=any(_is_cut(area) for area in areas),
        contours=tuple(each for each in outlines if each),
    )


def _is_cut(area: NDArray[np.uint8]) -> bool:
    """Whether an area ends at the image's edge, or so near to it that its end is not to be seen."""
    rows, columns = (max(1, round(_NEAR * length)) for length in area.shape)
    height, width = int(area.any(1).sum()), int(area.any(0).sum())
    ends = max(int(part.any(0).sum()) for part in (area[:rows], area[-rows:]))
    sides = max(int(part.any(1).sum()) for part in (area[:, :columns], area[:, -columns:]))
    return ends >= _CUT * width or sides >= _CUT * height


def connected_areas(mask: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Return the connected areas of a mask, the largest first, each uint8 of the mask's shape."""
    count, names, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    order = sorted(range(1, count), key=lambda name: -int(stats[name, cv2.CC_STAT_AREA]))
    return [(names == name).astype(np.uint8) for name in order]


def outline(area: NDArray[np.uint8], rows: int, columns: int) -> tuple[tuple[float, float], ...]:
    """Return the outer outline of a connected area in the pixels of a radiograph of `rows` and `columns`.

    Empty where it is too thin to have three corners.
    """
    outlines, _ = cv2.findContours(area, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    corners = cv2.approxPolyDP(max(outlines, key=len), 0.7, closed=True)[:, 0].astype(np.float64)
    if len(corners) < 3:
        return ()
    scale = np.array([columns / area.shape[1], rows / area.shape[0]])
    return tuple((round(float(x), 2), round(float(y), 2)) for x, y in (corners + 0.5) * scale)
