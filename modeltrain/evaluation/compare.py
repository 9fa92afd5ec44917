"""Two models on the same radiographs: is the new one worse?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import norm, rankdata

from dicom_io.errors import InvalidData
from modeltrain.evaluation.faithfulness import MEASURES
from modeltrain.evaluation.statistics import CONFIDENCE, Resamples, interval
from modeltrain.model.outputs import CLASSES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modeltrain.evaluation.evaluate import Answers
    from modeltrain.evaluation.faithfulness import Faithfulness

MAP_MARGINS = {"contrast": 0.2, "opacity_raises": 0.05, "opacity_found": 0.05, "peak_inside": 0.05}
"""What maps are compared by, and how much worse a new model's may be: log-odds for the first, parts for the others."""
_LEAST_COUNT = 10  # images of which both models tell, below which a measure of their maps is not compared


@dataclass(frozen=True, slots=True)
class Difference:
    """New minus old, with its 95 % interval (low, high)."""

    old: float
    new: float
    low: float
    high: float

    @property
    def value(self) -> float:
        """New minus old."""
        return self.new - self.old

    def to_dict(self) -> dict[str, float]:
        """Return plain values."""
        keys = ("old", "new", "low", "high")
        return {key: round(getattr(self, key), 5) for key in keys} | {"difference": round(self.value, 5)}


@dataclass(frozen=True, slots=True)
class MapComparison:
    """The paired differences of two models' maps, by the names of `MAP_MARGINS`; not those too few images tell of."""

    normal: int
    pneumonia: int
    measures: dict[str, Difference]

    def worse(self) -> list[str]:
        """Return what the new model's maps are worse in: by more than the margin, and beyond chance."""
        return [
            f"{MEASURES[name]} {each.new:.3f} against {each.old:.3f} (difference {each.value:+.3f}, {each.low:+.3f} to "
            f"{each.high:+.3f}, margin {MAP_MARGINS[name]:g})"
            for name, each in self.measures.items()
            if each.high < 0 and each.value < -MAP_MARGINS[name]
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        parts = {name: each.to_dict() for name, each in self.measures.items()}
        return {"normal": self.normal, "pneumonia": self.pneumonia, **parts}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The paired differences; sensitivity and specificity are those at each model's own threshold."""

    normal: int
    pneumonia: int
    auc: Difference
    sensitivity: Difference
    specificity: Difference

    @property
    def n(self) -> int:
        """The number of images."""
        return self.normal + self.pneumonia

    def too_few(self, least: int) -> str:
        """Return what is wrong where a class has fewer images than `least`; empty otherwise.

        Both intervals are those of large samples: on a handful of images two models seem alike.
        """
        if min(self.normal, self.pneumonia) >= least:
            return ""
        return (
            f"{self.normal} NORMAL and {self.pneumonia} PNEUMONIA images are too few to tell (at least {least} of each)"
        )

    def worse(self, margin: float) -> list[str]:
        """Return what the new model may be worse in by more than the margin: the interval reaches beyond it."""
        return [
            f"{name} {each.new:.4f} against {each.old:.4f} (difference {each.low:+.4f} to {each.high:+.4f})"
            for name, each in (("AUC", self.auc), ("sensitivity", self.sensitivity), ("specificity", self.specificity))
            if each.low < -margin and each.value < 0
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        parts = {name: getattr(self, name).to_dict() for name in ("auc", "sensitivity", "specificity")}
        return {"n": self.n, "normal": self.normal, "pneumonia": self.pneumonia, **parts}


def compare(old: Answers, new: Answers, thresholds: tuple[float, float]) -> Comparison:
    """Compare two models' answers to the same images.

    Parameters
    ----------
    thresholds
        Of the old and of the new model.

    Raises
    ------
    InvalidData
        A class has fewer than two images.
    """
    labels = old.labels
    counts = [int((labels == label).sum()) for label in range(len(CLASSES))]
    if min(counts) < 2:
        raise InvalidData(
            f"{counts[0]} NORMAL and {counts[1]} PNEUMONIA images: two of each are the least to compare by"
        )
    patients = [sample.patient for sample in old.samples]
    auc = delong(labels, old.probability, new.probability)
    # The same seed draws the same patients for both: the differences are paired.
    rates = [
        Resamples.draw(patients, labels, answers.probability).rates(threshold)
        for answers, threshold in zip((old, new), thresholds, strict=True)
    ]
    exact = [
        Resamples.once(labels, answers.probability).rates(threshold)
        for answers, threshold in zip((old, new), thresholds, strict=True)
    ]
    spread = {}
    for name in ("sensitivity", "specificity"):
        low, high = np.quantile(rates[1][name] - rates[0][name], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        spread[name] = Difference(float(exact[0][name][0]), float(exact[1][name][0]), float(low), float(high))
    return Comparison(counts[0], counts[1], auc, spread["sensitivity"], spread["specificity"])


def compare_maps(old: Faithfulness, new: Faithfulness) -> MapComparison:
    """Compare two models' maps of the same cases.

    The same patients are drawn anew for both, so the differences are paired, also where an image tells only of one.
    """
    measures = {}
    for name in MAP_MARGINS:
        counts = [int(np.isfinite(each.values[name]).sum()) for each in (old, new)]
        if min(counts) >= _LEAST_COUNT:
            (before, *_), (after, *_) = values = old.resampled(name), new.resampled(name)
            low, high = interval(values[1][1:] - values[0][1:])
            measures[name] = Difference(float(before), float(after), low, high)
    return MapComparison(len(old.cases.normal), len(old.cases.pneumonia), measures)


def delong(labels: NDArray[np.int64], old: NDArray[np.float32], new: NDArray[np.float32]) -> Difference:
    """Return the difference of two correlated AUCs with its interval.

    DeLong, DeLong and Clarke-Pearson 1988, in the form with mid-ranks of Sun and Xu 2014.
    """
    positive, negative = labels == 1, labels == 0
    m, n = int(positive.sum()), int(negative.sum())
    areas, by_positive, by_negative = [], [], []
    for scores in (old.astype(np.float64), new.astype(np.float64)):
        ranks = rankdata(scores)
        areas.append((ranks[positive].sum() - m * (m + 1) / 2) / (m * n))
        by_positive.append((ranks[positive] - rankdata(scores[positive])) / n)
        by_negative.append(1 - (ranks[negative] - rankdata(scores[negative])) / m)
    covariance = np.cov(np.stack(by_positive)) / m + np.cov(np.stack(by_negative)) / n
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    reach = float(norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(max(float(variance), 0.0)))
    difference = float(areas[1] - areas[0])
    return Difference(float(areas[0]), float(areas[1]), difference - reach, difference + reach)
