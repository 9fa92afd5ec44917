"""The optimizer of a training run, and its learning rate from step to step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from modeltrain.network import ChestNet
    from modeltrain.recipe import Recipe


def optimizer_of(network: ChestNet, recipe: Recipe) -> torch.optim.Optimizer:
    """Adam as the seed has it, or AdamW, which leaves norms and biases undecayed."""
    if recipe.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.ndim == 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)


def learning_rate(recipe: Recipe, done: float) -> float:
    """Return the learning rate after a part (0 to 1) of the run's steps."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    rise = 0.2
    level = 0.5 - 0.5 * math.cos(math.pi * (done / rise if done < rise else (1 - done) / (1 - rise)))
    return recipe.learning_rate * max(level, 1 / 50 if done < rise else 1e-3)
