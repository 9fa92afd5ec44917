"""The population as another room might image it: framed, exposed and marked anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modeltrain.data.augment import Augmentation, augment
from modeltrain.data.samples import read_sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from modeltrain.data.samples import Sample

_HOW = Augmentation(
    flip=0.0,
    rotation=4.0,
    scale=0.08,
    shift=0.04,
    aspect=0.25,
    crop=0.3,
    brightness=0.1,
    contrast=0.25,
    gamma=0.2,
    tone=0.5,
    margins=0.3,
)


def shifted(
    samples: Sequence[Sample], size: int, rng: np.random.Generator, *, every: int = 1
) -> Iterator[NDArray[np.float32]]:
    """Yield the images, each `every`-th of them framed, exposed and marked anew, float32 [1, size, size] in [0, 1].

    Grey values and margins come from one of the samples at random, whichever class it has.
    """
    for number, sample in enumerate(samples):
        image = read_sample(sample, size)
        if number % every:
            yield image
        else:
            other = read_sample(samples[int(rng.integers(len(samples)))], size)
            yield augment(_eight_bits(image), size, _HOW, rng, _eight_bits(other))


def _eight_bits(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.asarray(np.rint(image[0] * 255), np.uint8)
