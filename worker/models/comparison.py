"""Two models on the same labelled radiographs, of which neither was trained on any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dicom_io.errors import InvalidData
from modeltrain.data.seen_images import UnseenImages, unseen_images
from modeltrain.evaluation.compare import Comparison, MapComparison, compare, compare_maps
from modeltrain.evaluation.evaluate import answers_of
from modeltrain.evaluation.faithfulness import cases_of, chosen, judge_maps
from modeltrain.model.decision import Decider
from worker.inference.engine import open_engine
from worker.models.training_data import evaluation_data

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modeltrain.evaluation.evaluate import Answers, Predict
    from modeltrain.model.card import Card
    from worker.settings import Settings


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """The differences between two models, and the images on which they were found.

    Attributes
    ----------
    maps
        The differences between their maps, of at most a hundred images of each class; None: these cannot be judged.
    maps_note
        Why they cannot; empty otherwise.
    """

    comparison: Comparison
    images: UnseenImages
    maps: MapComparison | None
    maps_note: str = ""

    @property
    def notes(self) -> list[str]:
        """What a person must know of the images, one line each."""
        return [*self.images.notes(), *filter(None, [self.maps_note])]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        maps = self.maps.to_dict() if self.maps else None
        return self.comparison.to_dict() | {"maps": maps} | self.images.to_dict()


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
    keep = chosen(images.samples)
    deciders = [Decider(card, settings.model.operating_point, settings.model.threshold) for card in (old, new)]
    predicts = [open_engine(card, settings.model).predict for card in (old, new)]
    answers = [
        answers_of(predict, images.samples, decider=decider, size=card.input_size, keep=keep)
        for card, decider, predict in zip((old, new), deciders, predicts, strict=True)
    ]
    try:
        comparison = compare(answers[0], answers[1], (deciders[0].threshold, deciders[1].threshold))
    except InvalidData as error:
        raise InvalidData("; ".join([str(error), *images.notes()])) from error
    try:
        return PairedComparison(comparison, images, _compared_maps(answers, predicts, deciders))
    except InvalidData as error:
        return PairedComparison(comparison, images, None, f"heatmaps are not compared: {error}")


def _compared_maps(
    answers: Sequence[Answers], predicts: Sequence[Predict], deciders: Sequence[Decider]
) -> MapComparison:
    """Compare two models' maps by the same lungs: the old model's, or the new one's where the old looks for none.

    Raises
    ------
    InvalidData
        The models see images of different sizes, or too few lungs are found.
    """
    first, second = (list(each.images.values()) for each in answers)
    if first[0].shape != second[0].shape:
        raise InvalidData("the models see images of different sizes")
    cases = cases_of(first, [answers[0].samples[index] for index in answers[0].images], predicts)
    each = zip(predicts, deciders, strict=True)
    return compare_maps(
        *(judge_maps(predict, cases, threshold=decider.threshold, decider=decider) for predict, decider in each)
    )
