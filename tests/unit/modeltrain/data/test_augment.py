"""Variations of training images: same chance, same image; nothing switched on, nothing changed; always in range."""

from __future__ import annotations

import numpy as np
import pytest

from modeltrain.data.augment import Augmentation, augment, dressed, toned
from modeltrain.training.recipe import RECIPES
from tests.unit.modeltrain.toys import draw

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
    image, other = draw(1, opacity=False, side=96), draw(2, opacity=True, side=96)
    for seed in range(20):
        one, again = (augment(image, 64, how, np.random.default_rng(seed), other) for _ in range(2))
        assert one.dtype == np.float32
        assert one.shape == (1, 64, 64)
        assert one.min() >= 0
        assert one.max() <= 1
        np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, augment(image, 64, how, np.random.default_rng(99), other))


def test_another_image_is_only_looked_at_where_a_step_needs_it() -> None:
    """Earlier recipes draw the same chances as before."""
    image, other = draw(1, opacity=False), draw(2, opacity=True)
    how = RECIPES["robust"].augmentation
    one, two = (augment(image, 64, how, np.random.default_rng(5), lent) for lent in (None, other))
    np.testing.assert_array_equal(one, two)


def test_a_whole_step_of_tone_gives_the_other_ones_grey_values() -> None:
    image, other = draw(1, opacity=False, side=96), draw(2, opacity=True, side=96) // 2
    own = np.quantile(toned(image, other, 1.0), (0.25, 0.5, 0.75, 0.95))
    np.testing.assert_allclose(own, np.quantile(other, (0.25, 0.5, 0.75, 0.95)), atol=6)
    np.testing.assert_array_equal(toned(image, other, 0.0), image)
    # What was brighter stays so: a tone is a monotone curve.
    flat = toned(np.arange(256, dtype=np.uint8).reshape(16, 16), other, 0.7).ravel()
    assert (np.diff(flat.astype(int)) >= 0).all()


def test_margins_come_from_the_other_image_and_the_middle_stays() -> None:
    image, other = np.full((224, 224), 50, np.uint8), np.full((224, 224), 200, np.uint8)
    how = Augmentation(margins=1)
    views = np.stack([dressed(image, other, how, np.random.default_rng(seed)) for seed in range(200)])
    middle = views[:, 80:150, 50:174]  # beyond the widest side (an eighth) and its softest seam
    assert (middle == 50).all()
    for corner in (
        views[:, 0, 0],
        views[:, 0, -1],
        views[:, -1, 0],
        views[:, -1, -1],
    ):
        assert 0.5 < (corner > 150).mean() < 1
    assert views.min() >= 50
    assert views.max() <= 200
