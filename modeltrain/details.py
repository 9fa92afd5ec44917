"""What an evaluation says beyond its main figures: intervals, calibration, coverage, subgroups, places."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from modeltrain.outputs import AGENTS, CLASSES
from modeltrain.statistics import (
    Resamples,
    border_share,
    calibration_error,
    interval,
    specificity_at_missed,
    threshold_table,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from modeltrain.evaluate import Answers, Evaluation

PREVALENCES = (0.05, 0.2)  # beside that of the data: a screening and a ward
MISSED = 2


def details(answers: Answers, evaluation: Evaluation, points: Mapping[str, float]) -> dict[str, Any]:
    """Return the further figures of an evaluation, as plain values for JSON.

    Parameters
    ----------
    points
        Operating points by name.

    Returns
    -------
    `auc_ci`, `sensitivity_ci`, `specificity_ci`, `accuracy_ci`: 95 % bootstrap intervals by patient; `ece` (15 bins);
    `brier`; `average_precision`; `specificity_at_2_missed`; `border_share` by class; `ood_rate` and `coverage`, None
    where the model has no gate or no conformal part; `subtype_auc`; `operating_points`; `subgroups`.
    """
    labels, scores = answers.labels, answers.probability
    resamples = Resamples.draw([sample.patient for sample in answers.samples], labels, scores)
    rates = {f"{name}_ci": interval(values) for name, values in resamples.rates(evaluation.threshold).items()}
    return {
        "auc_ci": interval(resamples.auc()),
        **rates,
        "ece": round(calibration_error(scores, labels), 4),
        "brier": round(float(brier_score_loss(labels, np.clip(scores, 0, 1))), 4),
        "average_precision": round(float(average_precision_score(labels, scores)), 4),
        "specificity_at_2_missed": round(specificity_at_missed(scores, labels, MISSED), 4),
        "border_share": {
            name: _rounded(border_share(answers.attention[labels == label])) for label, name in enumerate(CLASSES)
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
    prevalences = (*PREVALENCES, round(float(labels.mean()), 4))
    rows = threshold_table(scores, labels, list(named.values()), prevalences)
    return dict(zip(named, rows, strict=True))


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


def worst_errors(answers: Answers, threshold: float, most: int = 12) -> list[int]:
    """Return the indices of the errors that lie farthest from the threshold on the wrong side, the worst first."""
    scores = answers.probability.astype(np.float64)
    wrong = (scores >= threshold) != (answers.labels == 1)
    distance = np.abs(np.log(np.clip(scores, 1e-6, 1 - 1e-6)) - math.log(threshold))
    order = np.flatnonzero(wrong)
    return [int(index) for index in order[np.argsort(-distance[order], kind="stable")][:most]]


def _subtype_auc(answers: Answers) -> float | None:
    """Return how well bacterial and viral pneumonias are told apart, where both are there and the model says so."""
    agents = np.array([sample.agent for sample in answers.samples])
    known = agents >= 0
    if len(answers.subtype) != len(agents) or not np.isfinite(answers.subtype[known]).all():
        return None
    return (
        _rounded(float(roc_auc_score(agents[known], answers.subtype[known]))) if len(set(agents[known])) > 1 else None
    )


def _ood_rate(answers: Answers) -> float | None:
    scores = [judgement.outlier for judgement in answers.judgements]
    known = [score for score in scores if score is not None]
    return _rounded(float(np.mean([score >= 1 for score in known]))) if known else None


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
