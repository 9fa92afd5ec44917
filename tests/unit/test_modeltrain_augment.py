"""Variations of training images: same chance, same image; nothing switched on, nothing changed; always in range."""

from __future__ import annotations

import numpy as np
import pytest

from modeltrain.augment import augment
from modeltrain.recipe import RECIPES, Augmentation
from tests.unit.modeltrain_toys import draw

NOTHING = Augmentation(flip=0, rotation=0, brightness=0, contrast=0)


def test_nothing_switched_on_changes_nothing() -> None:
    image = draw(0, opacity=True)
    result = augment(image, 64, NOTHING, np.random.default_rng(0))
    assert result.shape == (1, 64, 64)
    np.testing.assert_allclose(result[0], image / 255, atol=1e-6)


def test_a_flip_is_a_mirror_image() -> None:
    image = draw(0, opacity=True)
    flipped = augment(image, 64, Augmentation(flip=1, rotation=0, brightness=0, contrast=0), np.random.default_rng(0))
    np.testing.assert_allclose(flipped[0], image[:, ::-1] / 255, atol=1e-6)


@pytest.mark.parametrize("name", list(RECIPES))
def test_presets_give_images_in_range_that_follow_from_the_generator(name: str) -> None:
    how = RECIPES[name].augmentation
    image = draw(1, opacity=False, side=96)
    for seed in range(20):
        one, again = (augment(image, 64, how, np.random.default_rng(seed)) for _ in range(2))
        assert one.dtype == np.float32
        assert one.shape == (1, 64, 64)
        assert one.min() >= 0
        assert one.max() <= 1
        np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, augment(image, 64, how, np.random.default_rng(99)))
