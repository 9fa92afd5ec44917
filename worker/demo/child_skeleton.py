"""The skeleton of the drawn child: ribs, spine, clavicles, shoulder blades and arms, as brightness to be added.

Bones are curves through a chest that is as deep as it is wide and round. What lies along the beam adds up: so ribs are
brightest where they turn at the wall of the chest, as in a radiograph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CHEST_DEPTH = 0.70
"""Half the depth of the chest, in parts of half its width at the same height."""

_RIBS = 11
_FIRST_RIB, _PITCH = 0.150, 0.058  # where it leaves the spine, and how far it is from one vertebra to the next
_RIB_RADIUS, _RIB_BRIGHTNESS = 0.0165, 0.080
_RIB_SLOPE = 0.49  # how far a rib comes down on its way from the back to the front
_SPINE = 0.054  # half the width of a vertebra


@dataclass(frozen=True)
class Frame:
    """How the child lies in the picture.

    Places are given in heights of the picture: x to the picture's right from the midline of the chest, y downwards
    from the picture's upper edge.

    Parameters
    ----------
    rows, columns
        Size of the picture in pixels.
    roll
        Turn of the child in radians, clockwise.
    shift
        Of the midline, in heights of the picture.
    zoom
        Size of the child; 1 for the usual one.
    slope
        Of the ribs, in parts of the usual one.
    """

    rows: int
    columns: int
    roll: float = 0.0
    shift: float = 0.0
    zoom: float = 1.0
    slope: float = 1.0

    def places(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return x and y of each pixel, float32 [rows,columns]."""
        down, across = np.mgrid[0 : self.rows, 0 : self.columns].astype(np.float32)
        x = ((across + 0.5 - self.columns / 2) / self.rows - self.shift) / self.zoom
        y = ((down + 0.5) / self.rows - 0.5) / self.zoom
        cosine, sine = np.float32(np.cos(self.roll)), np.float32(np.sin(self.roll))
        return x * cosine + y * sine, y * cosine - x * sine + np.float32(0.5)

    def pixels(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return column and row of places, in pixels counted from the middle of the first one."""
        cosine, sine = np.cos(self.roll), np.sin(self.roll)
        across, down = x * cosine - (y - 0.5) * sine, (y - 0.5) * cosine + x * sine
        return (
            (across * self.zoom + self.shift) * self.rows + self.columns / 2 - 0.5,
            (down * self.zoom + 0.5) * self.rows - 0.5,
        )

    def blurred(self, field: NDArray[np.floating], width: float) -> NDArray[np.float32]:
        """Blur by a Gaussian of this standard deviation."""
        return np.asarray(cv2.GaussianBlur(field, (0, 0), max(0.3, width * self.rows)), np.float32)

    def noise(self, random: np.random.Generator, grain: float) -> NDArray[np.float32]:
        """Make clouds of this size and of unit variance."""
        clouds = self.blurred(random.standard_normal((self.rows, self.columns), np.float32), grain)
        return np.asarray(clouds / max(float(clouds.std()), 1e-6), np.float32)


def chest_width(y: NDArray[np.float32] | float) -> NDArray[np.float32]:
    """Return half the width of the ribs' cage: a bell, narrow above, steep at the base."""
    up = np.clip((np.float32(0.80) - y) / np.float32(0.67), 0, 1)
    return np.asarray(0.48 * (1 - up**3.0) ** 0.6, np.float32)


def skeleton(frame: Frame, random: np.random.Generator) -> NDArray[np.float32]:
    """Draw all bones, float32 [rows,columns], 0 and up."""
    bones = _RIB_BRIGHTNESS * _ribs(frame, random) + _spine(*frame.places())
    for side in (-1.0, 1.0):
        lift = random.normal(0, 0.006, 4)
        clavicle = [(0.055, 0.205 + lift[0]), (0.13, 0.178 + lift[1]), (0.22, 0.155), (0.31, 0.115), (0.38, 0.08)]
        blade = [(0.36, 0.10), (0.385, 0.17), (0.395, 0.24 + lift[2]), (0.36, 0.33 + lift[3])]
        arm = [(0.46, 0.092), (0.53, 0.045), (0.60, 0.000), (0.75, -0.095)]
        bones += 0.10 * _tube(frame, [(side * x, y) for x, y in clavicle], 0.0125)
        bones += 0.04 * _tube(frame, [(side * x, y) for x, y in blade], 0.009)
        bones += 0.10 * _tube(frame, [(side * x, y) for x, y in arm], 0.026)
        bones += _growing_end(frame, side)
    return bones


def _ribs(frame: Frame, random: np.random.Generator) -> NDArray[np.float32]:
    """Draw the ribs from the spine around the chest to where their cartilage begins, which casts no shadow."""
    canvas = np.zeros((frame.rows, frame.columns), np.float32)
    for side in (-1.0, 1.0):
        for number in range(_RIBS):
            start = _FIRST_RIB + _PITCH * number
            end = 2.35 * (1 - 0.035 * max(0, number - 6) ** 1.5) + random.normal(0, 0.03)
            slope = _RIB_SLOPE * frame.slope * (0.75 + 0.05 * number) * (1 + random.normal(0, 0.02))
            reach = max(float(chest_width(start + 0.05)), 0.17)
            reach = max(float(chest_width(start + slope * CHEST_DEPTH * reach)) * 1.005, 0.17)
            angle = np.linspace(0.06, end, 1600)  # 0 at the back, half a turn in front
            x = side * reach * np.abs(np.sin(angle)) ** 0.75
            z = CHEST_DEPTH * reach * (1 - np.cos(angle))
            y = start + slope * z - 0.03 * np.exp(-(((np.abs(x) - 0.10) / 0.09) ** 2))
            shown = np.clip((angle - angle[0]) / 0.12, 0.3, 1) * np.clip((end - angle) / 0.25, 0, 1)
            _add_curve(canvas, frame, x, y, z, shown)
    return _swept(canvas, _RIB_RADIUS * frame.zoom * frame.rows)


def _add_curve(
    canvas: NDArray[np.float32],
    frame: Frame,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    z: NDArray[np.float64],
    weight: NDArray[np.float64],
) -> None:
    """Add a curve's length to the pixels it passes, also what of it runs along the beam; z is the depth."""
    length = np.sqrt(np.diff(x) ** 2 + np.diff(y) ** 2 + np.diff(z) ** 2) * frame.rows * frame.zoom * weight[1:]
    columns, rows = frame.pixels((x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2)
    left, top = np.floor(columns).astype(int), np.floor(rows).astype(int)
    right_share, lower_share = columns - left, rows - top
    for across, down in ((0, 0), (1, 0), (0, 1), (1, 1)):
        share = (right_share if across else 1 - right_share) * (lower_share if down else 1 - lower_share)
        column, row = left + across, top + down
        inside = (column >= 0) & (column < frame.columns) & (row >= 0) & (row < frame.rows)
        np.add.at(canvas, (row[inside], column[inside]), (share * length)[inside])


def _swept(canvas: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    """Sweep a ball with a lighter core along curves: a bone's cortex is brighter than its marrow."""
    reach = int(np.ceil(radius)) + 1
    down, across = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    square = across**2 + down**2
    ball, core = (np.sqrt(np.clip(size**2 - square, 0, None)) for size in (radius, 0.72 * radius))
    return np.asarray(cv2.filter2D(canvas, -1, (ball - 0.6 * core) / (np.pi / 2 * radius**2)), np.float32)


def _tube(frame: Frame, corners: Sequence[tuple[float, float]], radius: float) -> NDArray[np.float32]:
    """Draw a bone that lies across the beam, along a smooth line through these places."""
    points = np.array(corners)
    along = np.linspace(0, len(points) - 1, 600)
    even = np.ones(61) / 61
    x, y = (
        np.convolve(np.pad(np.interp(along, np.arange(len(points)), values), 30, "edge"), even, "valid")
        for values in points.T
    )
    canvas = np.zeros((frame.rows, frame.columns), np.float32)
    _add_curve(canvas, frame, x, y, np.zeros_like(x), np.ones_like(x))
    return _swept(canvas, radius * frame.zoom * frame.rows)


def _growing_end(frame: Frame, side: float) -> NDArray[np.float32]:
    """Draw the head of the humerus, which a child's growth plate parts from the shaft."""
    x, y = frame.places()
    square = ((x - side * 0.436) / 0.028) ** 2 + ((y - 0.108) / 0.026) ** 2
    return np.asarray(0.07 * np.sqrt(np.clip(1 - square, 0, None)), np.float32)


def _spine(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    """Draw the vertebrae: bodies between darker discs, arches, spinous and transverse processes."""
    level = (y - _FIRST_RIB) / _PITCH
    step = level - np.round(level)  # 0 in the middle of a vertebra, a half in that of a disc
    side = np.abs(x)
    body = np.sqrt(np.clip(1 - (side / (_SPINE * (1 + 0.06 * np.cos(2 * np.pi * level)))) ** 6, 0, 1))
    disc, plate = np.exp(-(((np.abs(step) - 0.5) / 0.10) ** 2)), np.exp(-(((np.abs(step) - 0.36) / 0.05) ** 2))
    bone = body * (1 - 0.30 * disc + 0.15 * plate)
    for width, height, part in ((0.20, 0.20, 0.25), (0.13, 0.12, -0.15)):  # an arch seen end-on is a ring
        square = ((side - 0.62 * _SPINE) / (width * _SPINE)) ** 2 + ((step + 0.05) / height) ** 2
        bone += part * np.exp(-(square**1.5))
    spinous = (side / (0.16 * _SPINE)) ** 2 + ((step - 0.25) / 0.22) ** 2
    bone += 0.12 * np.exp(-(spinous**1.5))
    across = np.clip((2 * _SPINE - side) / (0.5 * _SPINE), 0, 1) * np.clip((side - 0.6 * _SPINE) / (0.3 * _SPINE), 0, 1)
    bone += 0.20 * np.exp(-(((step + 0.1) / 0.16) ** 4)) * across
    return np.asarray(0.115 * bone, np.float32)
