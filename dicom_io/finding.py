"""What a model found in a radiograph, as every result object tells it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MANUFACTURER = "cxrd"
"""Of every object that holds a finding; by it our own results are recognised when they come back."""


class Answer(StrEnum):
    """All that an answer can be. Every result, table and message says one of these, and nothing else in its place."""

    FLAGGED = "flagged"
    NOT_FLAGGED = "not flagged"
    UNCERTAIN = "uncertain"
    OUTSIDE = "outside"

    @property
    def sentence(self) -> str:
        """What it means, in words that a reader of radiographs understands."""
        return _SENTENCES[self]

    @property
    def shows_evidence(self) -> bool:
        """Whether evidence and its regions belong to it: not to a no, and not where there is no answer."""
        return self in (Answer.FLAGGED, Answer.UNCERTAIN)


_SENTENCES = {
    Answer.FLAGGED: "Flagged: evidence for pneumonia",
    Answer.NOT_FLAGGED: "Not flagged: too little evidence for pneumonia",
    Answer.UNCERTAIN: "Uncertain: cannot tell",
    Answer.OUTSIDE: "Outside: not an image the model was made for",
}


_LEAST_CORNERS = 3  # of a closed outline (PS3.3 C.18.6, C.10.5)

STRONG_EVIDENCE = 12.0
"""Log-odds at which a picture shows evidence at its full strength.

So much in a tenth of the lungs, and nothing elsewhere, makes an answer of about 0.98, since places are pooled by their
log-mean-exp (`modeltrain.network.architectures.pooled_score`). A place that cannot make the answer alone looks weak.
"""


def readable(probability: float, digits: int = 2) -> str:
    """Return a probability as a reader sees it: never as 0 or 1, since no model is that certain."""
    least = 10.0**-digits
    if round(probability, digits) >= 1:
        return f"> {1 - least:.{digits}f}"
    if round(probability, digits) <= 0:
        return f"< {least:.{digits}f}"
    return f"{probability:.{digits}f}"


def bounded(probability: float, digits: int = 4) -> float:
    """Return a probability rounded, as a number for machines, and like `readable` never as 0 or 1."""
    least = 10.0**-digits
    return round(min(max(probability, least), 1 - least), digits)


class Orientation(StrEnum):
    """How the stored image shows the patient, by Patient Orientation (PS3.3 C.7.6.1.1.1)."""

    UNSTATED = "not stated"
    """Nothing is said; a frontal radiograph usually faces the reader."""
    FACING = "facing the reader"
    """L\\F: the patient's right is on the left."""
    MIRRORED = "mirrored"
    """R\\F."""
    UPSIDE_DOWN = "upside down"
    """R\\H: turned by half a circle."""
    FLIPPED = "upside down and mirrored"
    """L\\H."""
    OTHER = "neither upright nor upside down"
    """Turned by a quarter, not from the front, or not to be understood."""

    @property
    def tells_sides(self) -> bool:
        """Whether sides and zones can be named."""
        return self is not Orientation.OTHER

    @property
    def shows_right_on_left(self) -> bool:
        """Whether the patient's right is on the picture's left."""
        return self in (Orientation.UNSTATED, Orientation.FACING, Orientation.FLIPPED)

    @property
    def is_upside_down(self) -> bool:
        """Whether the patient's head is below."""
        return self in (Orientation.UPSIDE_DOWN, Orientation.FLIPPED)

    @property
    def caution(self) -> str:
        """What is unusual about it, in a few words; empty where nothing is."""
        if self in (Orientation.UNSTATED, Orientation.FACING):
            return ""
        return f"the image is stored {self.value}"


@dataclass(frozen=True)
class Region:
    """A connected area of evidence in the pixels of the source image, counted from its upper left corner.

    Attributes
    ----------
    box
        left, top, right, bottom: columns and rows, right and bottom exclusive.
    contour
        (column, row) of each corner of the region's outline, in order, not closed; empty where it has none.
    side, zone
        The patient's `right` or `left` lung, and its `upper`, `middle` or `lower` third; empty where not both lungs are
        known, or the orientation does not tell. Where none is stated the patient is taken to face the reader.
    """

    box: tuple[int, int, int, int]
    contour: tuple[tuple[float, float], ...] = ()
    side: str = ""
    zone: str = ""

    @property
    def outline(self) -> tuple[tuple[float, float], ...]:
        """The corners that are drawn, three at least: those of the contour, or of the box where it has too few."""
        if len(set(self.contour)) >= _LEAST_CORNERS:
            return self.contour
        left, top, right, bottom = self.box
        return ((left, top), (right, top), (right, bottom), (left, bottom))

    @property
    def place(self) -> str:
        """Where it is in words, `right lower`; empty where not both lungs are known."""
        return f"{self.side} {self.zone}".strip()


@dataclass(frozen=True)
class Lungs:
    """What the segmentation found of the lungs.

    Attributes
    ----------
    share
        Part of the image that is lung, 0 to 1.
    count
        Lungs that were found: 0, 1 or 2.
    cut
        Whether a lung is cut off by the image's edge, or ends so near to it that nobody can tell.
    contours
        The outline of each lung in the pixels of the source image, as `Region.contour`.
    """

    share: float
    count: int
    cut: bool = False
    contours: tuple[tuple[tuple[float, float], ...], ...] = ()

    @property
    def caution(self) -> str:
        """What is unusual about them, in a few words; empty where nothing is."""
        if not self.count:
            return "no lungs found"
        cut = "a lung is cut off at the image's edge" if self.cut else ""
        if self.count == 1:
            return "only one lung found, and it is cut off at the image's edge" if cut else "only one lung found"
        return cut


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
    regions
        Where evidence for pneumonia is, one for each connected area, the strongest first; empty unless flagged or
        uncertain.
    lungs
        None where the model does not look for lungs.
    score
        Difference of the two logits before calibration; None where it is not known.
    orientation
        How the stored image shows the patient.
    age_outside
        Whether the patient's age, as the header states it, is not one that the model was made for.
    """

    probability: float
    decision: str
    threshold: float
    operating_point: str = "custom"
    prediction_set: tuple[str, ...] | None = None
    outlier: float | None = None
    agent: str | None = None
    agent_probability: float | None = None
    regions: tuple[Region, ...] = ()
    lungs: Lungs | None = None
    score: float | None = None
    orientation: Orientation = Orientation.UNSTATED
    age_outside: bool = False

    @property
    def out_of_distribution(self) -> bool | None:
        """Whether the image is outside the trained population, as also one without lungs is; None: it cannot tell."""
        if self.age_outside or (self.lungs is not None and self.lungs.count == 0):
            return True
        return None if self.outlier is None else self.outlier >= 1

    @property
    def answer(self) -> Answer:
        """The one answer, from population, lungs, operating point and conformal set, in this order.

        - outside: out of distribution by its score or the patient's age, or no lungs were found;
        - uncertain: only one lung was found, or the conformal set does not hold just the class that the operating point
          decides for;
        - flagged or not flagged: that class, where nothing stands against it.
        """
        if self.out_of_distribution:
            return Answer.OUTSIDE
        if self.certain is False or (self.lungs is not None and self.lungs.count == 1):
            return Answer.UNCERTAIN
        return Answer.FLAGGED if self.probability >= self.threshold else Answer.NOT_FLAGGED

    @property
    def answered(self) -> bool:
        """Whether probability, threshold and prediction set may be told: they mean nothing for an image outside."""
        return self.answer is not Answer.OUTSIDE

    @property
    def strength(self) -> float:
        """How much of the scale of colours its evidence may fill, 0 to 1, so that a weak answer looks weak.

        As much as it is probable; at most half where the answer is uncertain; nothing where no evidence is shown.
        """
        if not self.answer.shows_evidence:
            return 0.0
        return min(self.probability, 0.5) if self.answer is Answer.UNCERTAIN else self.probability

    @property
    def certain(self) -> bool | None:
        """Whether the conformal set holds one class, and that is the decision; None where there is no such set."""
        return None if self.prediction_set is None else self.prediction_set == (self.decision,)

    @property
    def probability_text(self) -> str:
        """The probability as a reader sees it, with the decimals that it takes to tell it from the threshold."""
        return readable(self.probability, self._digits)

    @property
    def threshold_text(self) -> str:
        """The threshold with as many decimals as `probability_text`, 2 to 4."""
        return readable(self.threshold, self._digits)

    @property
    def _digits(self) -> int:
        return next((n for n in (2, 3) if round(self.probability, n) != round(self.threshold, n)), 4)

    @property
    def places(self) -> str:
        """Where the regions are, in words and each once, the strongest first: `right lower, left middle`.

        Sides rest on the orientation; where it is not stated, that is said.
        """
        words = ", ".join(dict.fromkeys(region.place for region in self.regions if region.place))
        return f"{words} (orientation not stated)" if words and self.orientation is Orientation.UNSTATED else words

    def sure_place(self, region: Region) -> str:
        """Return the place of a region as far as it is known: without the side where no orientation is stated."""
        return region.zone if self.orientation is Orientation.UNSTATED else region.place

    @property
    def cautions(self) -> tuple[str, ...]:
        """What makes the answer doubtful, in a few words each; empty where nothing does."""
        lungs = self.lungs.caution if self.lungs else ""
        each = (self._strangeness, lungs, self.orientation.caution, self._disagreement)
        return tuple(words for words in each if words)

    @property
    def caution(self) -> str:
        """The cautions as one text, for a table or a message."""
        return "; ".join(self.cautions)

    @property
    def _strangeness(self) -> str:
        if self.age_outside:
            return "the patient's age is not one that the model was made for"
        strange = self.outlier is not None and self.outlier >= 1
        return "not like the images the model was made for" if strange else ""

    @property
    def _disagreement(self) -> str:
        if self.prediction_set is None or self.certain or self.answer is Answer.OUTSIDE:
            return ""
        if len(self.prediction_set) == 1:
            if self.probability >= self.threshold:
                return "above the threshold, but as low as in images without pneumonia"
            return "below the threshold, but as high as in images with pneumonia"
        return "either answer is possible" if self.prediction_set else "neither answer is likely"

    @property
    def likelihood(self) -> str:
        """The probability in words; where the answer is `outside`, that there is none."""
        if not self.answered:
            return "No probability is given for such an image"
        return f"Probability of pneumonia {self.probability_text}"

    @property
    def limit(self) -> str:
        """What the probability was held to; empty where there is none."""
        return f"threshold {self.threshold_text}, {self.operating_point}" if self.answered else ""

    @property
    def sentences(self) -> tuple[str, ...]:
        """The answer and what a reader needs beside it: probability, places and cautions, as far as there are any."""
        limit = f" ({self.limit})" if self.limit else ""
        where = f"Where: {self.places}." if self.places else ""
        caution = f"Caution: {self.caution}." if self.cautions else ""
        answer, likelihood = f"{self.answer.sentence}.", f"{self.likelihood}{limit}."
        return tuple(words for words in (answer, likelihood, where, caution) if words)

    @property
    def summary(self) -> str:
        """The sentences as one text."""
        return " ".join(self.sentences)


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
