"""Radiographs in which a place is made normal, or an opacity is drawn: what a faithful map is tested with.

A place is replaced by the same place of a NORMAL radiograph. Petsiuk et al. 2018 (RISE) blur it instead, but a blurred
lung looks like an opacity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_SIDE = 224  # of an image to which the pixels below belong; those of others are as many parts of their side
_RIM = 4  # by how many pixels the lungs are widened before places in them are chosen
_AROUND = 12  # width of the ring around the lungs in which two radiographs' grey values are matched
_SOFT = 4.0  # deviation of the edge of a replaced place
_CORE = 12  # how far from the lungs' rim an opacity's middle lies, where the lungs are wide enough
_ACROSS, _DOWN = 24.0, 26.0  # half width and half height of an opacity
_DENSE = 0.3  # how far an opacity brings its middle towards white
_ROUGH, _GRAIN = 0.24, 5.0  # depth and deviation of the roughness of its edge


def box_of(lungs: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of lungs [H, W] that are not empty; right and bottom exclusive."""
    rows, columns = np.flatnonzero(lungs.any(1)), np.flatnonzero(lungs.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def area_of(lungs: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return lungs [H, W] with a rim around them: the places that may be replaced."""
    return _widened(lungs, _RIM)


def normal_for(
    image: NDArray[np.float32],
    lungs: NDArray[np.bool_],
    donor: NDArray[np.float32],
    donor_lungs: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Return a NORMAL radiograph laid onto an image: the box of its lungs onto the other's, its grey values matched.

    Parameters
    ----------
    image, donor
        float32 [H, W] in [0, 1].
    lungs, donor_lungs
        Of both; mean and deviation are matched in a ring around the lungs, or all over where there is no such ring.
    """
    (a, b, c, d), (left, top, right, bottom) = box_of(donor_lungs), box_of(lungs)
    across, down = (right - left) / (c - a), (bottom - top) / (d - b)
    matrix = np.array([[across, 0, left - a * across], [0, down, top - b * down]])
    moved = cv2.warpAffine(donor, matrix, image.shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    ring = _widened(lungs, _AROUND) & ~lungs
    place = ring if ring.any() else np.ones_like(lungs)
    own, other = image[place], moved[place]
    matched = (moved - other.mean()) * (own.std() / (other.std() + 1e-3)) + own.mean()
    return np.asarray(np.clip(matched, 0, 1), np.float32)


def strongest(
    strength: NDArray[np.float32], area: NDArray[np.bool_], parts: Sequence[float]
) -> list[NDArray[np.float32]]:
    """Return for each part of an area [H, W] a mask in [0, 1] of the places where `strength` is highest.

    Each holds that part of the area's pixels and has a soft edge, so that no seam shows.
    """
    order = np.flatnonzero(area)[np.argsort(-strength[area], kind="stable")]
    masks = []
    for part in parts:
        mask = np.zeros(area.size, np.float32)
        mask[order[: round(part * len(order))]] = 1
        soft = cv2.GaussianBlur(mask.reshape(area.shape), (0, 0), _pixels(_SOFT, area))
        masks.append(np.asarray(soft, np.float32))
    return masks


def replaced(
    image: NDArray[np.float32], normal: NDArray[np.float32], masks: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    """Return an image [H, W] once for each mask, with what lies in the mask taken from `normal`."""
    return [image + (normal - image) * mask for mask in masks]


def nearness(shape: tuple[int, int], place: tuple[float, float]) -> NDArray[np.float32]:
    """Return how near each pixel is to a place (column, row): the order of a round spot that grows around it."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    return np.asarray(-np.hypot(columns - place[0], rows - place[1]), np.float32)


def random_place(lungs: NDArray[np.bool_], rng: np.random.Generator) -> tuple[float, float]:
    """Return a random place in lungs [H, W], as column and row."""
    rows, columns = np.nonzero(lungs)
    number = int(rng.integers(len(rows)))
    return float(columns[number]), float(rows[number])


def inner_place(lungs: NDArray[np.bool_], rng: np.random.Generator) -> tuple[float, float]:
    """Return a random place in lungs [H, W] that is not at their rim, as column and row."""
    size = 2 * round(_pixels(_CORE, lungs)) + 1
    core = cv2.erode(lungs.astype(np.uint8), np.ones((size, size), np.uint8)) > 0
    return random_place(core if core.any() else lungs, rng)


def with_opacity(
    image: NDArray[np.float32], place: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return an image [H, W] with an opacity drawn around a place (column, row): an ellipse with a rough, soft edge."""
    rows, columns = np.mgrid[0 : image.shape[0], 0 : image.shape[1]].astype(np.float32)
    noise = rng.standard_normal(image.shape).astype(np.float32)
    grain = cv2.GaussianBlur(noise, (0, 0), _pixels(_GRAIN, image))
    across = (columns - place[0]) / _pixels(_ACROSS, image)
    down = (rows - place[1]) / _pixels(_DOWN, image)
    far = np.clip(across**2 + down**2 + _ROUGH * grain / grain.std(), 0, None)
    return np.asarray(image + _DENSE * np.exp(-(far**2)) * (1 - image), np.float32)


def _widened(lungs: NDArray[np.bool_], pixels: float) -> NDArray[np.bool_]:
    size = 2 * round(_pixels(pixels, lungs)) + 1
    return np.asarray(cv2.dilate(lungs.astype(np.uint8), np.ones((size, size), np.uint8)) > 0)


def _pixels(at_224: float, image: NDArray[np.float32] | NDArray[np.bool_]) -> float:
    return at_224 * float(image.shape[-1]) / _SIDE
