"""Networks that teach another one: their probability of each image, as the pupil sees it, is a part of its target.

Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent". A teacher may have any
architecture: it does not serve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from modeltrain.network.architectures import ChestNet, has_lungs, take_up
from modeltrain.training.checkpoint import origin_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from modeltrain.training.recipe import Recipe


class Teachers:
    """Trained networks, asked together.

    Parameters
    ----------
    paths
        Runs' `best_model.safetensors`, or model folders' weights (`beginnings.weights_in`).
    recipe
        That of the run that is taught.
    parts
        The digests of its data.
    device
        Where the networks compute.

    Raises
    ------
    InvalidData
        A file is not of a training run or does not hold the weights of its architecture. Or its run had the same data
        with another split.
    InvalidModel
        A folder is no intact model, or a library that the architecture needs is not installed.
    """

    def __init__(self, paths: Sequence[Path], recipe: Recipe, parts: Sequence[str], device: str) -> None:
        self.origins = [origin_of(path, recipe, parts) for path in paths]
        self.device = device
        self.lower = recipe.precision == "bfloat16"
        self.networks = [
            _network(path, origin[0].arch).to(device).to(memory_format=torch.channels_last)
            for path, origin in zip(paths, self.origins, strict=True)
        ]

    @torch.no_grad()  # not inference mode: the answers go into a loss
    def probability(self, images: Tensor) -> Tensor:
        """Return the mean of their probabilities, float32 [N, 2], of images float32 [N, 1, side, side] in [0, 1]."""
        images = images.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.lower):
            outputs = [network(images).logits for network in self.networks]
        return torch.stack([logits.float().softmax(dim=1) for logits in outputs]).mean(dim=0)


def _network(path: Path, arch: str) -> ChestNet:
    """Read a network for teaching."""
    network = ChestNet(arch, lungs=has_lungs(path))
    take_up(network, path)
    return network.eval()
