"""From the network's bare outputs to an answer: calibrated, decided, with what is uncertain about it.

Everything that is needed stands in the model's card: it was fitted on the validation patients (`export.calibrate`)
and is applied here without any library of statistics, since serving does this for each image.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dicom_io.errors import InvalidModel, InvalidSettings
from dicom_io.finding import Finding
from modeltrain.model.outputs import AGENTS, CLASSES, probability

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modeltrain.model.card import Card
    from modeltrain.model.outputs import Outputs

SCREENING, BALANCED, CUSTOM = "screening", "balanced", "custom"


class Decider:
    """Applies a card: calibration, operating point, conformal sets, the limit for out of distribution.

    Parameters
    ----------
    operating_point
        One of the card's `operating_points`; None takes the card's default.
    threshold
        Instead of the operating point's own, in calibrated probability.

    Attributes
    ----------
    slope, intercept
        Of the calibration: log-odds of PNEUMONIA are slope · (difference of the logits) + intercept.

    Raises
    ------
    InvalidSettings
        The card has no such operating point.
    InvalidModel
        The card's numbers are unusable.
    """

    def __init__(self, card: Card, operating_point: str | None = None, threshold: float | None = None) -> None:
        population = card.raw.get("population") or {}
        self.least_age = float(population.get("least_age_years", 0))
        self.greatest_age = float(population.get("greatest_age_years", math.inf))
        self.points = points = dict(card.operating_points)
        name = operating_point or SCREENING
        if name not in points:
            raise InvalidSettings(f"model.operating_point {name}: {card.label} has {', '.join(points)}")
        self.operating_point = name if threshold is None else CUSTOM
        self.threshold = points[name] if threshold is None else threshold
        try:
            calibration: dict[str, Any] = card.raw.get("calibration") or {"slope": 1.0, "intercept": 0.0}
            self.slope, self.intercept = float(calibration["slope"]), float(calibration["intercept"])
            conformal = card.raw.get("conformal")
            self._least = {c: float(conformal["least_probability"][c]) for c in CLASSES} if conformal else None
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidModel(f"{card.folder}: calibration, conformal part of the card is unusable") from error
        if not (math.isfinite(self.slope) and self.slope > 0 and math.isfinite(self.intercept)):
            raise InvalidModel(f"{card.folder}: the calibration would change the order of answers")

    def probability(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the calibrated probability of PNEUMONIA, float32 [N] in [0, 1] (Platt scaling, Platt 1999)."""
        return calibrated(logits, self.slope, self.intercept)

    def prediction_set(self, score: float) -> tuple[str, ...] | None:
        """Return the classes that are probable enough to be held possible (Mondrian split conformal, Vovk 2012)."""
        if self._least is None:
            return None
        each = dict(zip(CLASSES, (1 - score, score), strict=True))
        return tuple(name for name in CLASSES if each[name] >= self._least[name])

    def __call__(self, outputs: Outputs) -> list[Finding]:
        """Return one finding for each image of a batch, without lungs and regions: this one does not look at maps."""
        scores = (outputs.logits[:, 1] - outputs.logits[:, 0]).tolist()
        each = zip(
            self.probability(outputs.logits).tolist(), scores, outputs.subtype, outputs.outlier.tolist(), strict=True
        )
        return [self._one(*one) for one in each]

    def _one(self, chance: float, score: float, subtype: NDArray[np.float32], outlier: float) -> Finding:
        positive = chance >= self.threshold
        agent = agent_probability = None
        if positive and np.isfinite(subtype).all():
            second = float(probability(subtype[np.newaxis])[0])
            agent, agent_probability = AGENTS[int(second >= 0.5)], max(second, 1 - second)
        return Finding(
            probability=chance,
            decision=CLASSES[int(positive)],
            threshold=float(self.threshold),
            operating_point=self.operating_point,
            prediction_set=self.prediction_set(chance),
            outlier=outlier if math.isfinite(outlier) else None,
            agent=agent,
            agent_probability=agent_probability,
            score=score,
        )


def calibrated(logits: NDArray[np.float32], slope: float, intercept: float) -> NDArray[np.float32]:
    """Return the logistic function of slope · (difference of the two logits) + intercept, float32 [N]."""
    difference = slope * (logits[:, 1].astype(np.float64) - logits[:, 0]) + intercept
    return ((1 + np.tanh(difference / 2)) / 2).astype(np.float32)
