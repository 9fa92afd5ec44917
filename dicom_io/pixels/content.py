"""Tells a picture from an image that shows nothing: of a few pixels, of one value, or without contrast in its body."""

from __future__ import annotations

from typing import NamedTuple

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
# And it holds the medians of noise: they differ by 1.25 standard deviations of the pixels over the root of their
# number, nineteen in twenty of them by twice as much to either side, and a little more where the noise is not quite
# white. At a frame's edge they lie a standard deviation off.
_NOISE = 1.25 * 2 * 2 * 1.2
_LEAST_NOISE = 1.5
# In smaller images neighbours differ by what they show, and nobody can tell that from noise.
_FEWEST_IN_FIELD = 16

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
    letters nor dead pixels make a picture of an even image, no frame does, and no even slope of the exposure.

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
    own = _fields(stored, padding)
    top = float(np.abs(own.medians).max(initial=0.0))
    pixels = min(rows * columns / _FIELDS**2, _PIXELS**2)  # of a field
    width = max(_LEAST, top * _WIDTH)
    if pixels >= _FEWEST_IN_FIELD:
        width = max(width, own.noise * max(_NOISE / pixels**0.5, _LEAST_NOISE))
    if not (_has_contrast(own.medians, width) and _has_contrast(_uneven(own), width)):
        return "there is nothing to read: the image has no contrast"
    shown = own.medians if np.array_equal(stored, displayed) else _fields(displayed, padding).medians
    if not _has_contrast(shown, float(np.ptp(shown)) * _WIDTH if shown.size else 0.0):
        return "there is nothing to read: its Modality LUT or rescaling leaves no contrast"
    return ""


class _Fields(NamedTuple):
    """The fields of an image that are not more than half padding.

    Attributes
    ----------
    medians
        Of their values, [fields].
    places
        Of their centres, across and down from -1 to 1, [fields, 2].
    noise
        How far the pixels of a field usually are from its median, as a standard deviation; of fields that are not even.
    """

    medians: NDArray[np.float64]
    places: NDArray[np.float64]
    noise: float


def _fields(values: Numbers, padding: NDArray[np.bool_] | None) -> _Fields:
    fields = _by_field(np.asarray(values, np.float64))
    ends = np.linspace(-1.0, 1.0, _FIELDS)
    places = np.stack(np.meshgrid(ends, ends), axis=-1).reshape(-1, 2)
    if padding is not None and padding.any():
        outside = _by_field(padding.astype(np.float64)) > 0
        fields[outside] = np.nan
        kept = outside.mean(axis=1) <= 0.5
        fields, places = fields[kept], places[kept]
    medians = _medians(fields)
    deviations = _medians(np.abs(fields - medians[:, np.newaxis]))
    deviations = deviations[deviations > 0]  # a frame has none
    return _Fields(medians, places, 1.4826 * float(np.median(deviations)) if deviations.size else 0.0)


def _medians(fields: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median of each field without its NaN; where there are none, in a fifth of the time."""
    return np.nanmedian(fields, axis=1) if np.isnan(fields).any() else np.median(fields, axis=1)


def _uneven(fields: _Fields) -> NDArray[np.float64]:
    """Return by how much the medians differ from an even slope, as an X-ray tube alone makes it (the heel effect)."""
    if fields.medians.size == 0:
        return fields.medians
    across, down = fields.places.T
    terms = np.stack([np.ones_like(across), across, down, across**2, across * down, down**2], axis=1)
    slope: NDArray[np.float64] = terms @ np.linalg.lstsq(terms, fields.medians, rcond=None)[0]
    return fields.medians - slope


def _by_field(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values of a sample by field, [fields, pixels]."""
    return values.reshape(_FIELDS, _PIXELS, _FIELDS, _PIXELS).transpose(0, 2, 1, 3).reshape(_FIELDS**2, -1)


def _has_contrast(medians: NDArray[np.float64], width: float) -> bool:
    """Tell whether enough of the medians are of other shades than the most common ones."""
    rest = np.sort(medians)
    for _ in range(_SHADES):
        if rest.size == 0:
            break
        ends = np.searchsorted(rest, rest + width, side="left")
        ends = np.maximum(ends, np.searchsorted(rest, rest, side="right"))  # of no width: equal values
        first = int(np.argmax(ends - np.arange(rest.size)))
        rest = np.delete(rest, np.s_[first : int(ends[first])])
    return bool(rest.size > _REST * medians.size)
