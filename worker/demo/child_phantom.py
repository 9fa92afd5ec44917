"""Draws a small child's chest radiograph, which the demo sends: like the images that the shipped model is made for.

Thickness is added up along the beam: trunk and arms, less the air of the lungs, with heart, vessels and bones. No pixel
and no outline comes from a patient's image. Measures were set by eye. Some of them were then tuned within what still
looks like a child, until the model answered (docs/decisions.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from worker.demo.child_skeleton import CHEST_DEPTH, Frame, chest_width, skeleton

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DRAWN_ROWS = 720  # the anatomy is drawn at this height and then brought to the one asked for
_DENSITY = 0.62  # brightness of tissue as thick as the picture is high
_AIR = 0.82  # share of that which a lung leaves out
_MARKER = "R"


@dataclass(frozen=True)
class Opacity:
    """A consolidation: air of the lung that gave way to fluid.

    Parameters
    ----------
    x, y
        Its middle in heights of the picture: to the picture's right from the midline, down from the upper edge. The
        picture's left is the patient's right.
    width, height
        From its middle to where it fades, in heights of the picture.
    """

    x: float
    y: float
    width: float
    height: float


RIGHT_LOWER = Opacity(-0.26, 0.605, 0.18, 0.105)
LEFT_MIDDLE = Opacity(0.31, 0.56, 0.14, 0.14)
RIGHT_UPPER = Opacity(-0.26, 0.35, 0.18, 0.14)


def draw_child(
    seed: int = 0, rows: int = 960, cols: int = 1248, *, opacity: Opacity | None = None
) -> NDArray[np.uint8]:
    """Draw a frontal chest of a small child that lies on its back with its arms raised.

    Parameters
    ----------
    seed
        Another child: changes proportions, pose, vessels and noise.
    rows, cols
        Size in pixels; 1.3 times as wide as high shows the whole chest.
    opacity
        A consolidation in a lung.

    Returns
    -------
    ndarray
        uint8 [rows,cols], 0 black (air) to 255 white (bone). The same arguments always draw the same picture.
    """
    random = np.random.default_rng(seed)
    frame = Frame(
        _DRAWN_ROWS,
        round(_DRAWN_ROWS * cols / rows),
        roll=random.normal(0, 0.03),
        shift=random.normal(0, 0.02),
        zoom=random.uniform(0.93, 1.04),
        slope=random.uniform(0.92, 1.12),
    )
    # The clouds of an opacity are its own: the rest is the same picture with and without one.
    picture = _displayed(frame, _anatomy(frame, random, opacity, np.random.default_rng([seed, 1])))
    resized = cv2.resize(picture, (cols, rows), interpolation=cv2.INTER_AREA if rows < _DRAWN_ROWS else cv2.INTER_CUBIC)
    # The detector's noise is a picture's finest grain, whatever its size.
    grain = cv2.GaussianBlur(random.standard_normal((rows, cols), np.float32), (0, 0), 0.8)
    marked = np.maximum(resized + 0.01 * grain, _marker(rows, cols))
    return np.asarray(np.rint(np.clip(marked, 0, 1) * 255), np.uint8)


def _anatomy(
    frame: Frame, random: np.random.Generator, opacity: Opacity | None, clouds: np.random.Generator
) -> NDArray[np.float32]:
    """Add up what weakens the beam, float32 [rows,columns], 0 and up."""
    x, y = frame.places()
    body = frame.blurred(_body(x, y), 0.004)
    diaphragm = _diaphragm(x, random)
    above = _step(diaphragm - y, 0.024)
    heart = frame.blurred(_heart(x, y, random), 0.003)
    # Behind and before the dome the lungs reach farther down.
    depth = np.clip(_lungs(x, y) - heart, 0, None) * (above + 0.18 * (1 - above) * np.exp((diaphragm - y) / 0.16))
    air = frame.blurred(depth, 0.0015)
    lungs = np.clip(air / 0.05, 0, 1) * above
    if opacity is not None:
        air = air * (1 - _consolidation(frame, x, y, opacity, clouds))
    tissue = body - _AIR * air + lungs * _markings(frame, x, y, random)
    picture = _DENSITY * tissue + _belly(x, y, diaphragm, random) * (1 - above) * np.clip(body / 0.3, 0, 1)
    inside = np.clip(body / 0.03, 0, 1)
    trachea = np.sqrt(np.clip(1 - ((x - 0.004) / 0.026) ** 2, 0, None)) * np.clip((0.345 - y) / 0.03, 0, 1)
    picture += (skeleton(frame, random) - 0.10 * frame.blurred(trachea, 0.002)) * inside
    jaw = (x / 0.26) ** 2 + ((y + 0.10 + random.normal(0, 0.012)) / 0.17) ** 2
    picture += 0.22 * _round(jaw) + 0.12 * np.exp(-(((np.sqrt(jaw) - 0.93) / 0.06) ** 2))
    return np.asarray(np.clip(picture + 0.006 * frame.noise(random, 0.05) * inside, 0, None), np.float32)


def _displayed(frame: Frame, weakened: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring it to grey values, 0 to 1: sharpened and with a soft shoulder, as a modality does for reading."""
    sharp = np.clip(weakened + 0.7 * (weakened - frame.blurred(weakened, 0.012)), 0, None)
    grey = np.tanh(1.6 * sharp**0.85) / np.tanh(1.6)
    return frame.blurred(0.04 * (weakened > 0.01) + 0.96 * grey, 0.0012)


def _body(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the thickness of trunk, shoulders and raised arms."""
    chest = chest_width(np.clip(y, 0.15, None))
    high = np.clip(0.22 - y, 0, 0.22) / 0.22
    width = (1.13 * chest + 0.40 + np.sqrt((1.13 * chest - 0.40) ** 2 + 0.06**2)) / 2 - 0.05 * high
    depth = 2 * CHEST_DEPTH * np.minimum(1.2 * np.maximum(chest, 0.30), 0.42) * (1 - 0.35 * high)
    trunk = depth * _round((x / width) ** 2)
    arms = np.zeros_like(trunk)
    for side in (-1.0, 1.0):
        across, down = side * x - 0.40, y - 0.14
        along, beside = 0.80 * across - 0.60 * down, 0.60 * across + 0.80 * down
        arms += 0.20 * _round((beside / 0.125) ** 2) * (0.5 - 0.5 * np.cos(np.pi * _step(along + 0.03, 0.22)))
    return np.asarray(np.cbrt(trunk**3 + arms**3), np.float32)


def _lungs(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the depth of the chest where there are lungs, down through the diaphragm."""
    width = np.maximum(chest_width(y), 1e-3)
    from_apex = np.abs(x) - 0.155
    apex = 0.16 + 1.6 * from_apex**2 * np.where(from_apex < 0, 3, 1)
    return np.asarray(2 * CHEST_DEPTH * width * _round((x / width) ** 2) * _step(y - apex, 0.02), np.float32)


def _diaphragm(x: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Return the height y of its two domes; the right one is a little higher."""
    breath = random.normal(0, 0.012)
    domes = []
    for side, top in ((-1.0, 0.68), (1.0, 0.705)):
        outwards = side * x - 0.21
        domes.append(top + breath + 0.95 * outwards**2 * np.where(outwards > 0, 1.35, 0.35))
    left = _step(x - 0.03, 0.16)
    return np.asarray(domes[0] * (1 - left) + domes[1] * left, np.float32)


def _heart(x: NDArray[np.float32], y: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Return the thickness of the heart, its right atrium, and the vessels and the thymus above."""
    size = random.uniform(0.94, 1.05)
    across, down = x - 0.065, y - 0.545
    long, short = (0.732 * across + 0.682 * down) / (0.235 * size), (0.732 * down - 0.682 * across) / (0.175 * size)
    ventricles = 0.50 * _round(long**2 + short**2)
    atrium = 0.35 * _round(((x + 0.05) / (0.105 * size)) ** 2 + ((y - 0.55) / 0.15) ** 2)
    width = 0.125 - 0.04 * np.clip((y - 0.25) / 0.25, 0, 1) + 0.12 * np.clip((y - 0.62) / 0.2, 0, 1)
    width = width + 0.03 * np.exp(-(((y - 0.36) / 0.05) ** 2)) * (x > 0)  # the arch of the aorta
    return np.asarray(np.maximum(np.maximum(ventricles, atrium), 0.46 * _round((x / width) ** 4)), np.float32)


def _belly(
    x: NDArray[np.float32], y: NDArray[np.float32], diaphragm: NDArray[np.float32], random: np.random.Generator
) -> NDArray[np.float32]:
    """Return the brightness of the liver, and under the left dome the stomach's gas."""
    below = y - diaphragm
    liver = 0.10 * _step(below, 0.25) * (1 - 0.35 * _step(x - 0.1, 0.2))
    liver *= _round((x / np.maximum(chest_width(y), 1e-3)) ** 2)
    place = 0.21 + random.normal(0, 0.01)
    gas = ((x - place) / random.uniform(0.08, 0.12)) ** 2 + ((below - 0.085) / random.uniform(0.04, 0.06)) ** 2
    return np.asarray(liver - 0.10 * _round(gas), np.float32)


def _consolidation(
    frame: Frame, x: NDArray[np.float32], y: NDArray[np.float32], opacity: Opacity, random: np.random.Generator
) -> NDArray[np.float32]:
    """Return the share of the air that is gone."""
    square = ((x - opacity.x) / opacity.width) ** 2 + ((y - opacity.y) / opacity.height) ** 2
    ragged = 1 + 0.25 * frame.noise(random, 0.03) + 0.12 * frame.noise(random, 0.010)
    return np.asarray(0.95 * (1 - np.exp(-2.4 * np.exp(-(square**1.5)) * np.clip(ragged, 0, None))), np.float32)


def _markings(
    frame: Frame, x: NDArray[np.float32], y: NDArray[np.float32], random: np.random.Generator
) -> NDArray[np.float32]:
    """Draw the hila, the vessels that branch from them, and what is too fine to be seen one by one."""
    canvas = np.zeros(x.shape, np.float32)
    hila = np.zeros(x.shape, np.float32)
    for side in (-1.0, 1.0):
        for angle in np.linspace(-1.35, 1.45, 11) + random.normal(0, 0.08, 11):
            start = np.array([side * 0.115 + 0.01, 0.435]) + random.normal(0, 0.012, 2)
            heading = angle if side > 0 else np.pi - angle
            _branch(canvas, frame, random, start, heading, width=0.0085 * random.uniform(0.7, 1.1), length=0.10)
        hila += np.exp(-(((x - side * 0.125) / 0.04) ** 2) - ((y - 0.43) / 0.075) ** 2)
    hila *= 0.7 + 0.3 * frame.noise(random, 0.006)
    fine = sum(grain**0.3 * frame.noise(random, grain) for grain in (0.004, 0.008, 0.016, 0.032))
    return np.asarray(0.05 * frame.blurred(canvas, 0.0016) + 0.03 * hila + 0.005 * fine, np.float32)


def _branch(
    canvas: NDArray[np.float32],
    frame: Frame,
    random: np.random.Generator,
    start: NDArray[np.float64],
    heading: float,
    *,
    width: float,
    length: float,
) -> None:
    """Draw one vessel, which winds a little, and, smaller, the two it divides into."""
    if width < 0.0011:
        return
    points = [start]
    for _ in range(5):
        heading += random.normal(0, 0.10)
        points.append(points[-1] + length / 5 * np.array([np.cos(heading), np.sin(heading)]))
    line = np.stack(frame.pixels(*np.array(points).T), axis=1)
    corners = [np.rint(line * 16).astype(np.int32)]
    thickness = max(1, round(1.3 * width * frame.rows))
    cv2.polylines(canvas, corners, False, min(1.0, width / 0.011), thickness, cv2.LINE_8, 4)
    for turn in (-0.42, 0.36):
        angle = heading + turn + random.normal(0, 0.15)
        narrower, shorter = random.uniform(0.58, 0.76), random.uniform(0.62, 0.85)
        _branch(canvas, frame, random, points[-1], angle, width=width * narrower, length=length * shorter)


def _marker(rows: int, cols: int) -> NDArray[np.float32]:
    """Draw the lead letter at the patient's right."""
    canvas = np.zeros((rows, cols), np.uint8)
    place = (round(0.05 * cols), round(0.30 * rows))
    cv2.putText(canvas, _MARKER, place, cv2.FONT_HERSHEY_SIMPLEX, rows / 500, 255, max(1, rows // 180), cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(canvas.astype(np.float32) * (0.95 / 255), (0, 0), 1), np.float32)


def _round(square: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return a round body's thickness, 1 in its middle, at squared distances where 1 is its edge."""
    return np.asarray(np.sqrt(np.clip(1 - square, 0, None)), np.float32)


def _step(field: NDArray[np.floating], width: float) -> NDArray[np.float32]:
    """Rise from 0 to 1 across zero, over this width."""
    return np.asarray(np.clip(field / width + 0.5, 0, 1), np.float32)
