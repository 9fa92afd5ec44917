"""Drawn opacities and blended crops: where they lie, and what their losses ask of a map."""

from __future__ import annotations

import cv2
import pytest
import torch

from modeltrain.network import lung_crop
from modeltrain.training.lung_losses import Blend, blend, blend_loss, draw_opacities, floor_loss, place_loss
from tests.unit.modeltrain.toys import batch, draw_mask

pytestmark = pytest.mark.usefixtures("one_thread")


def view(count: int) -> lung_crop.View:
    """What is seen of drawn chests."""
    mask = cv2.resize(draw_mask(224), (112, 112), interpolation=cv2.INTER_AREA)
    lungs = torch.from_numpy(mask)[None].float().expand(count, -1, -1) / 255
    return lung_crop.view(torch.from_numpy(batch(count)), lungs)


def test_opacities_are_drawn_into_the_lungs_and_only_there() -> None:
    sight = view(6)
    drawn = draw_opacities(sight.crop, sight.inside, torch.Generator().manual_seed(1))
    assert drawn.crop.shape == sight.crop.shape
    change = (drawn.crop - sight.crop)[:, 0]
    assert (change >= -1e-6).all(), "an opacity is white"
    assert (change.flatten(1).max(dim=1).values > 0.05).all()
    assert not change[sight.inside < 0.5].any()
    assert not drawn.place[sight.inside < 0.5].any()
    again = draw_opacities(sight.crop, sight.inside, torch.Generator().manual_seed(1))
    assert torch.equal(drawn.crop, again.crop)


def test_a_map_whose_change_lies_on_the_opacity_has_no_loss_of_place() -> None:
    place = torch.zeros(1, lung_crop.SIDE, lung_crop.SIDE)
    place[0, 32:48, 64:80] = 1
    before, after = torch.zeros(1, 10, 10), torch.zeros(1, 10, 10)
    after[0, 2, 4] = 9
    elsewhere = torch.zeros(1, 10, 10)
    elsewhere[0, 7, 1] = 9
    share = torch.ones(1, 10, 10)
    losses = [float(place_loss(each, before, place, share)) for each in (after, before, elsewhere)]
    assert losses[0] == pytest.approx(0, abs=0.01)
    assert losses[0] < losses[1] < losses[2]


def test_places_without_lung_do_not_count() -> None:
    place = torch.zeros(1, lung_crop.SIDE, lung_crop.SIDE)
    place[0, 32:48, 64:80] = 1
    share, before = torch.zeros(1, 10, 10), torch.zeros(1, 10, 10)
    share[0, :, :5] = 1
    after = before.clone()
    after[0, 2, 4] = 9
    outside = after.clone()
    outside[0, :, 6:] = 50
    assert float(place_loss(outside, before, place, share)) == float(place_loss(after, before, place, share))


def test_low_evidence_is_held_and_makes_no_other_difference() -> None:
    low, lower = torch.full((1, 10, 10), -30.0), torch.full((1, 10, 10), -300.0)
    assert float(floor_loss(low)) < float(floor_loss(lower))
    assert float(floor_loss(torch.full((1, 10, 10), -7.0))) == 0
    part = torch.zeros(1, 10, 10)
    blended = Blend(torch.zeros(1, 1, 160, 160), torch.ones(1, 160, 160), part)
    assert float(blend_loss(low, lower, lower, blended)) == pytest.approx(0, abs=1e-6)


def test_a_batch_without_a_normal_chest_has_no_opacity_and_no_loss() -> None:
    sight = view(1)
    empty = draw_opacities(sight.crop[:0], sight.inside[:0], torch.Generator())
    assert empty.crop.shape == (0, 1, lung_crop.SIDE, lung_crop.SIDE)
    none = torch.zeros(0, 10, 10)
    assert float(place_loss(none, none, empty.place, none)) == 0


def test_a_blend_is_the_one_here_and_the_other_there() -> None:
    sight = view(4)
    one = lung_crop.View(*(part[:2] for part in sight))
    other = lung_crop.View(*(part[2:] for part in sight))
    blended = blend(one, other, torch.Generator().manual_seed(2))
    assert blended.part.shape == (2, 10, 10)
    assert 0 <= float(blended.part.min()) <= float(blended.part.max()) <= 1
    low, high = torch.minimum(one.crop, other.crop), torch.maximum(one.crop, other.crop)
    assert ((blended.crop >= low - 1e-5) & (blended.crop <= high + 1e-5)).all()


def test_each_place_of_a_blend_must_say_what_it_said_before() -> None:
    part = torch.zeros(1, 10, 10)
    part[0, :, 5:] = 1
    blended = Blend(torch.zeros(1, 1, 160, 160), torch.ones(1, 160, 160), part)
    one, other = torch.full((1, 10, 10), -2.0), torch.full((1, 10, 10), 3.0)
    right = torch.where(part > 0.5, other, one)
    assert float(blend_loss(right, one, other, blended)) == 0
    assert float(blend_loss(one, one, other, blended)) > 1
