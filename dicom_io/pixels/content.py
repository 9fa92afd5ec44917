"""Tells a picture from an image that shows nothing: of a few pixels, of one value, or without contrast in its body."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FEWEST = 16
"""Rows, and columns, that an image must have."""
# The image is looked at in so many fields to either side, and in so many pixels of each to either side.
_FIELDS = 32
_PIXELS = 8
# An image shows something where more than this part of its fields is of other shades than its most common ones. Two: an
# even body, and what surrounds it.
_REST = 0.05
_SHADES = 2
# A shade is as wide as this part of the highest value, and at least so many values: noise is no contrast.
_WIDTH = 1 / 1024
_LEAST = 4.0

Numbers = NDArray[np.integer] | NDArray[np.floating]


def sample(cells: Numbers) -> Numbers:
    """Return the pixels of an image that are looked at, 256 to either side; a small image's are repeated."""
    rows, columns = cells.shape
    side = _FIELDS * _PIXELS
    down, across = (np.arange(side) * length // side for length in (rows, columns))
    return cells[np.ix_(down, across)]


def blank(shape: tuple[int, int], stored: Numbers, displayed: Numbers, padding: NDArray[np.bool_] | None = None) -> str:
    """Return in words why there is nothing to read in an image; empty where there is something.

    Whatever a window says, the image's own values count, in 32 × 32 fields by their medians: so neither noise nor
    letters nor dead pixels make a picture of an even image, and no frame does.

    Parameters
    ----------
    shape
        Rows and columns of the image.
    stored, displayed
        Values of a `sample` of it: as they are stored, and as a Modality LUT makes them.
    padding
        Which of the sample are none of its pixels.
    """
    rows, columns = shape
    if min(rows, columns) < FEWEST:
        return f"there is nothing to read: {rows} × {columns} pixels"
    own = _medians(stored, padding)
    top = float(np.abs(own).max(initial=0.0))
    if not _has_contrast(own, max(_LEAST, top * _WIDTH)):
        return "there is nothing to read: the image has no contrast"
    shown = _medians(displayed, padding)
    if not _has_contrast(shown, float(np.ptp(shown)) * _WIDTH if shown.size else 0.0):
        return "there is nothing to read: its Modality LUT or rescaling leaves no contrast"
    return ""


def _medians(values: Numbers, padding: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Return the medians of the fields, in ascending order; those that are more than half padding are left out."""
    fields = _by_field(np.asarray(values, np.float64))
    if padding is not None and padding.any():
        outside = _by_field(padding.astype(np.float64)) > 0
        fields[outside] = np.nan
        fields = fields[outside.mean(axis=1) <= 0.5]
    return np.sort(np.nanmedian(fields, axis=1))


def _by_field(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values of a sample by field, [fields, pixels]."""
    return values.reshape(_FIELDS, _PIXELS, _FIELDS, _PIXELS).transpose(0, 2, 1, 3).reshape(_FIELDS**2, -1)


def _has_contrast(medians: NDArray[np.float64], width: float) -> bool:
    """Tell whether enough of the medians, in ascending order, are of other shades than the most common ones."""
    rest = medians
    for _ in range(_SHADES):
        if rest.size == 0:
            break
        ends = np.searchsorted(rest, rest + width, side="left")
        ends = np.maximum(ends, np.searchsorted(rest, rest, side="right"))  # of no width: equal values
        first = int(np.argmax(ends - np.arange(rest.size)))
        rest = np.delete(rest, np.s_[first : int(ends[first])])
    return bool(rest.size > _REST * medians.size)
