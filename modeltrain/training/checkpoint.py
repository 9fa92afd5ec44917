"""The state of a training run: its history, the run whose weights it began with, and its teachers."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from dicom_io.errors import InvalidData
from modeltrain.model.card import SAFETENSORS, load_card

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from modeltrain.training.recipe import Recipe

BEST, LAST = "best_model.safetensors", "last.safetensors"
UNKNOWN = "unknown"  # the digest of data that a card does not name


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of a run's history; losses are weighted by class.

    `seconds` is what the epoch took; None where it is not known, as in a file of best weights.

    `validation_auc_weighted` is the AUC under overlap weights (`data.framing`); None where the recipe has none.
    """

    epoch: int
    side: int
    learning_rate: float
    train_loss: float
    validation_loss: float
    validation_auc: float
    seconds: float | None = None
    validation_auc_weighted: float | None = None


@dataclass(slots=True)
class Progress:
    """The state of a run. It stands in the header of both files.

    Attributes
    ----------
    start
        The progress of the run whose weights this one began with, as plain values; None if it began with none.
    parts
        The digest of each part of the data.
    teachers
        The progress of each run whose network taught this one, as plain values.
    kept_epoch
        The epoch whose weights a model holds, from its card; 0 if it is the best one.
    """

    recipe: dict[str, Any]
    data_digest: str
    history: list[Epoch] = field(default_factory=list)
    start: dict[str, Any] | None = None
    parts: list[str] = field(default_factory=list)
    teachers: list[dict[str, Any]] = field(default_factory=list)
    kept_epoch: int = 0

    @property
    def best(self) -> Epoch:
        """The epoch with the highest validation AUC, under overlap weights if the recipe draws by them.

        Only epochs with the largest images so far count. After a few small ones the average still resembles the weights
        that the run began with. The AUC counts and not the loss: thresholds are chosen afterwards, so only the order
        of the probabilities matters.
        """
        return max(self.history, key=lambda line: (line.side, line.validation_auc_weighted or line.validation_auc))

    def to_json(self, *, timed: bool = True) -> str:
        """Return the header's text. Without times, the same run on the same machine gives the same text."""
        return json.dumps(asdict(self) if timed else _untimed(asdict(self)))

    @classmethod
    def from_json(cls, text: str) -> Progress:
        """Read the header's text."""
        raw = json.loads(text)
        return cls(**raw | {"history": [Epoch(**line) for line in raw["history"]]})


def _untimed(run: dict[str, Any]) -> dict[str, Any]:
    """Return plain values of a run, its predecessors and its teachers, without times."""
    history = [{key: value for key, value in line.items() if key != "seconds"} for line in run["history"]]
    start = run.get("start")
    teachers = [_untimed(each) for each in run.get("teachers") or []]
    return run | {"history": history, "start": _untimed(start) if start else None, "teachers": teachers}


def read_progress(path: Path) -> Progress:
    """Read a run's state from one of its files.

    Raises
    ------
    InvalidData
        The file is missing, damaged or not written by a training run.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return Progress.from_json(file.metadata()["progress"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InvalidData(f"{path}: not a file of a training run ({error})") from error


def with_times(progress: Progress, last: Path) -> Progress:
    """Return a run's progress with the seconds from its other file, if that is there and of the same run."""
    try:
        state = read_progress(last)
    except InvalidData:
        return progress
    if (state.recipe, state.data_digest) != (progress.recipe, progress.data_digest):
        return progress
    times = {line.epoch: line.seconds for line in state.history}
    history = [replace(line, seconds=times.get(line.epoch)) for line in progress.history]
    return replace(progress, history=history, start=state.start, teachers=state.teachers)


def origin_of(start: Path, recipe: Recipe, parts: Sequence[str]) -> dict[str, Any]:
    """Return the progress, as plain values, of the run that made weights to begin with or to be taught by.

    Raises
    ------
    InvalidData
        That run, a predecessor or a teacher of it learnt from a part of this run's data with another split. Or the
        weights are not of a training run.
    InvalidModel
        The weights are in a folder that is no intact model.
    """
    origin = progress_of(start)
    divided_by = ("seed", "validation_fraction")
    run = asdict(origin)
    for earlier in lineage(run):
        shared = {earlier["data_digest"], *(earlier.get("parts") or [])} & set(parts)
        if shared and any(earlier["recipe"][key] != getattr(recipe, key) for key in divided_by):
            raise InvalidData(
                f"{start}: has seen patients that are for validation here; use its {' and '.join(divided_by)}"
            )
    return run


def progress_of(weights: Path) -> Progress:
    """Return the progress of the run that made weights, which are a run's file or a model folder's.

    Raises
    ------
    InvalidData
        The file is not of a training run.
    InvalidModel
        The folder is no intact model.
    """
    return progress_of_model(weights.parent) if weights.name == SAFETENSORS else read_progress(weights)


def lineage(run: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a run, its predecessors and its teachers, and theirs, as plain values."""
    yield run
    for earlier in (run.get("start"), *(run.get("teachers") or [])):
        if earlier:
            yield from lineage(earlier)


def same_run(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether plain values are of one run, whatever they hold of earlier ones.

    They are compared as texts: a loss that a model's card does not hold is NaN, which does not equal itself.
    """

    def own(run: dict[str, Any]) -> list[str]:
        keys = ("recipe", "data_digest", "history", "parts")
        return [json.dumps(run.get(key) or None, sort_keys=True) for key in keys]

    return own(one) == own(other)


def only_own_data(progress: Progress) -> bool:
    """Return whether all predecessors and teachers of a run had only its data."""
    own = {progress.data_digest} | _parts(asdict(progress))
    return all(_parts(each) <= own for each in lineage(asdict(progress)))


def teachers_had_known_data(progress: Progress) -> bool:
    """Return whether all teachers had only the run's data and that of its predecessors."""
    data = {progress.data_digest} | _parts(asdict(progress))
    for each in lineage(progress.start) if progress.start else ():
        data |= _parts(each) - {UNKNOWN}
    others = [each for each in progress.teachers if not progress.start or not same_run(each, progress.start)]
    return all(_parts(each) <= data for teacher in others for each in lineage(teacher))


def _parts(run: dict[str, Any]) -> set[str]:
    """Return the digests of the parts of a run's data."""
    return set(run.get("parts") or [run["data_digest"]])


def progress_of_model(folder: Path) -> Progress:
    """Return the progress of the run that made a model folder, from its card.

    Raises
    ------
    InvalidModel
        The folder is no intact model.
    """
    raw = load_card(folder).raw
    digests = raw["data"]["sha256"]
    return _of_card(raw["training"], digests["training"], digests.get("parts") or [])


def _of_card(run: dict[str, Any], digest: str, parts: list[str]) -> Progress:
    """Return the progress of a run and of those before it from a card (`export.card_contents`)."""
    weighted = run.get("validation_auc_alike") or [None] * len(run["side"])
    columns = (run["side"], run["learning_rate"], run["validation_loss"], run["validation_auc"], weighted)
    seconds = run["hours"] and 3600 * run["hours"] / run["epochs"]
    history = [
        Epoch(number, side, rate, math.nan, loss, auc, seconds, same)
        for number, (side, rate, loss, auc, same) in enumerate(zip(*columns, strict=True), start=1)
    ]

    def earlier(run: dict[str, Any]) -> dict[str, Any]:
        return asdict(_of_card(run, run.get("data", UNKNOWN), run.get("parts") or []))

    start = earlier(run["began_with"]) if run.get("began_with") else None
    teachers = [earlier(each) for each in run.get("teachers") or []]
    return Progress(run["recipe"], digest, history, start, parts, teachers, run["best_epoch"])
