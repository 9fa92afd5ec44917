"""Random variations of a training image, in OpenCV, so that one thread keeps ahead of the network on a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MARGIN = 0.6  # of the corners and of the sides, where they come from another radiograph at all
_KERNELS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How a training image may differ from its file. Zero switches a step off.

    Attributes
    ----------
    flip
        Probability of a left-right mirror image.
    rotation, scale, shift
        Largest turn in degrees, largest relative change of size, largest shift as a part of the image's side.
    brightness, contrast, gamma
        Largest relative change of brightness and contrast, largest absolute logarithm of gamma.
    aspect
        Largest absolute logarithm of a change of the ratio of height to width.
    crop
        Probability of a closer view: up to a third larger, and from anywhere in the image, so that no border is in it.
    frame
        Probability of a black frame, each of its sides up to an eighth of the image, as collimation leaves it.
    resample, blur, noise, jpeg
        Probabilities of: making the image smaller and larger again with other interpolation kernels, a slight Gaussian
        blur or sharpening, slight Gaussian noise, a second JPEG compression. They make the answer independent of how a
        radiograph came to its 224 pixels.
    tone
        Probability of a step towards the grey values of another training image, of whichever class (histogram
        matching, of a random part), so that exposure and processing tell less of the class.
    margins
        Probability of another training image's corners and sides over the image's own: markers, burned-in words,
        cables and collimation then tell less of the class.
    """

    flip: float = 0.5
    rotation: float = 10.0
    scale: float = 0.0
    shift: float = 0.0
    brightness: float = 0.2
    contrast: float = 0.2
    gamma: float = 0.0
    aspect: float = 0.0
    crop: float = 0.0
    frame: float = 0.0
    resample: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    jpeg: float = 0.0
    tone: float = 0.0
    margins: float = 0.0

    @property
    def borrows(self) -> bool:
        """Whether a step takes something from another image."""
        return bool(self.tone or self.margins)


def augment(
    image: NDArray[np.uint8],
    size: int,
    how: Augmentation,
    rng: np.random.Generator,
    other: NDArray[np.uint8] | None = None,
) -> NDArray[np.float32]:
    """Return one random variation of a radiograph.

    Parameters
    ----------
    image
        uint8 [H, W].
    size
        Side of the result in pixels.
    rng
        The only source of chance: the same generator state gives the same image.
    other
        A radiograph drawn at random, uint8 [H, W] as `image`, of whichever class, for the steps `tone` and `margins`,
        which are left out without it.

    Returns
    -------
    float32 [1, size, size] in [0, 1].
    """
    if other is not None and how.borrows:
        image = dressed(image, other, how, rng)
    grey = _place(image, size, how, rng)
    grey = _resample(grey, how, rng)
    grey = _grade(grey, how, rng)
    if rng.random() < how.noise:
        grey = grey + rng.normal(0, rng.uniform(0.002, 0.02), grey.shape).astype(np.float32)
    grey = np.clip(grey, 0, 1)
    if rng.random() < how.frame:
        top, left, bottom, right = rng.integers(0, size // 8 + 1, 4)
        for side in (grey[:top], grey[size - bottom :], grey[:, :left], grey[:, size - right :]):
            side[:] = 0
    if rng.random() < how.jpeg:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 98))]
        _, packed = cv2.imencode(".jpg", np.rint(grey * 255).astype(np.uint8), quality)
        grey = np.asarray(cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE), dtype=np.float32) / np.float32(255)
    return grey[np.newaxis]


def dressed(
    image: NDArray[np.uint8], other: NDArray[np.uint8], how: Augmentation, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Give a radiograph another one's exposure and margins, each with its probability: uint8 [H, W] as the two are."""
    if rng.random() < how.tone:
        image = toned(image, other, rng.uniform())
    if rng.random() < how.margins:
        image = _with_margins(image, other, rng)
    return image


def toned(image: NDArray[np.uint8], other: NDArray[np.uint8], part: float) -> NDArray[np.uint8]:
    """Move an image's grey values towards those of which `other` has as many: a part (0 to 1) of histogram matching."""
    own, target = (np.bincount(each.ravel(), minlength=256).cumsum() / each.size for each in (image, other))
    table = (1 - part) * np.arange(256) + part * np.searchsorted(target, own).clip(0, 255)
    return np.asarray(np.rint(table), np.uint8)[image]


def _with_margins(image: NDArray[np.uint8], other: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Put another radiograph's corners and sides, where markers, words and cables are and little lung, over an image's.

    The seam is soft to a varying degree, so that it tells nothing either.
    """
    rows, columns = image.shape
    mask = np.zeros((rows, columns), np.float32)
    for part in (mask, mask[:, ::-1]):  # its left side, then its right side
        if rng.random() < _MARGIN:
            part[: int(rows * rng.uniform(0.08, 0.25)), : int(columns * rng.uniform(0.08, 0.3))] = 1
        if rng.random() < _MARGIN:  # smaller below: the lungs' outer angles come close
            part[-int(rows * rng.uniform(0.08, 0.2)) :, : int(columns * rng.uniform(0.08, 0.15))] = 1
        if rng.random() < _MARGIN:
            part[:, : int(columns * rng.uniform(0.04, 0.12))] = 1
    mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.3, 4.0)), dtype=np.float32)
    return np.asarray(np.rint(image + mask * (other.astype(np.float32) - image)), np.uint8)


def _place(image: NDArray[np.uint8], size: int, how: Augmentation, rng: np.random.Generator) -> NDArray[np.float32]:
    """Flip, turn, scale and shift in one interpolation: float32 [size, size]; what comes in from outside is black."""
    rows, columns = image.shape
    turn = np.deg2rad(rng.uniform(-how.rotation, how.rotation))
    zoom = np.exp(rng.uniform(-how.scale, how.scale, 2))  # each axis its own: children differ in build, films in crop
    if how.aspect:
        half = rng.uniform(-how.aspect, how.aspect) / 2
        zoom = zoom * np.exp([half, -half])
    shift = how.shift
    if rng.random() < how.crop:
        closer = rng.uniform(1.0, 4 / 3)
        zoom, shift = zoom * closer, (closer - 1) / 2
    mirror = -1.0 if rng.random() < how.flip else 1.0
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.diag(
        [mirror * zoom[0] * size / columns, zoom[1] * size / rows]
    )
    # Pixel centres: the middle of the source goes to the middle of the result, then the shift.
    target = (size - 1) / 2 + rng.uniform(-shift, shift, 2) * size
    offset = target - linear @ np.array([(columns - 1) / 2, (rows - 1) / 2])
    matrix = np.column_stack([linear, offset])
    placed = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(placed, dtype=np.float32) / np.float32(255)


def _resample(grey: NDArray[np.float32], how: Augmentation, rng: np.random.Generator) -> NDArray[np.float32]:
    """Change the sharpness as another scanner, archive or resize would."""
    size = grey.shape[0]
    if rng.random() < how.resample:
        small = int(size * rng.uniform(0.5, 0.95))
        down, up = rng.choice(_KERNELS, 2)
        shrunk = cv2.resize(grey, (small, small), interpolation=int(down))
        grey = np.asarray(cv2.resize(shrunk, (size, size), interpolation=int(up)), dtype=np.float32)
    if rng.random() < how.blur:
        soft = np.asarray(cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.4, 1.0)), dtype=np.float32)
        grey = soft if rng.random() < 0.5 else grey + np.float32(rng.uniform(0.2, 0.8)) * (grey - soft)
    return grey


def _grade(grey: NDArray[np.float32], how: Augmentation, rng: np.random.Generator) -> NDArray[np.float32]:
    """Change gamma, contrast about the image's mean, and brightness."""
    if how.gamma:
        grey = np.clip(grey, 0, 1) ** np.float32(np.exp(rng.uniform(-how.gamma, how.gamma)))
    if how.contrast:
        mean = grey.mean()
        grey = mean + (grey - mean) * np.float32(1 + rng.uniform(-how.contrast, how.contrast))
    if how.brightness:
        grey = grey * np.float32(1 + rng.uniform(-how.brightness, how.brightness))
    return grey
