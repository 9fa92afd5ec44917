"""Two models on the same labelled radiographs, of which neither was trained on any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dicom_io.errors import InvalidData
from modeltrain.data.seen_images import UnseenImages, unseen_images
from modeltrain.evaluation.compare import Comparison, compare
from modeltrain.evaluation.evaluate import answers_of
from modeltrain.model.decision import Decider
from worker.inference.engine import open_engine
from worker.models.training_data import evaluation_data

if TYPE_CHECKING:
    from modeltrain.evaluation.evaluate import Answers
    from modeltrain.model.card import Card
    from worker.settings import Settings


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """The differences between two models, and the images on which they were found."""

    comparison: Comparison
    images: UnseenImages

    @property
    def notes(self) -> list[str]:
        """What a person must know of the images, one line each."""
        return self.images.notes()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return self.comparison.to_dict() | self.images.to_dict()


def compare_cards(settings: Settings, old: Card, new: Card, data: str) -> PairedComparison:
    """Let both models answer the labelled radiographs that neither was trained on.

    Parameters
    ----------
    data
        See `worker.models.training_data.evaluation_data`.

    Raises
    ------
    InvalidData
        The data cannot be used, or too few images are left.
    """
    images = unseen_images(evaluation_data(settings, data, beside=False).source, (old, new))
    answers: list[Answers] = []
    deciders = [Decider(card, settings.model.operating_point, settings.model.threshold) for card in (old, new)]
    for card, decider in zip((old, new), deciders, strict=True):
        engine = open_engine(card, settings.model)
        answers.append(answers_of(engine.predict, images.samples, decider=decider, size=card.input_size))
    try:
        comparison = compare(answers[0], answers[1], (deciders[0].threshold, deciders[1].threshold))
    except InvalidData as error:
        raise InvalidData("; ".join([str(error), *images.notes()])) from error
    return PairedComparison(comparison, images)
