"""Networks that teach another one: their probability of each image, as the pupil sees it, is a part of its target.

Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent". A teacher may have any
architecture: it does not serve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dicom_io.errors import InvalidData
from modeltrain.model.card import SAFETENSORS
from modeltrain.network.architectures import ChestNet, take_up
from modeltrain.training.checkpoint import BEST, origin_of, runs_behind
from modeltrain.training.optimizer import fix

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
        Runs' `best_model.safetensors`, or model folders' weights (`weights_in`).
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


def check_teachers(recipe: Recipe, start: Path | None, teachers: Sequence[Path]) -> None:
    """Check a recipe against weights and teachers, before any image is read.

    Raises
    ------
    InvalidData
        The recipe needs a teacher and there is none, or there are teachers and it takes none; or a teacher's file is
        not of a training run; or the recipe keeps layers fixed that are random or that its architecture does not have.
    InvalidModel
        A teacher's folder is no intact model, or a library that an architecture needs is not installed.
    """
    if recipe.distillation and not teachers:
        raise InvalidData(f"recipe {recipe.name}: needs a teacher (cxrd retrain --teacher)")
    if teachers and not recipe.distillation:
        raise InvalidData(f"recipe {recipe.name}: takes no teacher (--recipe standardized does)")
    if recipe.fixed and recipe.init == "random" and not start:
        raise InvalidData(f"recipe {recipe.name}: fixed layers need weights to begin with (--init imagenet)")
    fix(ChestNet(recipe.arch), recipe)
    for path in teachers:
        ChestNet(runs_behind(path)[0].arch)


def weights_in(path: Path) -> Path:
    """Return the file of weights in a run's or a model's folder; a file is returned as it is."""
    if not path.is_dir():
        return path
    return path / (BEST if (path / BEST).exists() else SAFETENSORS)


def _network(path: Path, arch: str) -> ChestNet:
    """Read a network for teaching, without the mirror image: the pupil sees one side at a time too."""
    network = ChestNet(arch)
    take_up(network, path)
    return network.eval()
