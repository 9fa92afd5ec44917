"""A run's fixed parameters, its optimizer and its learning rate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from dicom_io.errors import InvalidData

if TYPE_CHECKING:
    from torch import nn

    from modeltrain.network.architectures import ChestNet
    from modeltrain.training.recipe import Recipe


def fix(network: ChestNet, recipe: Recipe) -> None:
    """Exclude the parameters that the recipe names from training.

    Raises
    ------
    InvalidData
        It names some that the network does not have.
    """
    parameters = dict(network.named_parameters())
    for beginning in recipe.fixed:
        if not any(name.startswith(beginning) for name in parameters):
            raise InvalidData(f"recipe {recipe.name}: does not fit {recipe.arch}, which has no parameters {beginning}*")
    for name, parameter in parameters.items():
        parameter.requires_grad_(not name.startswith(recipe.fixed))


def optimizer_of(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Adam as the seed has it, or AdamW, which leaves norms and biases undecayed."""
    if recipe.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.ndim == 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move averaged weights and norm statistics towards a network's; with a decay of 0, copy them."""
    for own, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if decay and own.is_floating_point():
            own.lerp_(new, 1 - decay)
        else:
            own.copy_(new)


def learning_rate(recipe: Recipe, done: float) -> float:
    """Return the learning rate after a part (0 to 1) of the run's steps."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    rise = 0.2
    level = 0.5 - 0.5 * math.cos(math.pi * (done / rise if done < rise else (1 - done) / (1 - rise)))
    return recipe.learning_rate * max(level, 1 / 50 if done < rise else 1e-3)
