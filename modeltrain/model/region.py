"""The region of a heatmap: its outline and box in the pixels of the radiograph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from dicom_io.finding import Region

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIDE = 256  # the heatmap has 7×7 cells; finer than this, an outline tells nothing more
_LEVEL = 0.5


def attended_region(attention: NDArray[np.float32], rows: int, columns: int) -> Region | None:
    """Return the region around the heatmap's peak where it is at least half as high as there.

    The map is enlarged by the same cubic interpolation as the overlay, so that the outline is what a reader sees.

    Parameters
    ----------
    attention
        float32 [h, w] in [0, 1], covering the radiograph.
    rows, columns
        Of the radiograph.

    Returns
    -------
    The region, or None where the map is empty.
    """
    smooth = cv2.resize(attention, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
    peak = float(smooth.max())
    if not peak > 0:
        return None
    mask = (smooth >= _LEVEL * peak).astype(np.uint8)
    _, names = cv2.connectedComponents(mask, connectivity=4)
    row, column = np.unravel_index(int(smooth.argmax()), smooth.shape)
    component = (names == names[row, column]).astype(np.uint8)
    outlines, _ = cv2.findContours(component, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = cv2.approxPolyDP(max(outlines, key=len), 1.0, closed=True)[:, 0].astype(np.float64)
    scale = np.array([columns, rows]) / _SIDE
    left, top, width, height = cv2.boundingRect(component)
    low = np.floor(np.array([left, top]) * scale)
    high = np.ceil(np.array([left + width, top + height]) * scale)
    contour = (outline + 0.5) * scale
    return Region(
        box=(int(low[0]), int(low[1]), min(int(high[0]), columns), min(int(high[1]), rows)),
        contour=tuple((round(float(x), 2), round(float(y), 2)) for x, y in contour) if len(contour) > 2 else (),
    )
