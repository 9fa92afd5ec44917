"""The state of a training run: its history, the run whose weights it began with, and its teachers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from dicom_io.errors import InvalidData, InvalidModel
from modeltrain.model.card import CARD, SAFETENSORS, load_card
from modeltrain.model.registry import version_name
from modeltrain.training.lineage import UNKNOWN, Ancestor, line_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from modeltrain.model.card import Card
    from modeltrain.training.lung_weights import LungRecord
    from modeltrain.training.recipe import Recipe

BEST, LAST = "best_model.safetensors", "last.safetensors"


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
    parts
        The digest of each part of the data.
    began_with
        The digest of the run whose weights this one began with; empty for a run of its own.
    teachers
        The digest of each run whose network taught this one.
    ancestors
        These runs and all that went into them, each once.
    commit
        The source code that the run was begun with (`lineage.code_commit`).
    segmentation
        The record of the weights that find lungs (`lung_weights.LungRecord`), as plain values; empty where the network
        sees the whole image, or where there is no record.
    """

    recipe: dict[str, Any]
    data_digest: str
    history: list[Epoch] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    began_with: str = ""
    teachers: list[str] = field(default_factory=list)
    ancestors: list[Ancestor] = field(default_factory=list)
    commit: str = ""
    segmentation: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The run's identity: SHA-256 of its record without times, so that the same run has the same one."""
        return hashlib.sha256(self.to_json(timed=False).encode()).hexdigest()

    @property
    def arch(self) -> str:
        """The name of its architecture."""
        return str(self.recipe.get("arch", "resnet18"))

    @property
    def data_digests(self) -> set[str]:
        """The digests of its data, as a whole and by part."""
        return {self.data_digest, *self.parts}

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
        plain = asdict(self)
        if not timed:
            for line in plain["history"]:
                del line["seconds"]
        return json.dumps(plain)

    @classmethod
    def from_json(cls, text: str) -> Progress:
        """Read the header's text."""
        plain = json.loads(text)
        history = [Epoch(**line) for line in plain.pop("history")]
        ancestors = [Ancestor.from_dict(each) for each in plain.pop("ancestors")]
        return cls(**plain, history=history, ancestors=ancestors)


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
    return replace(progress, history=history)


def origin_of(weights: Path, recipe: Recipe, parts: Sequence[str]) -> list[Ancestor]:
    """Return the run that made weights to begin with or to be taught by, and then all that went into it.

    Raises
    ------
    InvalidData
        One of these runs learnt from a part of this run's data that was divided in another way; or the weights are not
        of a training run.
    InvalidModel
        The weights are in a folder that is no intact model.
    """
    origin = runs_behind(weights)
    for run in origin:
        divided_alike = (run.seed, run.validation_fraction) == (recipe.seed, recipe.validation_fraction)
        if {run.data, *run.parts} & set(parts) and not divided_alike:
            raise InvalidData(
                f"{weights}: has seen patients that are for validation here; use its seed and validation_fraction"
            )
    return origin


def runs_behind(weights: Path) -> list[Ancestor]:
    """Return the run that made weights, a run's file or a model folder's, and then all that went into it.

    Raises
    ------
    InvalidData
        The file is not of a training run.
    InvalidModel
        The folder is no intact model, or its card does not list its runs.
    """
    if weights.name == SAFETENSORS:
        return _runs_behind_model(load_card(weights.parent, serves=False))
    progress = read_progress(weights)
    own = Ancestor(
        run=progress.digest,
        model="",
        recipe=progress.recipe["name"],
        arch=progress.arch,
        seed=progress.recipe["seed"],
        validation_fraction=progress.recipe["validation_fraction"],
        data=progress.data_digest,
        parts=tuple(progress.parts),
        began_with=progress.began_with,
        teachers=tuple(progress.teachers),
        commit=progress.commit,
    )
    return [own, *progress.ancestors]


def _runs_behind_model(card: Card) -> list[Ancestor]:
    """Return the run that a model came from, and those before it, as its card lists them (`export.card_contents`)."""
    try:
        training, digests = card.raw["training"], card.raw["data"]["sha256"]
        own = Ancestor(
            run=training["run"],
            model=version_name(card),
            recipe=training["recipe"]["name"],
            arch=card.arch,
            seed=training["recipe"]["seed"],
            validation_fraction=training["recipe"]["validation_fraction"],
            data=digests["training"],
            parts=tuple(digests["parts"]),
            began_with=training["began_with"],
            teachers=tuple(training["teachers"]),
            commit=training["commit"],
        )
        return [own, *(Ancestor.from_dict(each) for each in training["ancestors"])]
    except (KeyError, TypeError) as error:
        raise InvalidModel(f"{card.folder / CARD}: does not list the runs that its weights come from") from error


def only_own_data(progress: Progress) -> bool:
    """Return whether all runs that went into this one had only its data."""
    return all(run.learnt_from <= progress.data_digests for run in progress.ancestors)


def teachers_had_known_data(progress: Progress) -> bool:
    """Return whether teachers learnt from no data but the run's own and that of the model that it began with."""
    data = _known_data(progress)
    others = [run for run in progress.teachers if run != progress.began_with]
    return all(run.learnt_from <= data for run in line_of(others, progress.ancestors))


def lungs_had_known_data(progress: Progress, record: LungRecord | None) -> bool:
    """Return whether the weights that find lungs learnt from no data but the run's and those of what it began with."""
    data = _known_data(progress)
    return record is not None and set(record.parts) <= data


def _known_data(progress: Progress) -> set[str]:
    """Return the digests of the run's data and of what the model that it began with had learnt from."""
    data = set(progress.data_digests)
    for run in line_of([progress.began_with], progress.ancestors):
        data |= run.learnt_from - {UNKNOWN}
    return data
