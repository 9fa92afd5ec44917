"""Framing: it is seen, it is asked of other patients, and the weights make both classes look framed alike."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from modeltrain.data.framing import framing, overlap_weights, propensities
from modeltrain.data.samples import Sample
from modeltrain.training.batches import order_of
from modeltrain.training.recipe import RECIPES
from tests.unit.modeltrain.toys import draw


def framed(seed: int, margin: int) -> NDArray[np.uint8]:
    """Return a drawn chest, 96 pixels wide, between two black margins."""
    image = np.zeros((96, 96), np.uint8)
    image[:, margin : 96 - margin] = cv2.resize(draw(seed, opacity=False, side=96), (96 - 2 * margin, 96))
    return image


def habit(count: int, kept_by: float, seed: int) -> tuple[list[NDArray[np.uint8]], list[Sample]]:
    """Return images of a site where PNEUMONIA is framed closely and NORMAL widely, in this part of the cases."""
    rng = np.random.default_rng(seed)
    images: list[NDArray[np.uint8]] = []
    samples: list[Sample] = []
    for number in range(count):
        label = number % 2
        close = bool(label) == (rng.random() < kept_by)
        images.append(framed(seed + number, int(rng.integers(0, 4) if close else rng.integers(12, 20))))
        samples.append(Sample(Path(f"{number}.png"), label, f"patient {number}"))
    return images, samples


def test_black_sides_and_squashing_are_seen() -> None:
    narrow, wide = framing(framed(1, 2)), framing(framed(1, 16))
    assert wide[4] == pytest.approx(16 / 96, abs=0.02)  # the dark left side's width
    assert wide[5] == pytest.approx(16 / 96, abs=0.02)
    assert narrow[4] < 0.05
    grain = np.random.default_rng(0).integers(0, 255, (96, 96)).astype(np.uint8)
    squashed = np.asarray(cv2.resize(grain, (96, 192), interpolation=cv2.INTER_CUBIC)[48:144], np.uint8)
    assert framing(squashed)[0] < framing(grain)[0] - 0.3


def test_weights_take_from_framing_what_it_says_about_the_class() -> None:
    images, samples = habit(400, kept_by=0.85, seed=3)
    labels = np.array([sample.label for sample in samples])
    own, others = propensities(images, samples, images[:10], seed=1)
    assert own.shape == (400,)
    assert others.shape == (10,)
    assert roc_auc_score(labels, own) > 0.75
    weights = overlap_weights(own, labels)
    assert roc_auc_score(labels, own, sample_weight=weights) < 0.6
    for label in (0, 1):
        assert weights[labels == label].mean() == pytest.approx(1)


def test_the_label_of_an_image_does_not_reach_its_own_propensity() -> None:
    images, samples = habit(400, kept_by=0.5, seed=5)  # framing says nothing here
    own, _ = propensities(images, samples, images[:1], seed=1)
    assert 0.35 < roc_auc_score([sample.label for sample in samples], own) < 0.65


def test_few_patients_say_nothing() -> None:
    images, samples = habit(12, kept_by=1.0, seed=1)
    own, others = propensities(images, samples, images[:3], seed=1)
    assert set(own) == set(others) == {0.5}


def test_images_are_drawn_by_weight_and_the_same_each_time() -> None:
    samples = [Sample(Path(f"{n}.png"), int(n >= 40), f"p{n}") for n in range(120)]
    weights = np.where(np.arange(120) % 20 == 0, 20.0, 0.0)
    recipe = dataclasses.replace(RECIPES["robust"], overlap=0.5)
    order = order_of(samples, recipe, 0, weights)
    assert len(order) == 80  # as many of each class as the smaller one has
    heavy = sum(weights[index] > 0 for index in order)
    assert heavy >= 40  # half of each class; the others come by chance
    assert order == order_of(samples, recipe, 0, weights) != order_of(samples, recipe, 1, weights)
