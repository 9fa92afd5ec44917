"""What teaches a network that looks at lungs where its evidence is: drawn opacities, and pictures blended from two.

All of it happens in the classifier's crop (`network.lung_crop`), where the lungs of every child lie in the same box: a
place of one chest is put into the same place of another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import avg_pool2d, interpolate, log_softmax, max_pool2d, relu, smooth_l1_loss, softplus

from modeltrain.network import lung_crop

if TYPE_CHECKING:
    from torch import Tensor

JITTER = 0.05  # of each side of the box of the lungs, of its width or height: no segmentation finds it to the pixel
_LEAST, _MOST = 0.07, 0.26  # half width of an opacity, as a part of the crop's side
_FAINT, _DENSE = 0.25, 0.75  # how far an opacity brings a place towards white
_FLOOR = 8.0  # evidence of minus this, in log-odds, is as good as none
_STEEP = 1.5  # how sharply the change of the map is asked for its place


class Drawn(NamedTuple):
    """Crops with opacities [M, 1, S, S], and where these were drawn, [M, S, S] in [0, 1]."""

    crop: Tensor
    place: Tensor


def draw_opacities(crop: Tensor, inside: Tensor, generator: torch.Generator) -> Drawn:
    """Draw an opacity into a lung of each crop [M, 1, S, S] with lungs [M, S, S].

    Each is an ellipse with a rough, soft edge, somewhere in the lungs but not at their rim.
    """
    count, side = len(crop), crop.shape[-1]
    if not count:
        return Drawn(crop, crop[:, 0])
    lung = (inside >= 0.5).float()
    core = -max_pool2d(-lung[:, None], 13, stride=1, padding=6)[:, 0]
    chance = torch.where(core.sum((1, 2), keepdim=True) > 0, core, lung).flatten(1) + 1e-9
    centre = torch.multinomial(chance, 1, generator=generator)[:, 0]
    y, x = (each.float()[:, None, None] for each in (centre // side, centre % side))
    grid = torch.arange(side, dtype=torch.float32)

    def drawn(low: float, high: float) -> Tensor:
        return torch.empty(count, 1, 1).uniform_(low, high, generator=generator)

    across, down = drawn(_LEAST, _MOST) * side, drawn(_LEAST, _MOST) * side
    rough = _smooth_noise(count, side, generator) * drawn(0.1, 0.35)
    far = (((grid - x) / across) ** 2 + ((grid[:, None] - y) / down) ** 2 + rough).clamp(min=0)
    place = torch.exp(-(far ** drawn(0.8, 2.0))) * lung
    white = drawn(0.75, 1.0)
    dense = drawn(_FAINT, _DENSE) * place
    return Drawn(crop + (dense * (white - crop[:, 0]).clamp(min=0))[:, None], place)


def _smooth_noise(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Return smooth noise [count, side, side] of about unit deviation, coarser in some images than in others."""
    noise = torch.zeros(count, side, side)
    for cells in (side // 16, side // 8):
        small = torch.randn(count, 1, cells, cells, generator=generator)
        noise += interpolate(small, size=(side, side), mode="bicubic")[:, 0]
    return noise / noise.flatten(1).std(dim=1)[:, None, None]


def place_loss(after: Tensor, before: Tensor, place: Tensor, share: Tensor) -> Tensor:
    """Return how badly the change of evidence, [M, h, w] after and before, tells where opacities [M, S, S] were drawn.

    It is the cross-entropy between where they lie and a softmax of the change; 0 without opacities. `share` says which
    part of each cell is lung, [M, h, w]: only these cells count, since nothing holds the evidence of others.
    """
    target = avg_pool2d(place[:, None], lung_crop.CELL)[:, 0].flatten(1)
    target = target / (target.sum(dim=1, keepdim=True) + 1e-6)
    change = (_floored(after) - _floored(before.detach())).flatten(1) * _STEEP
    counts = (share.flatten(1) > 0) | (target > 0)
    change = log_softmax(change.masked_fill(~counts, -1e4), dim=1)
    entropy = -(target * (target + 1e-9).log()).sum(dim=1)
    return (-(target * change).sum(dim=1) - entropy).sum() / max(1, len(place))


def floor_loss(evidence: Tensor) -> Tensor:
    """Return how far evidence [N, h, w] lies below what can still make a difference.

    The pooling hardly sees low cells, so that nothing else would hold them: they went down to -300, and the losses of
    place, which compare cells, grew beyond that of the classes.
    """
    return relu(-_FLOOR - evidence).mean()


def _floored(evidence: Tensor) -> Tensor:
    """Return evidence with all that is so low that it makes no difference brought close to one value."""
    return softplus(evidence + _FLOOR) - _FLOOR


class Blend(NamedTuple):
    """Crops blended from two [M, 1, S, S], how probably each place is lung, and the part of the second in each cell."""

    crop: Tensor
    inside: Tensor
    part: Tensor


def blend(one: lung_crop.View, other: lung_crop.View, generator: torch.Generator) -> Blend:
    """Put a random part of the `other` crops into the same places of `one`: half a plane, an ellipse or its outside."""
    count, side = len(one.crop), one.crop.shape[-1]
    grid = torch.linspace(-1, 1, side)

    def drawn(low: float, high: float) -> Tensor:
        return torch.empty(count, 1, 1).uniform_(low, high, generator=generator)

    x, y = grid - drawn(-0.7, 0.7), grid[:, None] - drawn(-0.7, 0.7)
    angle = drawn(0, 6.2832)
    plane = torch.cos(angle) * x + torch.sin(angle) * y
    ellipse = 1 - (x / drawn(0.25, 0.7)) ** 2 - (y / drawn(0.25, 0.8)) ** 2
    signed = torch.where(drawn(0, 1) < 0.4, plane, ellipse * torch.sign(drawn(-1, 1.5)))
    soft = torch.sigmoid(signed * 12)
    crop = one.crop + soft[:, None] * (other.crop - one.crop)
    inside = one.inside + soft * (other.inside - one.inside)
    return Blend(crop, inside, avg_pool2d(soft[:, None], lung_crop.CELL)[:, 0])


def blend_loss(evidence: Tensor, one: Tensor, other: Tensor, blended: Blend) -> Tensor:
    """Return how far the evidence of blended crops [M, h, w] is from that of the two they come from.

    Cells that hold both, and those without lung, do not count.
    """
    target = torch.where(blended.part > 0.5, other, one).detach()
    counts = ((blended.part - 0.5).abs() > 0.4).float() * lung_crop.cells(blended.inside)
    apart = smooth_l1_loss(_floored(evidence), _floored(target), reduction="none")
    return (apart * counts).sum() / (counts.sum() + 1e-6)
