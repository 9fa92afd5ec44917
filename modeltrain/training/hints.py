"""Hints: feature maps of a teacher, which a linear map of the pupil's own is to tell (FitNets, Romero et al. 2015).

Of two classes a teacher's answer says little, one number an image. What it sees at each place says thousands, and a
pupil that sees the same can answer the same.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, batch_norm, mse_loss

if TYPE_CHECKING:
    from torch import Tensor

    from modeltrain.network.architectures import ChestNet

_SIDE = 64  # of the picture that is shown to both to learn how many channels their maps have


class Hints(nn.Module):
    """Linear maps from a pupil's feature maps to its teacher's at the same depth, learnt along with the pupil.

    Both networks' maps are those of their last forward pass (`ChestNet.depths`).
    """

    def __init__(self, pupil: ChestNet, teacher: ChestNet, device: str) -> None:
        super().__init__()
        self._own, self._theirs = _kept(pupil), _kept(teacher)
        with torch.no_grad():
            for network in (pupil, teacher):
                training = network.training
                network.eval()(torch.zeros(1, 1, _SIDE, _SIDE, device=device))
                network.train(training)
        pairs = zip(self._own, self._theirs, strict=False)
        self.tell = nn.ModuleList(nn.Conv2d(own.shape[1], theirs.shape[1], 1) for own, theirs in pairs)
        self.to(device)

    def loss(self) -> Tensor:
        """Return the mean part of the variance of the teacher's maps that is not told (more than 1 at first)."""
        missed = []
        for tell, own, theirs in zip(self.tell, self._own, self._theirs, strict=False):
            wanted = theirs.float()
            if wanted.shape[2:] != own.shape[2:]:
                wanted = adaptive_avg_pool2d(wanted, (own.shape[2], own.shape[3]))
            wanted = batch_norm(wanted, None, None, training=True)  # each channel counts alike
            missed.append(mse_loss(tell(own).float(), wanted))
        return torch.stack(missed).mean()


def _kept(network: ChestNet) -> list[Tensor]:
    """Return a list that holds, after each forward pass, the feature maps [N, C, h, w] of a network's depths.

    The deepest comes first: of networks with fewer depths than the other, the last ones are a match for each other.
    """
    maps: list[Tensor] = [torch.empty(0)] * len(network.depths)

    def keep(place: int, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        maps[place] = output

    for place, module in enumerate(reversed(network.depths)):
        module.register_forward_hook(partial(keep, place))
    return maps
