"""The gate: how far a radiograph's features lie from the population that a network was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

STATISTICS = 2  # of each channel of each tap: mean and standard deviation over the map


class Gate(nn.Module):
    """Two looks at the statistics of the feature maps of one forward pass, of which the more alarmed one counts.

    `weight` and `bias`: a logistic regression between the trained population and radiographs from elsewhere (outlier
    exposure, Hendrycks et al. 2019). `project` and `offset`: a whitening onto the population's principal axes, whose
    squared length is the Mahalanobis distance (Lee et al. 2018), for what no outlier prepared it for. `scale` brings
    each to 1 where the wanted part of the population lies below it. An empty gate (a model without one) says NaN.
    """

    NAMES = ("center", "weight", "bias", "project", "offset", "scale")

    def __init__(self) -> None:
        super().__init__()
        for name in self.NAMES:
            self.register_buffer(name, torch.zeros(0))

    def shape_like(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the shapes of these tensors, so that `load_state_dict` accepts them."""
        for name in self.NAMES:
            if name in tensors:
                setattr(self, name, torch.zeros_like(tensors[name], dtype=torch.float32))

    def forward(self, taps: Sequence[Tensor], pooled: Tensor) -> Tensor:
        """Return the outlier score, float32 [N]: at 1 and above, an image is not of the population."""
        if self.weight.numel() == 0:
            return torch.full_like(pooled[:, 0], torch.nan)
        x = statistics(taps) - self.center
        linear = (x @ self.weight + self.bias) / self.scale[0]
        distance = (x @ self.project - self.offset).square().mean(dim=1) / self.scale[1]
        return torch.maximum(linear, distance)


def statistics(taps: Sequence[Tensor]) -> Tensor:
    """Return mean and standard deviation of each channel of each map: [N, 2 · channels]."""
    parts = []
    for tap in taps:
        mean = tap.mean(dim=(2, 3))
        spread = (tap - mean[:, :, None, None]).square().mean(dim=(2, 3)).add(1e-6).sqrt()
        parts += [mean, spread]
    return torch.cat(parts, dim=1)
