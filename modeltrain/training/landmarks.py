"""The exposure at which a network sees every image: the mean landmarks of its training images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from modeltrain.network.exposure import landmarks_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modeltrain.data.samples import Images


def mean_landmarks(images: Images) -> NDArray[np.float32]:
    """Return the landmarks of training images, float32 [LANDMARKS] in [0, 1]: the mean of the classes' means."""
    by_class: dict[int, list[NDArray[np.float32]]] = {}
    for i, sample in enumerate(images.samples):
        image = torch.from_numpy(images[i])[None, None].float() / 255
        by_class.setdefault(sample.label, []).append(landmarks_of(image)[0].numpy())
    return np.asarray(np.mean([np.mean(each, axis=0) for each in by_class.values()], axis=0), np.float32)
