"""Fits the out-of-distribution score: what the trained population looks like in a network's features, and what not."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from modeltrain.data.samples import Sample, pictures, read_sample
from modeltrain.data.shifted import shifted
from modeltrain.network.out_of_distribution import statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from modeltrain.network.architectures import ChestNet

FLAGGED = 0.004  # part of the validation images that the linear look may flag
_FARTHEST = 0.001  # part that the distance may flag: a net behind the other, for what it was never shown
_FLAGGED_KEPT = 0.98  # part of the out-of-distribution images kept back that the linear look must flag
_AXES = 64  # principal axes of the Mahalanobis distance
_MOST = 2000  # images of each side that are looked at: more change little and cost a forward pass each
_BATCH = 16


def fit_out_of_distribution(
    network: ChestNet,
    train: Sequence[Sample],
    validation: Sequence[Sample],
    out_of_distribution: Path | None,
    *,
    size: int,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return the tensors of the out-of-distribution score for a trained network.

    Parameters
    ----------
    train
        The population; at most 2,000 of it are looked at, drawn by `seed`.
    validation
        Where the limits are set. The linear look may flag 4 in 1,000 of these, as they are and shifted. Its limit lies
        halfway from there to out-of-distribution images that were kept back, where there is a folder of them: distorted
        images alone are so far off that people would be let in. The distance may flag one in 1,000.
    out_of_distribution
        A folder of radiographs of other populations (JPEG or PNG; never those that the score is judged on). Distorted
        images of `train` (turned, inverted, cut, noise) are out of distribution in any case. With a folder a sixth of
        both is kept back.
    """
    rng = np.random.default_rng(seed)
    chosen = [train[i] for i in rng.permutation(len(train))[:_MOST]]
    own = _features(network, shifted(chosen, size, rng, every=2))
    distorted = _features(network, _distorted(chosen[: _MOST * 3 // 10], size, rng))
    fitted, kept = distorted, distorted[:0]
    if out_of_distribution:
        paths = pictures(out_of_distribution)
        picked = [paths[i] for i in rng.permutation(len(paths))[: _MOST * 6 // 5]]
        populations = _features(network, _plain([Sample(path, 0, "") for path in picked], size))
        halves = zip(_without_sixth(distorted), _without_sixth(populations), strict=True)
        fitted, kept = (np.concatenate(half) for half in halves)
    inside = _features(network, chain(shifted(validation, size, rng), _plain(validation, size)))
    return _fit(own, fitted, inside, kept)


def out_of_distribution_images(
    train: Sequence[Sample], out_of_distribution: Path | None, *, size: int, count: int = 100, seed: int = 1
) -> NDArray[np.float32]:
    """Return images that are out of distribution, float32 [N, 1, size, size]: `count` distorted, `count` of the folder.

    They are drawn without regard to which ones the score was fitted to: they serve to compare two copies of a score.
    """
    rng = np.random.default_rng(seed)
    chosen = [train[i] for i in rng.permutation(len(train))[:count]]
    images = list(_distorted(chosen, size, rng))
    if out_of_distribution:
        paths = pictures(out_of_distribution)
        images += _plain([Sample(paths[i], 0, "") for i in rng.permutation(len(paths))[:count]], size)
    return np.stack(images)


def _without_sixth(features: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Divide out-of-distribution images [N, D]: those that the score is fitted to, and the sixth that is kept back."""
    fitted = len(features) - len(features) // 6
    return features[:fitted], features[fitted:]


def _halfway(inside: NDArray[np.float64], kept: NDArray[np.float64]) -> float:
    """Return the least limit that `inside` allows, or halfway from there to where most of `kept` lies beyond it."""
    near = float(np.quantile(inside, 1 - FLAGGED))
    if not len(kept):
        return near
    return (near + max(near, float(np.quantile(kept, 1 - _FLAGGED_KEPT)))) / 2


def _plain(samples: Sequence[Sample], size: int) -> Iterator[NDArray[np.float32]]:
    return (read_sample(sample, size) for sample in samples)


def _fit(
    own: NDArray[np.float64],
    out_of_distribution: NDArray[np.float64],
    inside: NDArray[np.float64],
    kept: NDArray[np.float64],
) -> dict[str, Tensor]:
    """Fit both looks on `own` [N, D] and images out of distribution; set their limits on `inside` and on `kept`."""
    center, spread = own.mean(axis=0), own.std(axis=0) + 1e-6
    both = np.concatenate([own, out_of_distribution])
    labels = np.repeat([0, 1], [len(own), len(out_of_distribution)])
    classifier = LogisticRegression(C=0.3, class_weight="balanced", max_iter=2000)
    classifier.fit((both - center) / spread, labels)
    weight = classifier.coef_[0] / spread
    projection = (inside - center) @ weight
    # One limit's distance from the middle of the population is one unit of the exponent.
    limit = _halfway(projection, (kept - center) @ weight)
    unit = max(limit - float(np.median(projection)), 1e-6)

    # Principal axes of the standardised features, whitened: the smallest ones are noise and are left out.
    standard = (own - center) / spread
    values, vectors = np.linalg.eigh(np.cov(standard, rowvar=False))
    axes = min(_AXES, len(own) // 4, own.shape[1])
    whitening = vectors[:, -axes:] / np.sqrt(np.maximum(values[-axes:], 1e-9))
    project = whitening / spread[:, None]
    distance = np.square((inside - center) @ project).mean(axis=1)
    tensors = {
        "center": center,
        "weight": weight / unit,
        "bias": np.array([-limit / unit]),
        "project": project,
        "offset": np.zeros(axes),
        "scale": np.array([np.quantile(distance, 1 - _FARTHEST)]),
    }
    return {name: torch.from_numpy(np.asarray(value, dtype=np.float32)) for name, value in tensors.items()}


@torch.inference_mode()
def _features(network: ChestNet, images: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return the statistics [N, D] of the feature maps of images [1, size, size]."""
    stacked = [statistics(network.taps(torch.from_numpy(stack))).numpy() for stack in _stacks(images)]
    return np.concatenate(stacked).astype(np.float64)


def _stacks(images: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    batch: list[NDArray[np.float32]] = []
    for image in images:
        batch.append(image)
        if len(batch) == _BATCH:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def _distorted(samples: Sequence[Sample], size: int, rng: np.random.Generator) -> Iterator[NDArray[np.float32]]:
    """Yield each image in one of the ways in which it is no upright frontal chest any more."""
    ways: tuple[Callable[[NDArray[np.float32]], NDArray[np.float32]], ...] = (
        lambda x: np.rot90(x, 1),
        lambda x: np.rot90(x, 2),
        lambda x: np.rot90(x, 3),
        lambda x: 1 - x,
        lambda x: _part(x, rng),
        lambda x: rng.permuted(x, axis=int(rng.integers(2))),
        lambda x: np.clip(rng.normal(0.5, 0.2, x.shape), 0, 1),
        lambda x: np.where(x > np.quantile(x, 0.6), x, 0),
    )
    for number, sample in enumerate(samples):
        grey = ways[number % len(ways)](read_sample(sample, size)[0])
        yield np.ascontiguousarray(grey, dtype=np.float32)[None]


def _part(grey: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a quarter of an image or less, enlarged."""
    size = grey.shape[0]
    side = int(size * rng.uniform(0.2, 0.5))
    top, left = rng.integers(0, size - side, 2)
    return np.asarray(cv2.resize(grey[top : top + side, left : left + side], (size, size)), dtype=np.float32)
