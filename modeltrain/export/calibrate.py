"""What a model's card says of its answers, fitted on the validation patients: calibration, thresholds, conformal sets.

Applied by modeltrain/model/decision.py, without these libraries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression

from modeltrain.data.samples import read_sample
from modeltrain.data.shifted import shifted
from modeltrain.model.decision import BALANCED, SCREENING, calibrated
from modeltrain.model.outputs import CLASSES
from modeltrain.model.preprocess import INPUT_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from modeltrain.data.samples import Sample
    from modeltrain.evaluation.evaluate import Predict

_PRIOR = 0.2  # of the slope of Platt's scaling: the inverse of its strength
CONFIDENCE = 0.95
# The least sensitivity that each operating point vouches for, at that confidence.
VOUCHED = {SCREENING: 0.98, BALANCED: 0.95}
COVERAGE = 0.98  # of the conformal sets, for each class by itself


@dataclass(frozen=True, slots=True)
class Raw:
    """A network's bare answers.

    Attributes
    ----------
    logits
        float32 [N, 2].
    labels
        int64 [N].
    inputs
        float32 [N, 2]: mean and standard deviation of each input.
    outlier
        float32 [N], the out-of-distribution score; NaN where it was not fitted.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    inputs: NDArray[np.float32]
    outlier: NDArray[np.float32]


def raw_answers(predict: Predict, samples: Sequence[Sample], size: int = INPUT_SIZE, *, shift: bool = False) -> Raw:
    """Show radiographs to a network, sixteen at a time, as they are or as another room might have imaged them."""
    plain = (read_sample(sample, size) for sample in samples)
    images = shifted(samples, size, np.random.default_rng(0)) if shift else plain
    outputs, inputs = [], []
    while batch := list(islice(images, 16)):
        stack = np.stack(batch)
        outputs.append(predict(stack))
        inputs.append(np.stack([stack.mean(axis=(1, 2, 3)), stack.std(axis=(1, 2, 3))], axis=1))
    return Raw(
        logits=np.concatenate([each.logits for each in outputs]),
        labels=np.array([sample.label for sample in samples], dtype=np.int64),
        inputs=np.concatenate(inputs),
        outlier=np.concatenate([each.outlier for each in outputs]),
    )


def fit_calibration(
    logits: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float64] | None = None
) -> dict[str, Any]:
    """Fit Platt's scaling: slope and intercept of a logistic function of the difference of the two logits.

    `weights`, float64 [N], say how much each answer counts; their sum is the number of images, against which the prior
    stands.
    """
    difference = logits[:, 1].astype(np.float64) - logits[:, 0]
    # The prior keeps separable classes finite, and the slope a little gentler than the best: two copies of a radiograph
    # then get answers that are closer together.
    fitted = LogisticRegression(C=_PRIOR).fit(difference[:, np.newaxis], labels, sample_weight=weights)
    return {
        "method": "Platt scaling (Platt 1999)",
        "fitted_on": "validation",
        "slope": round(max(float(fitted.coef_[0, 0]), 1e-3), 6),
        "intercept": round(float(fitted.intercept_[0]), 6),
    }


def least_sensitivity(true_positives: int, positives: int, confidence: float = CONFIDENCE) -> float:
    """Return the one-sided lower confidence bound of a sensitivity (Clopper and Pearson 1934)."""
    return float(beta.ppf(1 - confidence, true_positives, positives - true_positives + 1)) if true_positives else 0.0


def operating_points(
    labels: NDArray[np.int64], probability: NDArray[np.float32], *others: NDArray[np.float32]
) -> dict[str, dict[str, Any]]:
    """Choose each operating point: the highest threshold whose sensitivity is vouched for, in each of a model's files.

    Of the thresholds that decide all images alike it is the one halfway down to the next lower score, so that an engine
    that rounds otherwise decides as this one. Where there are too few pneumonias to vouch for that much, none of them
    may be missed.

    Parameters
    ----------
    labels
        int64 [N].
    probability
        Calibrated, float32 [N].
    others
        The same images' by the model's other files. The figures are those of the file that is worse by each.
    """
    files = (probability, *others)
    pooled = np.concatenate(files)
    positives = int((labels == 1).sum())
    points = {}
    for name, sensitivity in VOUCHED.items():
        highest = min(_highest(each, labels, sensitivity) for each in files)
        below = float(np.max(pooled, initial=0.0, where=pooled < highest))
        halfway = math.floor((highest + below) / 2 * 1e4) / 1e4
        threshold = max(halfway if halfway > below else math.floor(highest * 1e4) / 1e4, 1e-4)
        true_positives = min(int((each[labels == 1] >= threshold).sum()) for each in files)
        points[name] = {
            "threshold": threshold,
            "rule": "halfway from the highest threshold to the next lower score, rounded down to four digits; with it "
            f"the sensitivity is at least {sensitivity} at {CONFIDENCE:.0%} confidence (one-sided, Clopper–Pearson, "
            "on the validation images), in each of the files that may serve",
            "sensitivity": round(true_positives / positives, 4),
            "sensitivity_at_least": round(least_sensitivity(true_positives, positives), 4),
            "specificity": round(min(float((each[labels == 0] < threshold).mean()) for each in files), 4),
        }
    return points


def _highest(probability: NDArray[np.float32], labels: NDArray[np.int64], sensitivity: float) -> np.float32:
    """Return the lowest score of a pneumonia that must be found for a sensitivity to be vouched for."""
    positives = np.sort(probability[labels == 1])
    missed = 0
    while missed + 1 < len(positives) and least_sensitivity(len(positives) - missed - 1, len(positives)) >= sensitivity:
        missed += 1
    return np.float32(positives[missed])


def decided_by(points: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the parts of a card that state its operating points, and the one that decides by default."""
    default = points[SCREENING]
    return {
        "threshold": {"value": default["threshold"], "chosen_on": "validation", "rule": default["rule"]},
        "operating_points": points,
    }


def fit_conformal(
    probability: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float64] | None = None
) -> dict[str, Any]:
    """Fit class-conditional split-conformal sets: how probable each class must be to be held possible.

    With `weights`, float64 [N] whose sum in each class is its number of images, the promise is for images that are
    distributed as the weighted ones are (Tibshirani et al. 2019, conformal prediction under covariate shift).
    """
    counts = np.ones(len(labels)) if weights is None else weights
    least = {}
    for label, name in enumerate(CLASSES):
        own = probability[labels == label] if label else 1 - probability[labels == label]
        order = np.argsort(own, kind="stable")
        # The finite-sample correction, where the image that will be asked about counts once: of n values that count
        # alike, the floor((n + 1) · alpha)-th smallest; with too few, all are kept.
        below = np.cumsum(counts[labels == label][order])
        rank = int((below <= (below[-1] + 1) * (1 - COVERAGE) + 1e-9).sum())
        least[name] = round(float(own[order[rank - 1]]), 6) if rank else 0.0
    return {
        "method": "class-conditional (Mondrian) split conformal (Vovk 2012), score: probability of the class",
        "fitted_on": "validation",
        "coverage": COVERAGE,
        "least_probability": least,
    }


def reference(probability: NDArray[np.float32], raw: Raw) -> dict[str, Any]:
    """Describe what the model saw and said on the validation images, for `cxrd drift`."""

    def quantiles(values: NDArray[np.float32]) -> list[float]:
        return [float(f"{value:.5g}") for value in np.quantile(values.astype(np.float64), np.linspace(0, 1, 101))]

    return {
        "of": "validation",
        "n": len(probability),
        "probability": quantiles(probability),
        "input_mean": quantiles(raw.inputs[:, 0]),
        "input_std": quantiles(raw.inputs[:, 1]),
        "ood_rate": None if np.isnan(raw.outlier).any() else round(float((raw.outlier >= 1).mean()), 4),
    }


def fit_all(raw: Raw, overlap: NDArray[np.float64] | None = None, shifted_raw: Raw | None = None) -> dict[str, Any]:
    """Return the parts of a card that are fitted on validation answers.

    How another site frames, exposes and marks is not known, so calibration and conformal sets are fitted between what
    is known and what might be. With `overlap`, the images' overlap weights (modeltrain/data/framing.py), half to the
    validation images as they come and half to them under these weights. With `shifted_raw`, the answers to the same
    images as another room might make them (`data.shifted`), half to these. Operating points vouch for a sensitivity by
    counting pneumonias, each of them once, as it is.
    """
    weights = np.ones(len(raw.labels)) if overlap is None else (1 + overlap) / 2
    logits, labels = raw.logits, raw.labels
    if shifted_raw is not None:
        logits, labels = np.concatenate([logits, shifted_raw.logits]), np.concatenate([labels, shifted_raw.labels])
        # Two answers of one image count as one: the prior, and the image that will be asked about, weigh as before.
        weights = np.concatenate([weights, weights]) / 2
    calibration = fit_calibration(logits, labels, weights)
    slope, intercept = calibration["slope"], calibration["intercept"]
    probability = calibrated(raw.logits, slope, intercept)
    points = operating_points(raw.labels, probability)
    conformal = fit_conformal(calibrated(logits, slope, intercept), labels, weights)
    for part in (calibration, conformal):
        if overlap is not None:
            part["weights"] = "half as they are, half overlap weights by framing (Li, Morgan and Zaslavsky 2018)"
        if shifted_raw is not None:
            part["images"] = "each half as it is, half as a copy framed and exposed anew (modeltrain/data/shifted.py)"
    return {
        "calibration": calibration,
        **decided_by(points),
        "conformal": conformal,
        "reference": reference(probability, raw),
    }
