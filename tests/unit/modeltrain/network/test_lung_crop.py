"""What the classifier sees: the same crop of a chest, however it is framed, exposed and marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch

from modeltrain.network import lung_crop
from tests.unit.modeltrain.toys import draw, draw_mask, network_of_lungs

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

pytestmark = pytest.mark.usefixtures("one_thread")

MASK = draw_mask(224)


def chest() -> NDArray[np.float32]:
    """A drawn chest without noise, float32 [224, 224]."""
    smooth = cv2.GaussianBlur(draw(3, opacity=True, side=224), (0, 0), 3)
    return np.asarray(smooth, np.float32) / np.float32(255) * np.float32(0.8)


def view(image: NDArray[np.float32], mask: NDArray[np.uint8]) -> lung_crop.View:
    """What is seen of one image with the lungs of a mask."""
    lungs = cv2.resize((mask > 0).astype(np.float32), (112, 112), interpolation=cv2.INTER_AREA)
    return lung_crop.view(torch.from_numpy(image)[None, None], torch.from_numpy(lungs)[None])


@pytest.mark.parametrize(
    ("across", "down", "right", "below"), [(1, 1, 12, -9), (0.8, 0.8, 20, 25), (1.1, 0.9, -12, 11), (0.7, 0.9, 30, 6)]
)
def test_a_chest_elsewhere_and_of_another_size_gives_the_same_crop(
    across: float, down: float, right: float, below: float
) -> None:
    matrix = np.array([[across, 0, right], [0, down, below]], np.float64)
    moved = cv2.warpAffine(chest(), matrix, (224, 224), borderMode=cv2.BORDER_REPLICATE)
    moved_mask = cv2.warpAffine(MASK, matrix, (224, 224), flags=cv2.INTER_NEAREST)
    one, other = view(chest(), MASK), view(np.asarray(moved, np.float32), np.asarray(moved_mask, np.uint8))
    assert float((one.crop - other.crop).abs().mean()) < 0.03
    left, top, end, bottom = (float(value) for value in one.box[0])
    expected = [left * across + right / 224, top * down + below / 224, end * across + right / 224]
    np.testing.assert_allclose(other.box[0, :3].numpy(), expected, atol=0.02)
    assert float(other.box[0, 3]) == pytest.approx(bottom * down + below / 224, abs=0.02)


def framed(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Black on each side, up to the lungs' box."""
    black = np.zeros_like(image)
    black[29:195, 27:197] = image[29:195, 27:197]
    return black


def marked(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Words in the corners, white."""
    marks = np.zeros(image.shape, np.uint8)
    for at in ((3, 20), (170, 24), (60, 220)):
        cv2.putText(marks, "L 12:40", at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 2)
    return np.asarray(np.maximum(image, marks.astype(np.float32) / np.float32(255)), np.float32)


@pytest.mark.parametrize(
    "change",
    [framed, marked, lambda image: image * 0.5 + 0.2, lambda image: image * 1.2, lambda image: image * 0.4],
    ids=["frame", "markers", "flat", "contrast", "dark"],
)
def test_the_answer_does_not_hear_of_frames_markers_and_exposure(
    change: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> None:
    network = network_of_lungs(MASK)
    plain, other = (torch.from_numpy(each)[None, None] for each in (chest(), change(chest())))
    assert float((plain - other).abs().max()) > 0.05
    with torch.inference_mode():
        one, two = network(plain), network(other)
    torch.testing.assert_close(two.evidence, one.evidence, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(two.logits, one.logits, atol=2e-3, rtol=2e-3)


def test_an_opacity_in_a_lung_is_seen() -> None:
    network = network_of_lungs(MASK)
    clouded = chest()
    cv2.circle(clouded, (157, 100), 14, 0.6, -1)
    with torch.inference_mode():
        one, two = (network(torch.from_numpy(each)[None, None]) for each in (chest(), clouded))
    assert float((one.evidence - two.evidence).abs().max()) > 0.05


def test_what_is_no_lung_is_even_grey() -> None:
    sight = view(chest(), MASK)
    lungs = sight.inside[0].numpy() >= 0.5
    far = cv2.dilate(lungs.astype(np.uint8), np.ones((17, 17))) == 0
    assert far.mean() > 0.1
    np.testing.assert_array_equal(sight.crop[0, 0].numpy()[far], 0.5)
    assert float(sight.crop[0, 0].numpy()[lungs].std()) > 0.05


def test_without_lungs_the_whole_image_is_seen_and_nothing_is_not_a_number() -> None:
    for grey in (chest(), np.zeros((224, 224), np.float32), np.ones((224, 224), np.float32)):
        nothing = view(grey, np.zeros((224, 224), np.uint8))
        assert nothing.box.tolist() == [[0, 0, 1, 1]]
        assert (nothing.inside == 1).all()
        assert torch.isfinite(nothing.crop).all()
        assert (lung_crop.cells(nothing.inside) == 1).all()


def test_specks_far_from_the_lungs_do_not_move_the_box() -> None:
    specks = MASK.copy()
    specks[2:6, 2:6] = specks[220:223, 5:9] = 255
    np.testing.assert_allclose(view(chest(), specks).box.numpy(), view(chest(), MASK).box.numpy(), atol=0.02)


def test_a_sample_lies_where_the_box_says() -> None:
    ramp = np.tile(np.linspace(0, 1, 224, dtype=np.float32), (224, 1))
    ends = torch.tensor([[0.25, 0.75]])
    part = lung_crop._sampled(torch.from_numpy(ramp)[None], ends, torch.tensor([[0.0, 1.0]]))[0]
    middles = 0.25 + (np.arange(lung_crop.SIDE) + 0.5) / lung_crop.SIDE * 0.5
    np.testing.assert_allclose(part[80].numpy(), (middles * 224 - 0.5) / 223, atol=1e-5)
    beyond = lung_crop._sampled(torch.from_numpy(ramp)[None], torch.tensor([[-0.5, 0.5]]), torch.tensor([[0.0, 1.0]]))
    assert float(beyond[0, 0, 0]) == 0, "the edge goes on outside"


def test_each_cell_knows_its_share_of_lung() -> None:
    inside = torch.zeros(1, lung_crop.SIDE, lung_crop.SIDE)
    inside[0, :16, :8] = 1
    share = lung_crop.cells(inside)
    assert share.shape == (1, 10, 10)
    assert (float(share[0, 0, 0]), float(share.sum())) == (0.5, 0.5)
