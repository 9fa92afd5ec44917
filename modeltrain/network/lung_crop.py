"""What the classifier sees: the lungs, cropped to their box, at their own exposure, and nothing around them.

Framing, margins, markers and exposure leave the classifier's sight by construction. All of it is arithmetic of the same
shape for each image, so that it is a part of the network on every engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import avg_pool2d, max_pool2d

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 160  # of a crop: the lungs of a 224-pixel image are some 160 pixels wide
CELL = 16  # pixels of a crop in one cell of the last feature map
_LUNG = 0.5  # probability from which a place is lung
_TRIMMED = 0.003  # part of the lungs that may lie beyond each side of the box: specks elsewhere do not move it
_LEAST = 0.01  # part of the image that is lung at least; with less the whole image is seen, lungs or not
_MARGIN = 0.06  # around the box, as a part of its side
_SHARES = (0.01, 0.98)  # of the grey values between the outer edges of the lungs: these become black and white
_BLOCK = 4  # pixels on each side, whose mean is one grey value for that
_NARROWEST = 0.02  # and are at least so far apart
_BEYOND = 0.2  # how far values may lie beyond black and white
_GREY = 0.5  # of what is not lung
_AROUND, _SOFT = 7, 5  # pixels by which the lungs are widened, and over which they fade into grey


class View(NamedTuple):
    """What is seen of images [N, 1, H, W].

    Attributes
    ----------
    crop
        float32 [N, 1, SIDE, SIDE], around 0 to 1.
    inside
        float32 [N, SIDE, SIDE] in [0, 1], how probably each place of the crop is lung; ones where there are no lungs.
    box
        float32 [N, 4], left, top, right, bottom as parts of the image's sides.
    """

    crop: Tensor
    inside: Tensor
    box: Tensor


def view(image: Tensor, lungs: Tensor, jitter: Tensor | None = None) -> View:
    """Return what the classifier sees of images [N, 1, H, W] in [0, 1] with lungs [N, h, w] in [0, 1].

    `jitter`, float32 [N, 4], moves each side of the box by a part of its width or height, in training.
    """
    box = box_of(lungs, jitter)
    enough = (lungs >= _LUNG).to(lungs.dtype).mean(dim=(1, 2)) >= _LEAST
    across, down = box[:, 0::2], box[:, 1::2]
    crop = _sampled(image[:, 0], across, down)
    inside = torch.where(enough[:, None, None], _sampled(lungs, across, down), torch.ones_like(crop))
    return View(masked(standard(crop, inside), inside)[:, None], inside, box)


def box_of(lungs: Tensor, jitter: Tensor | None = None) -> Tensor:
    """Return the box of the lungs, float32 [N, 4]; the whole image where none were found."""
    solid = (lungs >= _LUNG).to(lungs.dtype)
    left, right = _extent(solid.sum(dim=1))
    top, bottom = _extent(solid.sum(dim=2))
    box = torch.stack([left, top, right, bottom], dim=1)
    size = (box[:, 2:] - box[:, :2]).repeat(1, 2)
    margin = torch.tensor([-_MARGIN, -_MARGIN, _MARGIN, _MARGIN], device=box.device)
    box = box + size * (margin if jitter is None else margin + jitter)
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0], device=box.device).expand_as(box)
    enough = solid.mean(dim=(1, 2)) >= _LEAST
    return torch.where(enough[:, None], box, whole)


def _extent(mass: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the mass [N, L] begins and ends, each float32 [N] as a part of L."""
    before = mass.cumsum(dim=1)
    total = before[:, -1:]
    least = _TRIMMED * total
    first = (before <= least).to(mass.dtype).sum(dim=1)
    last = (total - before + mass > least).to(mass.dtype).sum(dim=1)
    return first / mass.shape[1], last / mass.shape[1]


def _sampled(image: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Return the part of images [N, H, W] between two columns and two rows, [N, SIDE, SIDE], linearly interpolated."""
    return _weights(down, image.shape[1]) @ image @ _weights(across, image.shape[2]).transpose(1, 2)


def _weights(ends: Tensor, length: int) -> Tensor:
    """Return how much of each of `length` pixels goes into each sample, [N, SIDE, length]; the edge goes on outside."""
    middles = (torch.arange(SIDE, device=ends.device, dtype=ends.dtype) + 0.5) / SIDE
    start, end = ends[:, :1], ends[:, 1:]
    places = ((start + middles * (end - start)) * length - 0.5).clamp(0, length - 1)
    pixels = torch.arange(length, device=ends.device, dtype=ends.dtype)
    return (1 - (places[:, :, None] - pixels).abs()).clamp(min=0)


def standard(crop: Tensor, inside: Tensor) -> Tensor:
    """Return crops [N, SIDE, SIDE] at the exposure of their chest: lungs, and what lies between them in the same row.

    Brightness and contrast are set; how much denser one place is than another in the same image stays as it is. The
    percentiles are those of means of 4×4 pixels: noise hardly moves them, and a sort of 1,600 values is quick.
    """
    lung = (avg_pool2d((inside >= _LUNG).to(crop.dtype)[:, None], _BLOCK)[:, 0] >= _LUNG).to(crop.dtype)
    before = lung.cumsum(dim=2)
    chest = (before > 0) & (before[:, :, -1:] - before + lung > 0)
    means = avg_pool2d(crop[:, None], _BLOCK)[:, 0]
    values = torch.where(chest, means, torch.full_like(lung, 2.0)).flatten(1).sort(dim=1).values
    last = (chest.flatten(1).sum(dim=1, keepdim=True) - 1).clamp(min=0).to(crop.dtype)
    shares = torch.tensor(_SHARES, device=crop.device, dtype=crop.dtype)
    limits = values.gather(1, (last * shares).round().long())
    black, white = limits[:, :1], limits[:, 1:]
    width = (white - black).clamp(min=_NARROWEST)
    return ((crop - black[:, :, None]) / width[:, :, None]).clamp(-_BEYOND, 1 + _BEYOND)


def masked(crop: Tensor, inside: Tensor) -> Tensor:
    """Return crops [N, SIDE, SIDE] with everything but the lungs, a little widened, in even grey."""
    lung = (inside >= _LUNG).to(crop.dtype)[:, None]
    wide = max_pool2d(lung, _AROUND, stride=1, padding=_AROUND // 2)
    soft = avg_pool2d(wide, _SOFT, stride=1, padding=_SOFT // 2, count_include_pad=False)[:, 0]
    return _GREY + soft * (crop - _GREY)


def cells(inside: Tensor) -> Tensor:
    """Return which part of each cell is lung, float32 [N, SIDE / CELL, SIDE / CELL]; ones where there is no lung."""
    share = avg_pool2d((inside >= _LUNG).to(inside.dtype)[:, None], CELL)[:, 0]
    none = share.sum(dim=(1, 2), keepdim=True) <= 0
    return torch.where(none, torch.ones_like(share), share)
