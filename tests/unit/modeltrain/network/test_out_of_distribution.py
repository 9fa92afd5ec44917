"""The out-of-distribution score: what it learns to tell apart, and that it says nothing where it was not fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch

from dicom_io.errors import InvalidData
from modeltrain.data.samples import training_samples
from modeltrain.export.gate_limits import _fit, _halfway, fit_out_of_distribution
from modeltrain.network.out_of_distribution import OutOfDistribution, statistics
from tests.unit.modeltrain.toys import batch, draw, kaggle_folder, lively_network

if TYPE_CHECKING:
    from pathlib import Path


def test_an_empty_score_says_nothing() -> None:
    assert torch.isnan(OutOfDistribution()([torch.ones(3, 4, 2, 2)])).all()


def test_statistics_are_mean_and_standard_deviation_of_each_channel() -> None:
    maps = torch.arange(24, dtype=torch.float32).reshape(2, 3, 2, 2), torch.zeros(2, 1, 4, 4)
    values = statistics(maps)
    assert values.shape == (2, 8)
    assert values[0, :3].tolist() == [1.5, 5.5, 9.5]
    assert values[0, 3:6].tolist() == pytest.approx([np.std([0, 1, 2, 3])] * 3, abs=1e-4)


def test_both_looks_are_one_at_their_limit_and_flag_what_they_should() -> None:
    rng = np.random.default_rng(0)
    own = rng.normal(0, [1, 2, 0.1, 1, 1], (600, 5))
    others = rng.normal(0, [1, 2, 0.1, 1, 1], (600, 5)) + np.array([6, 0, 0, 0, 0])
    held = rng.normal(0, [1, 2, 0.1, 1, 1], (400, 5))
    gate = OutOfDistribution()
    gate.fill(_fit(own, others[:500], held, others[500:]))

    def flagged(values: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> float:
        maps = torch.from_numpy(values.astype(np.float32))
        score = _score(gate, maps)
        return float((score >= 1).float().mean())

    assert flagged(held) <= 0.0125, "four in a thousand by each look, rounded up in so few"
    assert flagged(others) > 0.9, "what it was shown"
    assert flagged(held + np.array([0, 0, 3, 0, 0])) > 0.9, "what it was not shown, thirty deviations away"


def test_the_limit_lies_halfway_to_the_images_that_were_kept_back() -> None:
    held = np.linspace(0, 1, 1001)
    assert _halfway(held, np.full(50, 3.0)) == pytest.approx((0.996 + 3) / 2)
    assert _halfway(held, np.full(50, 0.5)) == pytest.approx(0.996), "never below what the population allows"
    assert _halfway(held, np.empty(0)) == pytest.approx(0.996), "no image was kept back"


def _score(gate: OutOfDistribution, x: torch.Tensor) -> torch.Tensor:
    centred = x - gate.center
    linear = (centred @ gate.weight + gate.bias).clamp(max=5).exp()
    return torch.maximum(linear, (centred @ gate.project - gate.offset).square().mean(dim=1) / gate.scale)


def test_a_fitted_score_answers_in_the_forward_pass(tmp_path: Path) -> None:
    network = lively_network()
    samples = training_samples(kaggle_folder(tmp_path / "data", patients=12))
    populations = tmp_path / "populations" / "deeper"
    populations.mkdir(parents=True)
    for seed in range(8):
        assert cv2.imwrite(str(populations / f"{seed}.png"), 255 - draw(seed, opacity=False))
    tensors = fit_out_of_distribution(network, samples[4:], samples[:4], tmp_path / "populations", size=96)
    assert {name: value.ndim for name, value in tensors.items()} == {
        "center": 1,
        "weight": 1,
        "bias": 1,
        "project": 2,
        "offset": 1,
        "scale": 1,
    }
    network.gate.fill(tensors)
    images = torch.rand(2, 1, 96, 96)
    with torch.inference_mode():
        outlier = network(images).outlier
    assert outlier.shape == (2,)
    assert (outlier >= 1).all(), "noise is no chest"
    assert torch.isfinite(outlier).all()


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    samples = training_samples(kaggle_folder(tmp_path / "data", patients=2))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidData, match="empty: holds no JPEG or PNG"):
        fit_out_of_distribution(lively_network(), samples, samples, tmp_path / "empty", size=64)


def test_with_lungs_the_score_sees_the_whole_image_too() -> None:
    """The classifier's maps are of the lungs alone: what surrounds them is in the maps of the search for them."""
    network = lively_network(lungs=True)
    images = torch.from_numpy(batch(2))
    with torch.inference_mode():
        taps = network.taps(images)
        assert [tuple(tap.shape[1:]) for tap in taps] == [
            (96, 14, 14),
            (128, 7, 7),
            (128, 20, 20),
            (256, 10, 10),
            (512, 10, 10),
        ]
        values = statistics(taps)
        size = values.shape[1]
        network.gate.fill(
            {
                "center": values[0],
                "weight": torch.zeros(size),
                "bias": torch.zeros(1),
                "project": torch.eye(size),
                "offset": torch.zeros(size),
                "scale": torch.full((1,), 1e-6),
            }
        )
        outlier = network(images).outlier
    assert float(outlier[0]) == pytest.approx(1, abs=0.05), "the forward pass looks at the same maps"
    assert float(outlier[1]) > 2
