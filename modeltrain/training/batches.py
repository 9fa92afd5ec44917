"""An epoch's images in their order, augmented, in batches."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch

from modeltrain.data.augment import augment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from modeltrain.data.samples import Images, Sample
    from modeltrain.training.recipe import Recipe

_Made = TypeVar("_Made")
_LOOKAHEAD = 4  # batches made in advance by the augmenting thread


class Batch(NamedTuple):
    """Augmented images float32 [N, 1, side, side]; their labels and agents, int64 [N]."""

    images: Tensor
    labels: Tensor
    agents: Tensor


def batch_count(images: int, size: int) -> int:
    """Batches in an epoch. An incomplete last one is left out: batch normalisation needs company."""
    return max(1, images // size)


def order_of(
    samples: Sequence[Sample], recipe: Recipe, epoch: int, weights: NDArray[np.float64] | None = None
) -> list[int]:
    """Return the indices of an epoch's images, shuffled by seed and epoch.

    `weights`, float64 [N], are the images' overlap weights, by which the recipe's part of each class is drawn.
    """
    rng = np.random.default_rng([recipe.seed, epoch])
    if not recipe.balanced:
        return [int(index) for index in rng.permutation(len(samples))]
    labels = np.array([sample.label for sample in samples])
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    fewest = min(len(members) for members in classes)
    by_weight = round(fewest * recipe.overlap) if weights is not None else 0
    chosen = np.concatenate([rng.choice(members, fewest - by_weight, replace=False) for members in classes])
    if weights is not None and by_weight:
        parts = [weights[members] / weights[members].sum() for members in classes]
        drawn = [rng.choice(members, by_weight, p=part) for members, part in zip(classes, parts, strict=True)]
        chosen = np.concatenate([chosen, *drawn])
    return [int(index) for index in rng.permutation(chosen)]


def batches(images: Images, order: Sequence[int], recipe: Recipe, epoch: int) -> Iterator[Batch]:
    """Return an epoch's augmented batches.

    They are made in a thread of their own while the network works (OpenCV lets go of the interpreter). An image's
    chance depends on seed, epoch and place in the order alone, so a resumed run sees the same images, and one that was
    drawn twice is varied twice.
    """
    side, size = recipe.side(epoch), recipe.batch_size
    count = batch_count(len(order), size)

    how = recipe.augmentation

    def varied_one(index: int, rng: np.random.Generator) -> NDArray[np.float32]:
        # Drawn from the epoch's order, so that both classes lend alike where the epoch is balanced.
        other = images[order[int(rng.integers(len(order)))]] if how.borrows else None
        return augment(images[index], side, how, rng, other)

    def batch(number: int) -> Batch:
        chosen = order[number * size : (number + 1) * size]
        places = range(number * size, number * size + len(chosen))
        chances = (np.random.default_rng([recipe.seed, epoch, place]) for place in places)
        varied = [varied_one(index, rng) for index, rng in zip(chosen, chances, strict=True)]
        labels = torch.tensor([images.samples[index].label for index in chosen])
        agents = torch.tensor([images.samples[index].agent for index in chosen])
        return Batch(torch.from_numpy(np.stack(varied)), labels, agents)

    return made_ahead(batch, count)


def made_ahead(make: Callable[[int], _Made], count: int) -> Iterator[_Made]:
    """Yield what `make` returns for 0 to `count` - 1, made a few numbers ahead in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(make, number) for number in range(min(_LOOKAHEAD, count)))
        for number in range(len(waiting), count + len(waiting)):
            yield waiting.popleft().result()
            if number < count:
                waiting.append(pool.submit(make, number))
