"""Images as another room might have made them: the same each time, of the same child, and otherwise dressed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modeltrain.data.samples import read_sample, training_samples
from modeltrain.data.shifted import shifted
from tests.unit.modeltrain.toys import kaggle_folder

if TYPE_CHECKING:
    from pathlib import Path


def test_each_second_image_may_stay_as_it_is_and_the_others_follow_from_the_generator(tmp_path: Path) -> None:
    samples = training_samples(kaggle_folder(tmp_path / "data", patients=4))
    one, again = (list(shifted(samples, 96, np.random.default_rng(3), every=2)) for _ in range(2))
    assert len(one) == len(samples)
    for number, (image, same, sample) in enumerate(zip(one, again, samples, strict=True)):
        np.testing.assert_array_equal(image, same)
        assert image.shape == (1, 96, 96)
        assert image.dtype == np.float32
        assert image.min() >= 0
        assert image.max() <= 1
        assert np.array_equal(image, read_sample(sample, 96)) == bool(number % 2)
