"""The further figures of an evaluation: intervals, calibration, coverage, subgroups, heatmaps."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logit
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from dicom_io.pixels.radiograph import AGE_BANDS, ATTRIBUTES
from modeltrain.evaluation.statistics import (
    Resamples,
    border_share,
    calibration_error,
    interval,
    specificity_at_missed,
    threshold_table,
)
from modeltrain.model.outputs import AGENTS, CLASSES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from modeltrain.evaluation.evaluate import Answers, Evaluation

PREVALENCES = (0.05, 0.2)  # beside that of the data: a screening and a ward
GRID = tuple(round(0.05 * step, 2) for step in range(1, 20))  # thresholds
MOST_VALUES = 12  # of one attribute; what is rarer is put together
OTHER = "other values"
MISSED = 2
LUNGS_FOUND = ("none", "one", "two")
CUT = "one cut off at the edge"
SHARES = (0.15, 0.25, 0.35)  # parts of the image that are lung, between which groups begin


def details(answers: Answers, evaluation: Evaluation, points: Mapping[str, float]) -> dict[str, Any]:
    """Return all figures of a report, as plain values: `key_figures` and further tables.

    Parameters are those of `key_figures`.

    Returns
    -------
    Besides the key figures: `thresholds`, over a grid and the operating points; `attributes`, subgroups by what DICOM
    headers state; `lungs`, subgroups by the lungs that the model found.
    """
    figures = key_figures(answers, evaluation, points)
    named = {name: row["threshold"] for name, row in figures["operating_points"].items()}
    return figures | {
        "thresholds": threshold_grid(answers, named),
        "attributes": attribute_groups(answers, evaluation.threshold),
        "lungs": lung_groups(answers, evaluation.threshold),
    }


def key_figures(answers: Answers, evaluation: Evaluation, points: Mapping[str, float]) -> dict[str, Any]:
    """Return the further figures of an evaluation, as plain values for JSON.

    Parameters
    ----------
    points
        Operating points by name.

    Returns
    -------
    `auc_ci`, `sensitivity_ci`, `specificity_ci`, `accuracy_ci`: 95 % intervals by patient, bootstrapped (see
    `modeltrain.evaluation.statistics.Resamples.rate_intervals`); `ece` (15 bins);
    `brier`; `average_precision`; `specificity_at_2_missed`; `border_share` by class; `ood_rate` and `coverage`, None
    where the model has no out-of-distribution score or no conformal part; `subtype_auc`; `operating_points`;
    `subgroups` by agent.
    """
    labels, scores = answers.labels, answers.probability
    resamples = Resamples.draw([sample.patient for sample in answers.samples], labels, scores)
    rates = {f"{name}_ci": values for name, values in resamples.rate_intervals(evaluation.threshold).items()}
    return {
        "auc_ci": interval(resamples.auc()),
        **rates,
        "ece": round(calibration_error(scores, labels), 4),
        "brier": round(float(brier_score_loss(labels, np.clip(scores, 0, 1))), 4),
        "average_precision": round(float(average_precision_score(labels, scores)), 4),
        "specificity_at_2_missed": round(specificity_at_missed(scores, labels, MISSED), 4),
        "border_share": {
            name: _rounded(border_share(answers.evidence[labels == label])) for label, name in enumerate(CLASSES)
        },
        "ood_rate": _ood_rate(answers),
        "coverage": _coverage(answers),
        "subtype_auc": _subtype_auc(answers),
        "operating_points": threshold_rows(answers, points),
        "subgroups": subgroups(answers, evaluation.threshold),
    }


def threshold_rows(answers: Answers, points: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Return a row of the threshold table for each operating point, and for the one that misses at most two."""
    labels, scores = answers.labels, answers.probability
    positives = np.sort(scores[labels == 1])
    named = dict(points) | {f"at most {MISSED} missed": float(positives[min(MISSED, len(positives) - 1)])}
    rows = threshold_table(scores, labels, list(named.values()), prevalences_of(labels))
    return dict(zip(named, rows, strict=True))


def threshold_grid(answers: Answers, points: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the threshold table over a grid and the operating points, by rising threshold; `points` names those."""
    labels = answers.labels
    names: dict[float, list[str]] = {threshold: [] for threshold in GRID}
    for name, threshold in points.items():
        names.setdefault(float(threshold), []).append(name)
    thresholds = sorted(names)
    rows = threshold_table(answers.probability, labels, thresholds, prevalences_of(labels))
    return [row | {"points": names[threshold]} for row, threshold in zip(rows, thresholds, strict=True)]


def prevalences_of(labels: NDArray[np.int64]) -> tuple[float, ...]:
    """Return the prevalences for which predictive values are stated: two, and that of the data."""
    return (*PREVALENCES, round(float(labels.mean()), 4))


def subgroups(answers: Answers, threshold: float) -> dict[str, dict[str, Any]]:
    """Return sensitivity by agent, and the AUC of each agent against NORMAL."""
    labels, scores = answers.labels, answers.probability
    agents = np.array([sample.agent for sample in answers.samples])
    groups = {}
    for number, name in enumerate(AGENTS):
        own = (agents == number) & (labels == 1)
        if own.any():
            both = own | (labels == 0)
            groups[name] = {
                "n": int(own.sum()),
                "sensitivity": _rounded(float((scores[own] >= threshold).mean())),
                "auc_against_normal": _rounded(float(roc_auc_score(own[both], scores[both]))),
            }
    return groups


def attribute_groups(answers: Answers, threshold: float) -> dict[str, dict[str, dict[str, Any]]]:
    """Return for each attribute that DICOM headers state, and each of its values, how the model does on those images.

    Of an attribute the most frequent values stand for themselves, the rest together. What needs a class that a group
    does not hold is None. Images without the attribute are in none of its groups.
    """
    if not answers.attributes:
        return {}
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for name in ATTRIBUTES:
        values = np.array([each.get(name, "") for each in answers.attributes])
        frequencies = Counter(value for value in values.tolist() if value).most_common()
        frequent = [value for value, _ in frequencies[:MOST_VALUES]]
        ordered = [band for band in AGE_BANDS if band in frequent] if name == "AgeBand" else sorted(frequent)
        groups[name] = {value: _group(answers, values == value, threshold) for value in ordered}
        if len(frequencies) > MOST_VALUES:
            groups[name][OTHER] = _group(answers, (values != "") & ~np.isin(values, frequent), threshold)
    return {name: group for name, group in groups.items() if group}


def lung_groups(answers: Answers, threshold: float) -> dict[str, dict[str, dict[str, Any]]]:
    """Return how the model does on images by the lungs that it found: how many, and how much of the image they are.

    Empty where it does not look for lungs.
    """
    every = [judgement.lungs for judgement in answers.judgements]
    lungs = [each for each in every if each is not None]
    if not lungs or len(lungs) < len(answers.samples):
        return {}
    numbers = np.array([CUT if each.cut else LUNGS_FOUND[min(each.count, 2)] for each in lungs])
    places = np.digitize([each.share for each in lungs], SHARES)
    edges = [0.0, *SHARES, 1.0]
    bands = [f"{100 * low:.0f}–{100 * high:.0f} %" for low, high in pairwise(edges)]
    groups = {
        "lungs found": {name: numbers == name for name in (*LUNGS_FOUND[::-1], CUT)},
        "part of the image": {name: places == place for place, name in enumerate(bands)},
    }
    return {
        title: {name: _group(answers, own, threshold) for name, own in parts.items() if own.any()}
        for title, parts in groups.items()
    }


def _group(answers: Answers, own: NDArray[np.bool_], threshold: float) -> dict[str, Any]:
    labels, scores = answers.labels[own], answers.probability[own]
    decision, positive = scores >= threshold, labels == 1
    both = 0 < int(positive.sum()) < len(labels)
    return {
        "n": len(labels),
        "normal": int((~positive).sum()),
        "pneumonia": int(positive.sum()),
        "sensitivity": _rounded(float(decision[positive].mean())) if positive.any() else None,
        "specificity": _rounded(float((~decision[~positive]).mean())) if not positive.all() else None,
        "auc": _rounded(float(roc_auc_score(labels, scores))) if both else None,
    }


def worst_errors(answers: Answers, threshold: float, most: int = 12) -> list[int]:
    """Return the indices of the errors that lie farthest from the threshold on the wrong side, the worst first.

    In logits, so that what was wrongly called with 0.999 is as far as what was wrongly cleared with 0.001.
    """
    scores = answers.probability.astype(np.float64)
    wrong = (scores >= threshold) != (answers.labels == 1)
    distance = np.abs(logit(np.clip(scores, 1e-6, 1 - 1e-6)) - logit(threshold))
    order = np.flatnonzero(wrong)
    return [int(index) for index in order[np.argsort(-distance[order], kind="stable")][:most]]


def _subtype_auc(answers: Answers) -> float | None:
    """Return the AUC of bacterial against viral pneumonia, if both are there and the model answers it."""
    agents = np.array([sample.agent for sample in answers.samples])
    has_agent = agents >= 0
    if len(answers.subtype) != len(agents) or not np.isfinite(answers.subtype[has_agent]).all():
        return None
    return (
        _rounded(float(roc_auc_score(agents[has_agent], answers.subtype[has_agent])))
        if len(set(agents[has_agent])) > 1
        else None
    )


def _ood_rate(answers: Answers) -> float | None:
    scores = [judgement.outlier for judgement in answers.judgements]
    finite = [score for score in scores if score is not None]
    return _rounded(float(np.mean([score >= 1 for score in finite]))) if finite else None


def _coverage(answers: Answers) -> dict[str, Any] | None:
    """Return which share of the conformal sets holds the truth, and how large the sets are."""
    sets: Sequence[tuple[str, ...]] = [j.prediction_set for j in answers.judgements if j.prediction_set is not None]
    if not sets or len(sets) != len(answers.samples):
        return None
    truth = [CLASSES[label] for label in answers.labels]
    held = np.array([name in each for name, each in zip(truth, sets, strict=True)])
    sizes = np.array([len(each) for each in sets])
    return {
        "all": _rounded(float(held.mean())),
        **{name: _rounded(float(held[answers.labels == label].mean())) for label, name in enumerate(CLASSES)},
        "single": _rounded(float((sizes == 1).mean())),
        "both": _rounded(float((sizes == 2).mean())),
        "none": _rounded(float((sizes == 0).mean())),
    }


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
