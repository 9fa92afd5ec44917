"""What a model found in a radiograph, as every result object tells it."""

from __future__ import annotations

from dataclasses import dataclass

MANUFACTURER = "cxrd"
"""Of every object that holds a finding; by it our own results are recognised when they come back."""


@dataclass(frozen=True)
class Region:
    """The attended region in the pixels of the source image, counted from its upper left corner.

    Attributes
    ----------
    box
        left, top, right, bottom: columns and rows, right and bottom exclusive.
    contour
        (column, row) of each corner of the region's outline, in order, not closed; at least three.
    """

    box: tuple[int, int, int, int]
    contour: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Finding:
    """What the model found.

    Attributes
    ----------
    probability
        Of pneumonia, 0 to 1; calibrated where the model's card has a calibration.
    decision
        PNEUMONIA or NORMAL.
    threshold
        A probability from here on is decided as PNEUMONIA.
    operating_point
        The name that the model's card gives to this threshold; `custom` where the site set its own.
    prediction_set
        The classes that the conformal set holds, in the order NORMAL, PNEUMONIA; both or none: the model is not sure.
        None where the card has no conformal part.
    outlier
        0 and up; from 1 on the image is out of distribution. None where the model has no such score.
    agent, agent_probability
        `bacteria` or `virus`, and how probable (0.5 to 1): research only. None without a pneumonia or this answer.
    region
        Where the model looked, when the decision is PNEUMONIA and there was anything to see.
    beyond_normal
        The heatmap is empty by itself, because the threshold lies below the network's own: it and the region show what
        goes beyond the mean map of normal radiographs instead.
    """

    probability: float
    decision: str
    threshold: float
    operating_point: str = "custom"
    prediction_set: tuple[str, ...] | None = None
    outlier: float | None = None
    agent: str | None = None
    agent_probability: float | None = None
    region: Region | None = None
    beyond_normal: bool = False

    @property
    def out_of_distribution(self) -> bool | None:
        """Whether the image is outside the trained population; None where the model cannot tell."""
        return None if self.outlier is None else self.outlier >= 1

    @property
    def certain(self) -> bool | None:
        """Whether the conformal set holds one class, and that is the decision; None where there is no such set."""
        return None if self.prediction_set is None else self.prediction_set == (self.decision,)


@dataclass(frozen=True)
class ModelIdentity:
    """Which model found it."""

    name: str
    version: str
    digest: str  # SHA-256 of the weights, hexadecimal

    @property
    def label(self) -> str:
        """Return name and version, as the audit and notifications tell them."""
        return f"{self.name}-{self.version}"

    def __str__(self) -> str:
        """Return what the UIDs of its results are derived from."""
        return f"{self.label}-{self.digest}"
