"""Where the lungs are: a small U-Net (Ronneberger et al. 2015), which every answer is built on.

It sees the whole radiograph at half its side, each at its own mean and deviation, so that exposure makes no difference.
The part of a lung that lies behind heart and diaphragm counts as lung, as in the masks that it learnt from.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.functional import avg_pool2d, interpolate

if TYPE_CHECKING:
    from torch import Tensor

CHANNELS = (16, 24, 48, 96, 128)  # at a half, a quarter, … of the image's side


class Lungs(nn.Module):
    """Segments the lungs: float32 [N, 1, H, W] in [0, 1] becomes logits [N, H/2, W/2]; sides are multiples of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _step(1, CHANNELS[0])
        self.down = nn.ModuleList(
            nn.Sequential(_step(above, own, stride=2), _step(own, own)) for above, own in pairwise(CHANNELS)
        )
        levels = CHANNELS[:0:-1]  # from the deepest to a quarter of the image's side
        self.narrow = nn.ModuleList(nn.Conv2d(below, own, 1) for below, own in pairwise(levels))
        self.up = nn.ModuleList(_step(own, own) for own in levels[1:])
        self.last = nn.Conv2d(levels[-1], 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return how certainly each place is lung: logits, float32 [N, H/2, W/2]."""
        return self.logits(self.maps(image))

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return feature maps [N, C, h, w] of the whole image, each of half the side of the one before."""
        x = avg_pool2d(image, 2)
        mean = x.mean(dim=(2, 3), keepdim=True)
        spread = (x - mean).square().mean(dim=(2, 3), keepdim=True).add(1e-6).sqrt()
        x = self.stem((x - mean) / spread)
        maps = []
        for down in self.down:
            x = down(x)
            maps.append(x)
        return tuple(maps)

    def logits(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Return what `forward` does, from the maps of an image."""
        *finer, x = maps
        for narrow, up, beside in zip(self.narrow, self.up, reversed(finer), strict=True):
            x = up(interpolate(narrow(x), scale_factor=2.0, mode="nearest") + beside)
        return interpolate(self.last(x), scale_factor=2.0, mode="bilinear", align_corners=False)[:, 0]


def _step(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )
