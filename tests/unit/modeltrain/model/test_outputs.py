"""Probabilities from the network's raw answers, by hand-computed values."""

from __future__ import annotations

import numpy as np

from modeltrain.model.outputs import probability


def test_probability_is_the_softmax_of_the_second_class() -> None:
    logits = np.array([[0, 0], [0, np.log(3)], [1000, 0], [0, 1000]], np.float32)
    result = probability(logits)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, [0.5, 0.75, 0, 1], atol=1e-7)
