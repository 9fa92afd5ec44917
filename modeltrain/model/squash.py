"""Pillow's bicubic reduction of a float image, without its copy of the image and in a fifth of its time.

The filter is a sum of few neighbours for each row and each column (Keys, IEEE Trans. ASSP 29, 1981, with a = -0.5,
widened by the reduction). Rows of the result that lie together need rows of the image that lie together, so each
handful is one small matrix product.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TOGETHER = 8
"""Rows of the result that are made in one product: more would multiply by ever more zeros."""
_ALONE = 200_000
"""Multiplications in one product. From some 260,000 on OpenBLAS takes more threads, which wait for work by spinning."""
_SHARPNESS = -0.5
_REACH = 2.0
"""Half the filter's width, in pixels of the result or, where that is coarser, of the image."""


class _Band(NamedTuple):
    """Some rows of the result: where they lie, which rows of the image they need, by what weights [rows, needed]."""

    to: slice
    needs: slice
    weights: NDArray[np.float32]


def squash(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Bring an image to a square.

    Parameters
    ----------
    values
        float32 [H, W].
    size
        Side of the square in pixels.

    Returns
    -------
    ndarray
        float32 [size, size], what Pillow's `resize` with `BICUBIC` makes, but for the order of its sums (some 1e-6).
    """
    rows = _pass(values, size)
    return np.ascontiguousarray(_pass(np.ascontiguousarray(rows.T), size).T)


def _pass(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Bring the rows of an image to a number; the columns stay."""
    out = np.empty((size, values.shape[1]), np.float32)
    for band in _bands(values.shape[0], size):
        wide = max(1, _ALONE // band.weights.size)
        for left in range(0, values.shape[1], wide):
            columns = slice(left, left + wide)
            np.matmul(band.weights, values[band.needs, columns], out=out[band.to, columns])
    return out


@lru_cache(maxsize=32)
def _bands(length: int, size: int) -> tuple[_Band, ...]:
    """Return how `length` rows become `size`."""
    step = length / size
    reduction = max(step, 1.0)
    reach = _REACH * reduction
    centres = (np.arange(size) + 0.5) * step
    # As in Pillow, the window is cut to whole pixels before the weights are made to add up to one.
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    end = np.minimum((centres + reach + 0.5).astype(np.int64), length)
    bands = []
    for begin in range(0, size, _TOGETHER):
        to = slice(begin, min(begin + _TOGETHER, size))
        needs = slice(int(first[to].min()), int(end[to].max()))
        place = np.arange(needs.start, needs.stop)
        weights = _cubic((place + 0.5 - centres[to, None]) / reduction)
        weights[(place < first[to, None]) | (place >= end[to, None])] = 0.0
        weights /= weights.sum(axis=1, keepdims=True)
        bands.append(_Band(to, needs, weights.astype(np.float32)))
    return tuple(bands)


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the filter's weight at a distance."""
    x, a = np.abs(distance), _SHARPNESS
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < _REACH, far, 0.0))
