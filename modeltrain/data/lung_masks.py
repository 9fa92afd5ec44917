"""Radiographs with masks of their lungs that people drew: reading pairs, and random variations of them.

A mask is a PNG with the name and the folder of its image, of the same size: black is no lung, everything else is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dicom_io.errors import InvalidData, UnreadableObject
from modeltrain.data.samples import Sample, data_digest
from modeltrain.model.preprocess import INPUT_SIZE, read_picture, to_input

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_MIDDLE = (INPUT_SIZE - 1) / 2
_WORDS = ("L", "R", "12:40", "SUPINE", "AP")
_NO_CHEST = 0.055  # of the variations, in which there is no upright chest and so no lung


@dataclass(frozen=True, slots=True)
class Pairs:
    """Radiographs and masks.

    Attributes
    ----------
    images, masks
        uint8 [N, 224, 224]; of a mask 0 or 1.
    paths
        The masks' files.
    without_mask
        How many images were left out because they have none.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    paths: tuple[Path, ...]
    without_mask: int

    def __len__(self) -> int:
        return len(self.images)


def read_pairs(samples: Sequence[Sample], root: Path, masks: Path) -> Pairs:
    """Read radiographs below a folder and their masks, which lie in the same places below another.

    Raises
    ------
    InvalidData
        No image has a mask, a file cannot be read, or a mask has another size than its image.
    """
    pairs, paths = [], []
    for sample in samples:
        path = (masks / sample.path.relative_to(root)).with_suffix(".png")
        if path.exists():
            pairs.append(_pair(sample.path, path))
            paths.append(path)
    if not pairs:
        raise InvalidData(f"{masks}: holds no masks for {root} (expected, for instance, train/NORMAL/NAME.png)")
    images, own = (np.stack(each) for each in zip(*pairs, strict=True))
    return Pairs(images, own, tuple(paths), len(samples) - len(pairs))


def _pair(image: Path, mask: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    try:
        grey, drawn = read_picture(image), read_picture(mask)
    except UnreadableObject as error:
        raise InvalidData(str(error)) from error
    if grey.shape != drawn.shape:
        rows, columns = drawn.shape
        raise InvalidData(f"{mask}: has {columns}×{rows} pixels, its image {grey.shape[1]}×{grey.shape[0]}")
    size = (INPUT_SIZE, INPUT_SIZE)
    part = cv2.resize((drawn > 0).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return np.rint(to_input(grey)[0] * 255).astype(np.uint8), (part >= 0.5).astype(np.uint8)


def masks_digest(pairs: Sequence[Pairs], masks: Path) -> str:
    """Return a fingerprint of the names and contents of masks below a folder."""
    return data_digest([Sample(path, 0, "") for each in pairs for path in each.paths], masks)


def varied(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a variation of a pair [224, 224]: both float32 [224, 224] in [0, 1].

    It is placed anew, exposed anew, clouded, collimated and marked, far beyond what one room does. A few have no
    upright chest at all, and an empty mask: turned on its side or its head, noise and blobs, a small part enlarged.
    """
    matrix = _placement(rng)
    paper = float(rng.choice([0, 0, 0, int(rng.integers(0, 255))]))
    size = (INPUT_SIZE, INPUT_SIZE)
    grey = np.asarray(cv2.warpAffine(image, matrix, size, borderValue=paper), np.float32) / np.float32(255)
    lungs = np.asarray(cv2.warpAffine(mask.astype(np.float32), matrix, size), np.float32)
    if rng.random() < 0.35:
        grey = _clouded(grey, lungs > 0.5, rng)
    grey = _exposed(grey, rng)
    grey = _marked(_collimated(grey, rng), rng)
    grey = np.clip(grey, 0, 1).astype(np.float32)
    if (chance := rng.random()) < _NO_CHEST:
        return np.ascontiguousarray(_no_chest(grey, chance, rng), np.float32), np.zeros_like(lungs)
    return np.ascontiguousarray(grey, np.float32), lungs


def reframed(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return a pair [224, 224] as another room might have framed and exposed it: for measuring, not for training."""
    zoom = np.exp(rng.uniform(-0.3, 0.2))
    scale = np.diag([zoom * np.exp(rng.uniform(-0.12, 0.12)), zoom])
    matrix = _about_middle(_turn(rng.uniform(-8, 8)) @ scale, rng.uniform(-14, 14, 2))
    size = (INPUT_SIZE, INPUT_SIZE)
    grey = cv2.warpAffine(image, matrix, size).astype(np.float32) / 255
    lungs = cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_NEAREST)
    grey = np.clip(grey ** np.exp(rng.uniform(-0.4, 0.4)) * rng.uniform(0.7, 1.3), 0, 1)
    return grey.astype(np.float32), np.asarray(lungs, np.uint8)


def _turn(degrees: float) -> NDArray[np.float64]:
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _about_middle(linear: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the affine map [2, 3] that takes the image's middle to a place `shift` pixels from it."""
    middle = np.array([_MIDDLE, _MIDDLE])
    return np.column_stack([linear, middle + shift - linear @ middle])


def _placement(rng: np.random.Generator) -> NDArray[np.float64]:
    turn = _turn(rng.uniform(-14, 14))
    zoom, aspect = np.exp(rng.uniform(-0.35, 0.28)), np.exp(rng.uniform(-0.3, 0.3) / 2)
    across, down = zoom * aspect, zoom / aspect
    if rng.random() < 0.5:
        across = -across
    return _about_middle(turn @ np.diag([across, down]), rng.uniform(-0.12, 0.12, 2) * INPUT_SIZE)


def _clouded(grey: NDArray[np.float32], lungs: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a rough opacity somewhere in the lungs: a lung that is white is a lung."""
    ys, xs = np.nonzero(lungs)
    if len(ys) < 200:
        return grey
    at = rng.integers(len(ys))
    y, x = np.mgrid[0:INPUT_SIZE, 0:INPUT_SIZE]
    noise = rng.standard_normal(grey.shape).astype(np.float32)
    rough = np.asarray(cv2.GaussianBlur(noise, (0, 0), rng.uniform(3, 9)), np.float32)
    rough = rough / rough.std()
    far = ((x - xs[at]) / rng.uniform(14, 55)) ** 2 + ((y - ys[at]) / rng.uniform(14, 60)) ** 2 + 0.3 * rough
    place = np.exp(-(np.clip(far, 0, None) ** rng.uniform(0.8, 2)))
    white = rng.uniform(0.6, 1) * np.percentile(grey, rng.uniform(80, 97))
    return np.asarray(grey + rng.uniform(0.3, 0.95) * place * np.maximum(white - grey, 0), np.float32)


def _exposed(grey: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    if rng.random() < 0.5:
        grey = np.clip(grey, 0, 1) ** np.float32(np.exp(rng.uniform(-0.5, 0.5)))
    if rng.random() < 0.15:  # brighter on one side
        slope = np.linspace(-1, 1, INPUT_SIZE, dtype=np.float32) * np.float32(rng.uniform(-0.3, 0.3))
        grey = grey * (1 + (slope[None] if rng.random() < 0.5 else slope[:, None]))
    if rng.random() < 0.5:
        mean = grey.mean()
        grey = mean + (grey - mean) * np.float32(rng.uniform(0.6, 1.4)) + np.float32(rng.uniform(-0.1, 0.1))
    if rng.random() < 0.15:  # clipped at both ends
        low, high = np.percentile(grey, [rng.uniform(0, 12), rng.uniform(88, 100)])
        grey = ((grey - low) / (high - low + 1e-3)).astype(np.float32)
    if rng.random() < 0.3:
        grey = np.asarray(cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.4, 1.6)), np.float32)
    if rng.random() < 0.3:
        grey = grey + rng.normal(0, rng.uniform(0.004, 0.04), grey.shape).astype(np.float32)
    return grey


def _collimated(grey: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    if rng.random() < 0.25:
        top, bottom, left, right = (rng.uniform(0, 0.1, 4) * INPUT_SIZE).astype(int)
        sides = grey[:top], grey[INPUT_SIZE - bottom :], grey[:, :left], grey[:, INPUT_SIZE - right :]
        shade = rng.choice([0, 0, 1])
        for side in sides:
            side[:] = shade
    return grey


def _marked(grey: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Burn letters and a line into the image: they are no lung, and hide none."""
    if rng.random() >= 0.3:
        return grey
    marks = np.zeros(grey.shape, np.uint8)
    for _ in range(rng.integers(1, 4)):
        x, y = (int(each) for each in rng.integers(0, INPUT_SIZE, 2))
        word, height, width = str(rng.choice(_WORDS)), float(rng.uniform(0.3, 0.9)), int(rng.integers(1, 3))
        cv2.putText(marks, word, (x, y), cv2.FONT_HERSHEY_SIMPLEX, height, 255, width, cv2.LINE_AA)
    if rng.random() < 0.5:
        start, end = ([int(each) for each in rng.integers(0, INPUT_SIZE, 2)] for _ in range(2))
        cv2.line(marks, start, end, 200, int(rng.integers(1, 3)), cv2.LINE_AA)
    return np.maximum(grey, marks.astype(np.float32) / 255 * np.float32(rng.uniform(0.8, 1)))


def _no_chest(grey: NDArray[np.float32], chance: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return something that is no upright frontal chest; `chance` in [0, 0.055) chooses what."""
    if chance < 0.03:
        return np.rot90(grey, int(rng.integers(1, 4)))
    if chance >= 0.045:
        side = int(rng.uniform(20, 45))
        top, left = rng.integers(0, INPUT_SIZE - side, 2)
        part = grey[top : top + side, left : left + side]
        return np.asarray(cv2.resize(part, (INPUT_SIZE, INPUT_SIZE)), np.float32)
    noise = cv2.GaussianBlur(rng.standard_normal(grey.shape).astype(np.float32), (0, 0), rng.uniform(0.5, 30))
    noise = (noise - noise.min()) / (noise.max() - noise.min())
    if rng.random() < 0.5:
        middle = rng.integers(60, 160, 2)
        y, x = np.mgrid[0:INPUT_SIZE, 0:INPUT_SIZE]
        far = ((y - middle[0]) / rng.uniform(30, 110)) ** 2 + ((x - middle[1]) / rng.uniform(30, 110)) ** 2
        noise = noise * (far < 1)
    return np.asarray(noise, np.float32)
