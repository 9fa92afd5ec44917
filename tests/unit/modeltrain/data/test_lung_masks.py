"""Radiographs and their masks: read in pairs, and varied together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from dicom_io.errors import InvalidData
from modeltrain.data.lung_masks import masks_digest, read_pairs, reframed, varied
from modeltrain.data.samples import training_samples
from tests.unit.modeltrain.toys import draw, draw_mask, kaggle_folder, write_masks

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A Kaggle folder with masks beside it, in `masks`."""
    root = kaggle_folder(tmp_path / "data", patients=2)
    write_masks(tmp_path / "masks", root)
    return root


def test_pairs_are_read_and_images_without_a_mask_counted(data: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    whole = read_pairs(training_samples(data), data, masks)
    before = masks_digest([whole], masks)
    (masks / "train" / "NORMAL" / "IM-0000-0001.png").unlink()
    pairs = read_pairs(training_samples(data), data, masks)
    assert (len(whole), whole.without_mask, len(pairs), pairs.without_mask) == (10, 0, 9, 1)
    assert pairs.images.shape == pairs.masks.shape == (9, 224, 224)
    assert pairs.images.dtype == pairs.masks.dtype == np.uint8
    assert set(np.unique(pairs.masks)) == {0, 1}
    assert masks_digest([pairs], masks) != before
    normal = pairs.images[0]
    assert normal[pairs.masks[0] == 1].mean() < normal[pairs.masks[0] == 0].mean() - 50, "each mask lies on its lungs"


def test_what_is_wrong_with_masks_is_said_in_one_line(data: Path, tmp_path: Path) -> None:
    samples, masks = training_samples(data), tmp_path / "masks"
    with pytest.raises(InvalidData, match="none: holds no masks for"):
        read_pairs(samples, data, tmp_path / "none")
    path = masks / "train" / "NORMAL" / "IM-0000-0001.png"
    assert cv2.imwrite(str(path), draw_mask(32))
    with pytest.raises(InvalidData, match=r"IM-0000-0001\.png: has 32×32 pixels, its image 64×64"):
        read_pairs(samples, data, masks)
    path.write_bytes(b"nonsense")
    with pytest.raises(InvalidData, match=r"IM-0000-0001\.png: not a JPEG or PNG picture"):
        read_pairs(samples, data, masks)


def test_image_and_mask_are_varied_together() -> None:
    """Lungs stay darker than what is beside them, unless an opacity was drawn into them."""
    image, mask = draw(1, opacity=False, side=224), np.minimum(draw_mask(224), 1)
    darker = []
    for seed in range(40):
        grey, lungs = varied(image, mask, np.random.default_rng([3, seed]))
        assert grey.shape == lungs.shape == (224, 224)
        assert grey.dtype == lungs.dtype == np.float32
        assert 0 <= grey.min() <= grey.max() <= 1
        if lungs.any():
            core = cv2.erode(lungs, np.ones((9, 9))) > 0.99
            around = (cv2.dilate(lungs, np.ones((31, 31))) > 0) & (cv2.dilate(lungs, np.ones((9, 9))) <= 0)
            darker.append(np.median(grey[core]) < np.median(grey[around]))
    assert np.mean(darker) > 0.8
    one, other = (varied(image, mask, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_some_variations_show_no_chest_and_no_lung() -> None:
    image, mask = draw(1, opacity=False, side=224), np.minimum(draw_mask(224), 1)
    empty = sum(not varied(image, mask, np.random.default_rng(seed))[1].any() for seed in range(300))
    assert 5 <= empty <= 35


def test_a_reframed_pair_still_fits() -> None:
    image, mask = draw(1, opacity=False, side=224), np.minimum(draw_mask(224), 1)
    grey, lungs = reframed(image, mask, np.random.default_rng(0))
    assert grey.dtype == np.float32
    assert lungs.dtype == np.uint8
    assert set(np.unique(lungs)) == {0, 1}
    assert not np.array_equal(lungs, mask)
    assert grey[lungs == 1].mean() < grey[(lungs == 0) & (grey > 0)].mean()
