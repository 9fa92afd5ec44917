"""The gate: how far a radiograph's features lie from the population that a network was trained on.

It is fitted after training (`export.gate_limits`) and travels with the weights, so one forward pass answers this too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

_LARGEST = 5.0  # exponent: what is that far outside need not be told from what is farther


class Gate(nn.Module):
    """Two looks at the statistics of the feature maps of one forward pass, of which the more alarmed one counts.

    `weight`, `bias`: the exponential of a linear score, fitted to tell the trained population from radiographs of
    elsewhere and from distorted ones (outlier exposure, Hendrycks et al. 2019). `project`, `offset`, `scale`: the mean
    square on the population's whitened principal axes, the Mahalanobis distance (Lee et al. 2018), for what no outlier
    prepared it for. Both are 1 at the limit. An empty gate (a model without one) says NaN.
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

    def forward(self, taps: Sequence[Tensor], pooled: Tensor) -> Tensor:
        """Return the outlier score, float32 [N], 0 and up: from 1 on, an image is not of the population."""
        if self.weight.numel() == 0:
            return torch.full_like(pooled[:, 0], torch.nan)
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
