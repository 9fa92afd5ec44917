"""What the serving model is worth on labelled radiographs: metrics, figures and a report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_io.errors import InvalidData, OutOfResources
from modeltrain.data.duplicates import near_duplicates
from modeltrain.data.seen_images import INCOMPLETE, seen_by, seen_images_of
from modeltrain.evaluation import evaluate as judging
from modeltrain.evaluation import faithfulness, figures, report
from modeltrain.evaluation.subgroups import details
from worker.inference.analyzer import Reader
from worker.inference.serving import model_folder
from worker.models.training_data import evaluation_data

if TYPE_CHECKING:
    from modeltrain.data.duplicates import Duplicates
    from modeltrain.data.sources import Source
    from modeltrain.evaluation.evaluate import Answers, Evaluation
    from worker.settings import Settings


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """Which labelled radiographs, see `worker.models.training_data`, and the folder for the report and its figures."""

    data: str
    out: Path


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What came of an evaluation.

    Attributes
    ----------
    seen_images
        How many of the images the model has learnt from; None where that is not known.
    details
        Subgroups, thresholds and the like, see `modeltrain.evaluation.subgroups.details`; as `heatmaps` what maps are
        worth, see `modeltrain.evaluation.faithfulness.Faithfulness.to_dict`, or None where these cannot be judged.
    duplicates
        Images that look alike in the set and in the training data beside it; None where there is no such data.
    files
        The report's page, then the figures.
    notes
        What a person must know of the figures, one line each.
    """

    evaluation: Evaluation
    source: Source
    seen_images: int | None
    details: dict[str, Any]
    duplicates: Duplicates | None
    files: tuple[Path, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        data = {"name": self.source.name, "sha256": self.source.digest, "learnt_from": self.seen_images}
        duplicates = self.duplicates.to_dict() if self.duplicates else None
        return self.evaluation.to_dict() | {"data": data} | self.details | {"near_duplicates": duplicates}


def evaluate(
    settings: Settings, request: EvaluationRequest, advance: Callable[[int, int], None] = lambda _done, _total: None
) -> EvaluationResult:
    """Judge the serving model, and write the report and its figures.

    Parameters
    ----------
    advance
        Called with the number of steps done, and of all: each image is read, then some images' maps are judged.

    Raises
    ------
    InvalidData, InvalidModel, OutOfResources
        The images or the model cannot be used, or the folder cannot be written to.
    """
    radiographs = evaluation_data(settings, request.data)
    try:
        request.out.mkdir(parents=True, exist_ok=True)  # before all images are read, not after
    except OSError as error:
        raise OutOfResources(f"{request.out}: cannot be written ({error.strerror})") from error
    reader = Reader(settings, model_folder(settings))
    samples = radiographs.source.samples
    keep = faithfulness.chosen(samples)
    evaluation, answers = judging.evaluate(
        reader.engine.predict,
        samples,
        threshold=reader.threshold,
        model=reader.card.label,
        decider=reader.decider,
        size=reader.card.input_size,
        keep=keep,
        advance=lambda done, _: advance(done, len(samples) + len(keep)),
    )
    maps, problem = _judged_maps(reader, answers, lambda done: advance(len(samples) + done, len(samples) + len(keep)))
    reader.close()
    flags = seen_by(reader.card, radiographs.source)
    seen_count = None if flags is None else int(flags.sum())
    points = {reader.decider.operating_point: reader.threshold} | reader.decider.points
    further = details(answers, evaluation, points) | {"heatmaps": maps.to_dict() if maps else None}
    pictures = figures.write_figures(answers, evaluation, request.out, points, maps.lungs if maps else None)
    duplicates = near_duplicates(radiographs.source.samples, radiographs.others) if radiographs.others else None
    contents = report.Report(
        evaluation,
        further,
        pictures,
        reader.card,
        reader.engine.name,
        data=radiographs.source.name,
        learnt_from=seen_count,
        duplicates=duplicates,
    )
    page = report.write_report(contents, request.out)
    files = (page, *pictures)
    notes = (*_notes(reader, seen_count), *filter(None, [problem]))
    return EvaluationResult(evaluation, radiographs.source, seen_count, further, duplicates, files, notes)


def _judged_maps(
    reader: Reader, answers: Answers, advance: Callable[[int], None]
) -> tuple[faithfulness.Faithfulness | None, str]:
    """Judge the maps of those images that were kept; return None and why where that cannot be done."""
    try:
        cases = faithfulness.cases_of(
            list(answers.images.values()), [answers.samples[index] for index in answers.images], [reader.engine.predict]
        )
    except InvalidData as error:
        return None, f"{reader.card.label}: {error}"
    judged = faithfulness.judge_maps(
        reader.engine.predict,
        cases,
        threshold=reader.threshold,
        decider=reader.decider,
        advance=lambda done, _: advance(done),
    )
    return judged, ""


def _notes(reader: Reader, seen_count: int | None) -> list[str]:
    notes = []
    if seen_count:
        notes.append(
            f"{reader.card.label} was trained on images of this set: the figures are too good. Images: {seen_count}"
        )
    seen_images = seen_images_of(reader.card)
    if seen_images and not seen_images.complete:
        notes.append(f"{reader.card.label}: {INCOMPLETE}")
    return notes
