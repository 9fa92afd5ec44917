"""How far a radiograph's features lie from the population that a network was trained on.

The score is fitted after training (`export.gate_limits`) and travels with the weights: one forward pass gives it too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

_LARGEST = 5.0  # exponent: beyond it, farther makes no difference


class OutOfDistribution(nn.Module):
    """Two scores of the feature maps' statistics, of which the higher one counts. Both are 1 at the limit.

    `weight`, `bias`: the exponential of a linear score. It was fitted to separate the population from radiographs of
    other populations and from distorted ones (outlier exposure, Hendrycks et al. 2019). `project`, `offset`, `scale`:
    the mean square on the population's whitened principal axes (Mahalanobis distance, Lee et al. 2018), for what no
    outlier stands for. Without fitted values the score is NaN.
    """

    center: Tensor
    weight: Tensor
    bias: Tensor
    project: Tensor
    offset: Tensor
    scale: Tensor

    NAMES = ("center", "weight", "bias", "project", "offset", "scale")

    def __init__(self) -> None:
        super().__init__()
        for name in self.NAMES:
            self.register_buffer(name, torch.zeros(0))

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up fitted values: center, weight [D]; bias [1]; project [D, K]; offset [K]; scale [1]."""
        for name in self.NAMES:
            setattr(self, name, tensors[name].detach().float().clone())

    def forward(self, taps: Sequence[Tensor]) -> Tensor:
        """Return the outlier score, float32 [N], 0 and up: from 1 on, an image is not of the population."""
        if self.weight.numel() == 0:
            return torch.full_like(taps[-1][:, 0, 0, 0], torch.nan)
        x = statistics(taps) - self.center
        linear = (x @ self.weight + self.bias).clamp(max=_LARGEST).exp()
        distance = (x @ self.project - self.offset).square().mean(dim=1) / self.scale
        return torch.maximum(linear, distance)


def statistics(taps: Sequence[Tensor]) -> Tensor:
    """Return mean and standard deviation of each channel of each feature map: [N, D]."""
    parts = []
    for tap in taps:
        mean = tap.mean(dim=(2, 3))
        spread = (tap - mean[:, :, None, None]).square().mean(dim=(2, 3)).add(1e-6).sqrt()
        parts += [mean, spread]
    return torch.cat(parts, dim=1)
