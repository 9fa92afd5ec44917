"""Statistics of a classifier's answers: calibration error, intervals by patient, tables of thresholds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from scipy.stats import beta

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

RESAMPLES = 1000
CONFIDENCE = 0.95
BINS = 15
_BORDER = 0.1
_MAP_SIDE = 224
_AT_ONCE = 1_000_000  # float64 in one array of resamples: 8 MB, of which a method holds a handful


def calibration_curve(
    probability: NDArray[np.float32], labels: NDArray[np.int64], bins: int = BINS
) -> list[tuple[float, float, int]]:
    """Return for each bin of equal width that holds any answer: mean probability, share of PNEUMONIA, number."""
    place = np.minimum((probability * bins).astype(int), bins - 1)
    points = []
    for number in range(bins):
        inside = place == number
        if inside.any():
            points.append((float(probability[inside].mean()), float(labels[inside].mean()), int(inside.sum())))
    return points


def calibration_error(probability: NDArray[np.float32], labels: NDArray[np.int64], bins: int = BINS) -> float:
    """Return the expected calibration error (Naeini et al. 2015): the bins' gaps, weighted by their numbers."""
    curve = calibration_curve(probability, labels, bins)
    return sum(abs(stated - observed) * number for stated, observed, number in curve) / len(labels)


def specificity_at_missed(probability: NDArray[np.float32], labels: NDArray[np.int64], missed: int = 2) -> float:
    """Return the specificity of the highest threshold that misses at most so many pneumonias."""
    positives = np.sort(probability[labels == 1])
    threshold = positives[min(missed, len(positives) - 1)]
    return float((probability[labels == 0] < threshold).mean())


def predictive_values(sensitivity: float, specificity: float, prevalence: float) -> tuple[float, float]:
    """Return PPV and NPV at a prevalence (Bayes); NaN where nothing is called so."""
    positive = sensitivity * prevalence + (1 - specificity) * (1 - prevalence)
    negative = specificity * (1 - prevalence) + (1 - sensitivity) * prevalence
    ppv = sensitivity * prevalence / positive if positive else float("nan")
    npv = specificity * (1 - prevalence) / negative if negative else float("nan")
    return ppv, npv


def border_share(attention: NDArray[np.float32]) -> float:
    """Return which part of heatmaps [N, h, w] lies in the outer tenth of the image, the mean of those not empty.

    The maps are enlarged to 224×224 by the cubic interpolation that the overlay uses; a uniform one gives 0.35.
    """
    edge = round(_BORDER * _MAP_SIDE)
    shares = []
    for cells in attention:
        fine = np.maximum(cv2.resize(cells, (_MAP_SIDE, _MAP_SIDE), interpolation=cv2.INTER_CUBIC), 0)
        total = float(fine.sum())
        if total > 0:
            shares.append(1 - float(fine[edge:-edge, edge:-edge].sum()) / total)
    return float(np.mean(shares)) if shares else float("nan")


@dataclass(frozen=True, slots=True)
class Resamples:
    """Sets of the same size drawn anew with replacement, patients as wholes.

    Memory is bounded: one byte for each set and patient, and floats for as many sets at a time as `_AT_ONCE` allows.

    Attributes
    ----------
    counts
        uint8 [resamples, patients]: how often each patient is in each set. Drawn with replacement among n, one of them
        comes 255 times with a chance below 10⁻⁵⁰⁰.
    place
        int [N]: the patient of each image.
    """

    counts: NDArray[np.uint8]
    place: NDArray[np.intp]
    labels: NDArray[np.int64]
    probability: NDArray[np.float32]

    @classmethod
    def draw(
        cls,
        patients: Sequence[str],
        labels: NDArray[np.int64],
        probability: NDArray[np.float32],
        *,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> Resamples:
        """Draw patients, those of each class by themselves (by most of their images), so that every set has both."""
        rng = np.random.default_rng(seed)
        names, place = np.unique(np.asarray(patients), return_inverse=True)
        share = np.bincount(place, weights=labels) / np.bincount(place)
        counts = np.zeros((resamples, len(names)), np.uint8)
        for stratum in (np.flatnonzero(share < 0.5), np.flatnonzero(share >= 0.5)):
            if stratum.size:
                chances = np.full(stratum.size, 1 / stratum.size)
                for some in _parts(resamples, stratum.size):
                    size = some.stop - some.start
                    counts[some, stratum] = rng.multinomial(stratum.size, chances, size=size)
        return cls(counts, place, labels, probability)

    @classmethod
    def once(cls, labels: NDArray[np.int64], probability: NDArray[np.float32]) -> Resamples:
        """Return the one set that holds each image once."""
        return cls(np.ones((1, len(labels)), np.uint8), np.arange(len(labels)), labels, probability)

    def weights(self) -> Iterator[NDArray[np.float64]]:
        """Yield how often each image is in each set, float64 [some sets, N], until all sets were there."""
        for some in _parts(len(self.counts), len(self.place)):
            yield self.counts[some][:, self.place].astype(np.float64)

    def auc(self) -> NDArray[np.float64]:
        """Return the area under the ROC curve of each set (Mann and Whitney's statistic, half for ties)."""
        order = np.argsort(self.probability, kind="stable")
        starts = np.flatnonzero(np.diff(self.probability[order], prepend=-np.inf))
        positive = self.labels[order] == 1
        areas = []
        for weights in self.weights():
            ordered = weights[:, order]
            above = np.add.reduceat(ordered * positive, starts, axis=1)
            below = np.add.reduceat(ordered * ~positive, starts, axis=1)
            wins = above * (np.cumsum(below, axis=1) - below / 2)
            areas.append(wins.sum(axis=1) / (above.sum(axis=1) * below.sum(axis=1)))
        return np.concatenate(areas)

    def rates(self, threshold: float) -> dict[str, NDArray[np.float64]]:
        """Return sensitivity, specificity and accuracy of each set at a threshold."""
        right = (self.probability >= threshold) == (self.labels == 1)
        every = np.ones(len(self.labels), dtype=bool)
        among = {"sensitivity": self.labels == 1, "specificity": self.labels == 0, "accuracy": every}
        rates: dict[str, list[NDArray[np.float64]]] = {name: [] for name in among}
        for weights in self.weights():
            for name, of in among.items():
                rates[name].append((weights @ (of & right)) / (weights @ of.astype(float)))
        return {name: np.concatenate(parts) for name, parts in rates.items()}

    def rate_intervals(self, threshold: float) -> dict[str, list[float]]:
        """Return the 95 % intervals of sensitivity, specificity and accuracy at a threshold.

        Where all answers are right, or all wrong, every set says the same and no spread is seen: there it is Clopper
        and Pearson's interval (1934), of as many trials as there are patients.
        """
        right = (self.probability >= threshold) == (self.labels == 1)
        every = np.ones(len(self.labels), dtype=bool)
        among = {"sensitivity": self.labels == 1, "specificity": self.labels == 0, "accuracy": every}
        intervals = {}
        for name, values in self.rates(threshold).items():
            own = right[among[name]]
            patients = len(np.unique(self.place[among[name]]))
            unanimous = own.all() or not own.any()
            intervals[name] = _exact(bool(own.all()), patients) if unanimous else interval(values)
        return intervals

    def roc(self, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return each set's sensitivity [resamples, G] at the false positive rates of a grid."""
        curves = []
        for true, false in self._running():
            pairs = zip(false / false[:, -1:], true / true[:, -1:], strict=True)
            curves += [np.interp(grid, x, y) for x, y in pairs]
        return np.stack(curves)

    def precision(self, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return each set's precision [resamples, G] at the sensitivities of a grid."""
        curves = []
        for true, false in self._running():
            positive = true + false
            share = np.divide(true, positive, out=np.ones_like(true), where=positive > 0)
            curves += [np.interp(grid, x / x[-1], y) for x, y in zip(true, share, strict=True)]
        return np.stack(curves)

    def _running(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Yield the true and the false positives as the threshold falls from image to image, [some sets, N] each."""
        order = np.argsort(-self.probability, kind="stable")
        positive = self.labels[order] == 1
        for weights in self.weights():
            ordered = weights[:, order]
            yield np.cumsum(ordered * positive, axis=1), np.cumsum(ordered * ~positive, axis=1)


def _parts(sets: int, width: int) -> Iterator[slice]:
    """Divide sets into parts of at most `_AT_ONCE` numbers, of at least one set each."""
    step = max(1, _AT_ONCE // max(width, 1))
    yield from (slice(start, min(start + step, sets)) for start in range(0, sets, step))


def _exact(right: bool, trials: int) -> list[float]:
    """Return Clopper and Pearson's interval of a rate where all trials, or none, succeeded."""
    bound = round(float(beta.ppf((1 - CONFIDENCE) / 2, trials, 1)), 4)
    return [bound, 1.0] if right else [0.0, round(1 - bound, 4)]


def interval(values: NDArray[np.float64], confidence: float = CONFIDENCE) -> list[float]:
    """Return the percentile interval of resampled values."""
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return [round(float(low), 4), round(float(high), 4)]


def threshold_table(
    probability: NDArray[np.float32],
    labels: NDArray[np.int64],
    thresholds: Sequence[float],
    prevalences: Sequence[float],
) -> list[dict[str, Any]]:
    """Return one row for each threshold: sensitivity, specificity, and PPV and NPV at each prevalence.

    A predictive value is None where nothing is called so.
    """
    rows = []
    for threshold in thresholds:
        positive = probability >= threshold
        sensitivity, specificity = float(positive[labels == 1].mean()), float((~positive[labels == 0]).mean())
        values = [predictive_values(sensitivity, specificity, prevalence) for prevalence in prevalences]
        rows.append(
            {
                "threshold": float(threshold),
                "sensitivity": sensitivity,
                "specificity": specificity,
                "missed": int((~positive & (labels == 1)).sum()),
                "false_alarms": int((positive & (labels == 0)).sum()),
                "predictive_values": [
                    {
                        "prevalence": prevalence,
                        "ppv": None if math.isnan(ppv) else ppv,
                        "npv": None if math.isnan(npv) else npv,
                    }
                    for prevalence, (ppv, npv) in zip(prevalences, values, strict=True)
                ],
            }
        )
    return rows
