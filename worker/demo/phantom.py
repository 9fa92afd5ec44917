"""Draws an adult's chest radiograph, which tests and benchmarks send. To the shipped model it is *outside*."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The anatomy is drawn at this size and then brought to the one asked for.
_DRAWN_ROWS, _DRAWN_COLUMNS = 768, 630

# Outlines in a frame of width 1 and height 1, drawn by eye; the image's left is the patient's right.
_BODY = [
    (0.38, -0.06), (0.385, 0.05), (0.34, 0.10), (0.20, 0.14), (0.05, 0.20), (-0.04, 0.32), (-0.03, 0.46), (0.00, 0.58),
    (0.03, 0.72), (0.035, 0.85), (0.03, 1.06), (0.97, 1.06), (0.965, 0.85), (0.97, 0.72), (1.00, 0.58), (1.03, 0.46),
    (1.04, 0.32), (0.95, 0.20), (0.80, 0.14), (0.66, 0.10), (0.615, 0.05), (0.62, -0.06),
]  # fmt: skip
_RIGHT_LUNG = [
    (0.36, 0.13), (0.29, 0.17), (0.22, 0.27), (0.165, 0.42), (0.135, 0.58), (0.125, 0.70), (0.12, 0.785), (0.19, 0.72),
    (0.28, 0.685), (0.37, 0.71), (0.44, 0.755), (0.435, 0.62), (0.43, 0.48), (0.43, 0.34), (0.42, 0.22), (0.40, 0.15),
]  # fmt: skip
_LEFT_LUNG = [
    (0.64, 0.13), (0.71, 0.17), (0.78, 0.27), (0.835, 0.42), (0.865, 0.58), (0.875, 0.70), (0.88, 0.80), (0.81, 0.74),
    (0.73, 0.715), (0.66, 0.735), (0.58, 0.765), (0.575, 0.62), (0.57, 0.48), (0.57, 0.34), (0.58, 0.22), (0.60, 0.15),
]  # fmt: skip
_HEART = [
    (0.46, 0.36), (0.44, 0.46), (0.415, 0.56), (0.41, 0.66), (0.44, 0.75), (0.56, 0.79), (0.70, 0.775), (0.755, 0.73),
    (0.74, 0.65), (0.68, 0.56), (0.62, 0.48), (0.595, 0.40), (0.605, 0.34), (0.585, 0.29), (0.54, 0.29), (0.50, 0.31),
]  # fmt: skip


def draw(seed: int = 0, rows: int = 512, cols: int = 420, *, opacity: bool = False) -> NDArray[np.uint8]:
    """Draw a frontal chest: body, lungs, ribs, clavicles, spine, heart, diaphragm.

    Parameters
    ----------
    seed
        Changes the noise, the vessels and slightly the proportions.
    rows, cols
        Size in pixels.
    opacity
        Adds a consolidation to the right lower lung.

    Returns
    -------
    ndarray
        uint8 [rows,cols], 0 black (air) to 255 white (bone). The same arguments always draw the same picture.
    """
    random = np.random.default_rng(seed)
    anatomy = _anatomy(random, (_DRAWN_ROWS, _DRAWN_COLUMNS), opacity=opacity)
    picture = cv2.resize(anatomy, (cols, rows), interpolation=cv2.INTER_AREA if rows < _DRAWN_ROWS else cv2.INTER_CUBIC)
    # The detector's noise is a picture's finest grain, whatever its size.
    picture = picture + np.float32(0.008) * random.standard_normal(picture.shape, np.float32)
    return np.asarray(np.rint(np.clip(picture, 0, 1) * 255), np.uint8)


def _anatomy(random: np.random.Generator, size: tuple[int, int], *, opacity: bool) -> NDArray[np.float32]:
    """Add up what lies in the beam."""
    body = _filled(_BODY, size, 0.010)
    lungs = np.maximum(_filled(_RIGHT_LUNG, size, 0.005), _filled(_LEFT_LUNG, size, 0.005))
    heart = _filled(_HEART, size, 0.006)
    air = lungs * (1 - 0.85 * heart)
    rows, cols = size
    y, x = np.mgrid[0:rows, 0:cols].astype(np.float32)
    x, y = x / cols, y / rows

    picture = 0.56 * body * (0.75 + 0.25 * _blurred(body, 0.05))  # thinner towards the skin
    picture += 0.08 * body * np.clip((y - 0.62) / 0.25, 0, 1)  # the abdomen below the diaphragm
    picture += 0.07 * heart * np.exp(-((np.hypot(x - 0.56, y - 0.62) / 0.25) ** 2))
    picture -= (0.40 + 0.06 * np.clip((0.55 - y) / 0.4, 0, 1)) * air
    picture += _vessels(random, size) * air
    picture += _bones(x, y) * body
    trachea = np.exp(-(((x - 0.5) / 0.020) ** 4)) * np.clip((0.36 - y) / 0.05, 0, 1)
    picture -= 0.13 * trachea * body
    if opacity:
        place = random.normal((0.27, 0.58), 0.012)
        cloud = np.exp(-(((x - place[0]) / 0.085) ** 2) - ((y - place[1]) / 0.075) ** 2)
        picture += 0.33 * np.clip(cloud * (1.0 + 0.35 * _noise(random, size, 0.03)), 0, 1) * air
    picture += 0.012 * _noise(random, size, 0.006) * body + 0.9 * _marker(size)
    return np.asarray(0.04 + picture, np.float32)


def _filled(outline: list[tuple[float, float]], size: tuple[int, int], softness: float) -> NDArray[np.float32]:
    """Fill a smooth closed curve along the points; `softness` is the width of its edge as a part of the height."""
    points = np.array(outline, np.float64)
    for _ in range(4):  # Chaikin's corner cutting
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], axis=1).reshape(-1, 2)
    corners = points * (size[1], size[0])
    mask = np.zeros(size, np.float32)
    cv2.fillPoly(mask, [np.rint(corners * 16).astype(np.int32)], 1.0, lineType=cv2.LINE_8, shift=4)
    return _blurred(mask, softness)


def _blurred(field: NDArray[np.floating], width: float) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(field, (0, 0), max(0.3, width * field.shape[0])), np.float32)


def _noise(random: np.random.Generator, size: tuple[int, int], grain: float) -> NDArray[np.float32]:
    """Make clouds of unit variance; `grain` is their size as a part of the height."""
    clouds = _blurred(random.standard_normal(size, np.float32), grain)
    return np.asarray(clouds / max(float(clouds.std()), 1e-6), np.float32)


def _bones(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    """Draw spine, ribs and clavicles as brightness to be added."""
    side = np.abs(x - 0.5)
    bones = np.exp(-((side / 0.042) ** 6)) * (0.085 + 0.03 * np.cos(2 * np.pi * y / 0.055))
    cage = np.clip((0.385 - side) / 0.012, 0, 1) * np.clip((side - 0.035) / 0.02, 0, 1)
    for number in range(9):
        # Posterior ribs rise a little from the spine, run outwards and down, and turn sharply at the wall of the chest.
        line = 0.150 + 0.064 * number - 0.45 * side + 2.1 * side**2 + 9.0 * np.clip(side - 0.29, 0, None) ** 2
        bones += (0.13 - 0.006 * number) * _tube(y - line, 0.0135) * cage
    front = np.clip((0.36 - side) / 0.05, 0, 1) * np.clip((side - 0.12) / 0.08, 0, 1)
    for number in range(5):  # anterior ribs, fainter, the other way
        bones += 0.05 * _tube(y - (0.36 + 0.082 * number - 0.95 * (side - 0.30)), 0.015) * front
    reach = np.clip((side - 0.04) / 0.012, 0, 1) * np.clip((0.36 - side) / 0.03, 0, 1)
    bones += 0.12 * _tube(y - (0.205 - 0.24 * (side - 0.04) - 0.010 * np.sin(side * 22)), 0.012) * reach
    return _blurred(bones, 0.0015)


def _tube(distance: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    """Give the profile of a bone: its cortex is brighter than its marrow."""
    across = (distance / radius) ** 2
    return np.asarray(np.exp(-(across**2)) * (0.55 + 0.75 * across), np.float32)


def _vessels(random: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    """Draw the hila and the vessels that branch from them, fainter towards the periphery."""
    rows, cols = size
    canvas = np.zeros(size, np.float32)
    for side in (-1.0, 1.0):
        hilum = np.array([0.5 + side * 0.095, 0.44])
        for angle in np.linspace(-1.25, 1.35, 13) + random.normal(0, 0.06, 13):
            _branch(canvas, random, hilum, np.array([side * np.cos(angle), np.sin(angle)]), width=0.011, length=0.13)
    hila = sum(
        np.exp(-(((np.arange(cols) / cols - 0.5 - s * 0.09) / 0.035) ** 2))[None, :]
        * np.exp(-(((np.arange(rows) / rows - 0.44) / 0.07) ** 2))[:, None]
        for s in (-1.0, 1.0)
    )
    return np.asarray(_blurred(canvas, 0.0025) + 0.13 * np.asarray(hila, np.float32), np.float32)


def _branch(
    canvas: NDArray[np.float32],
    random: np.random.Generator,
    start: NDArray[np.float64],
    heading: NDArray[np.float64],
    *,
    width: float,
    length: float,
) -> None:
    """Draw one vessel and, smaller, the two it divides into."""
    if width < 0.002:
        return
    rows, cols = canvas.shape
    stop = start + heading * length * np.array([0.8, 1.0])
    ends = [tuple(int(v) for v in np.rint(point * (cols, rows))) for point in (start, stop)]
    cv2.line(canvas, ends[0], ends[1], 4.0 * width + 0.02, max(1, round(0.8 * width * rows)), cv2.LINE_8)
    for turn in (-0.38, 0.34):
        angle = turn + random.normal(0, 0.12)
        turned = np.array(
            [
                heading[0] * np.cos(angle) - heading[1] * np.sin(angle),
                heading[0] * np.sin(angle) + heading[1] * np.cos(angle),
            ]
        )
        _branch(canvas, random, stop, turned, width=width * 0.62, length=length * 0.72)


def _marker(size: tuple[int, int]) -> NDArray[np.float32]:
    """Draw the lead letter at the patient's left."""
    rows, cols = size
    canvas = np.zeros(size, np.uint8)
    place = (round(0.90 * cols), round(0.10 * rows))
    cv2.putText(canvas, "L", place, cv2.FONT_HERSHEY_SIMPLEX, rows / 640, 255, max(1, rows // 200), cv2.LINE_8)
    return _blurred(canvas.astype(np.float32) / 255, 0.001)
