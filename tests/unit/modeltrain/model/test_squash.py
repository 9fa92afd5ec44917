"""The reduction to the network's square is Pillow's bicubic one, of any size and at its edges."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from modeltrain.model.squash import squash


@pytest.mark.parametrize("size", [224, 112, 7])
@pytest.mark.parametrize("shape", [(500, 409), (1024, 860), (300, 224), (223, 225), (100, 50), (1, 7), (9, 1), (1, 1)])
def test_it_is_pillow_s(shape: tuple[int, int], size: int) -> None:
    values = np.random.default_rng(sum(shape)).random(shape, np.float32)
    expected = np.asarray(Image.fromarray(values).resize((size, size), Image.Resampling.BICUBIC))
    made = squash(values, size)
    assert (made.shape, made.dtype, made.flags.c_contiguous) == ((size, size), np.dtype(np.float32), True)
    assert np.abs(made - expected).max() < 2e-6


def test_a_view_is_read_as_it_is_and_not_changed() -> None:
    values = np.random.default_rng(0).random((300, 400), np.float32)
    turned = values[::-1].T
    before = values.copy()
    assert np.abs(squash(turned, 64) - squash(np.ascontiguousarray(turned), 64)).max() < 2e-6
    assert np.array_equal(values, before)
