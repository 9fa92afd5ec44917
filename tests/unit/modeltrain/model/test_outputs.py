"""Probabilities and heatmaps from the network's raw answers, by hand-computed values."""

from __future__ import annotations

import numpy as np

from modeltrain.model.outputs import attention, probability


def test_probability_is_the_softmax_of_the_second_class() -> None:
    logits = np.array([[0, 0], [0, np.log(3)], [1000, 0], [0, 1000]], np.float32)
    result = probability(logits)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, [0.5, 0.75, 0, 1], atol=1e-7)


def test_attention_keeps_what_speaks_for_pneumonia_and_scales_it() -> None:
    cam = np.zeros((2, 2, 1, 3), np.float32)
    cam[0, 1] = [[-4, 1, 2]]
    cam[0, 0] = [[9, 9, 9]]
    cam[1, 1] = [[-1, -2, 0]]
    result = attention(cam)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, [[[0, 0.5, 1]], [[0, 0, 0]]])


def test_an_empty_map_is_told_from_the_mean_of_normal_radiographs() -> None:
    cam = np.full((1, 2, 2, 2), -1.0, np.float32)
    cam[0, 1] = [[-1.0, -0.5], [-2.0, -1.0]]
    assert not attention(cam).any()
    assert attention(cam, np.full((2, 2), -1.0, np.float32)).tolist() == [[[0.0, 1.0], [0.0, 0.0]]]
