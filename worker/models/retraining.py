"""A new model from labelled images: trained from scratch or from another model's weights, and exported for serving."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dicom_io.errors import InvalidSettings
from modeltrain.data.sources import Sources, folder_source, readable
from modeltrain.export.export import NewVersion, export_model
from modeltrain.model.card import SAFETENSORS, load_card, shipped_model
from modeltrain.training import train as training
from modeltrain.training.beginnings import Beginnings, check_beginnings, weights_in
from modeltrain.training.recipe import recipe_named
from worker.defaults import MODEL_VERSION
from worker.inference.serving import model_folder
from worker.models.training_data import training_data

if TYPE_CHECKING:
    from modeltrain.training.recipe import Recipe
    from worker.settings import Settings

CURRENT, SCRATCH = "current", "scratch"
"""What a retraining may begin with, besides a model folder: the serving model's weights, or none."""


@dataclass(frozen=True, slots=True)
class NewModel:
    """Where a training run keeps its files, and how its model is called.

    Attributes
    ----------
    out
        Folder of the run; the model lands in ``out/name-version``.
    ages
        Least and greatest age of the population, in completed years.
    """

    out: Path
    name: str
    version: str = MODEL_VERSION
    ages: tuple[float, float] | None = None

    def check(self) -> None:
        """Make sure, before the hours of training, that the model's folder is free.

        Raises
        ------
        InvalidSettings
            It exists already.
        """
        folder = self.out / f"{self.name}-{self.version}"
        if folder.exists():
            raise InvalidSettings(f"{folder}: exists already; name another --version")


@dataclass(frozen=True, slots=True)
class Changes:
    """What replaces a recipe's own values; None leaves them."""

    init: Literal["random", "imagenet"] | None = None
    arch: str | None = None
    epochs: int | None = None
    patience: int | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """A training run on one folder of labelled radiographs.

    Attributes
    ----------
    lungs
        Weights that find lungs, for a recipe that looks at them: a file, a run's folder or a model's. None for the
        shipped model's.
    name
        None for one with the architecture's name in it.
    """

    data: Path
    out: Path
    recipe: str = "seed"
    changes: Changes = Changes()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    resume: bool = False
    lungs: Path | None = None
    name: str | None = None
    version: str = MODEL_VERSION
    ages: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class RetrainingRequest:
    """A training run on local images.

    Attributes
    ----------
    data
        A folder, a CSV file or the word AUDIT, see `worker.models.training_data`.
    base
        A folder of labelled radiographs that are mixed with the local ones.
    start
        `CURRENT`, `SCRATCH` or a model folder.
    recipe
        None for lungs or robust, as the model that it begins with looks at lungs or not; for seed from scratch.
    lungs
        Weights that find lungs: a file, a run's folder or a model's. None for those of the model that it begins with;
        for the shipped model's from scratch.
    teachers
        Run or model folders.
    out_of_distribution
        A folder of radiographs of other populations, for the out-of-distribution score.
    """

    data: str
    model: NewModel
    base: Path | None = None
    start: str = CURRENT
    recipe: str | None = None
    changes: Changes = Changes()
    teachers: tuple[Path, ...] = ()
    out_of_distribution: Path | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    skip_unreadable: bool = False
    resume: bool = False
    lungs: Path | None = None


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told how a retraining gets on: images checked so far and in all; and the data, when all were checked."""

    checked: Callable[[int, int], None] = lambda _done, _total: None
    data: Callable[[Sources], None] = lambda _: None


def train(request: TrainingRequest) -> Path:
    """Train a model and export it; return its folder.

    Raises
    ------
    InvalidSettings, InvalidData, OutOfResources
        What is asked for cannot be done; the message says what to change.
    """
    recipe = _recipe(request.recipe, request.changes)
    if request.changes.arch is not None:
        recipe = dataclasses.replace(recipe, arch=request.changes.arch)
    name = request.name or f"cxr-pneumonia-{recipe.arch.replace('_', '-')}"
    model = NewModel(request.out, name, request.version, request.ages)
    model.check()
    beginnings = Beginnings(lungs=_lungs(recipe, request.lungs))
    weights = training.run(request.data, request.out, recipe, beginnings, resume=request.resume, device=request.device)
    return export_model(weights, request.data, request.out, NewVersion(name, model.version, ages=model.ages))


def retrain(settings: Settings, request: RetrainingRequest, watch: Watch = Watch()) -> Path:
    """Train a model on local images and export it; return its folder. It does not serve before it is promoted.

    Raises
    ------
    InvalidSettings, InvalidData, InvalidModel, OutOfResources
        What is asked for cannot be done; the message says what to change.
    """
    request.model.check()
    beginnings, recipe = _beginnings(settings, request)
    check_beginnings(recipe, beginnings)  # before every image is read
    sources = checked_sources(settings, request, watch.checked)
    watch.data(sources)
    model, start = request.model, beginnings.start
    weights = training.run(sources, model.out, recipe, beginnings, resume=request.resume, device=request.device)
    new = NewVersion(
        model.name, model.version, request.out_of_distribution, model.ages, start.parent if start else None
    )
    return export_model(weights, sources, model.out, new)


def _beginnings(settings: Settings, request: RetrainingRequest) -> tuple[Beginnings, Recipe]:
    """Return the weights that go into a retraining, and a recipe of the same architecture."""
    arch = request.changes.arch
    teachers = tuple(weights_in(path) for path in request.teachers)
    if request.start == SCRATCH:
        recipe = _recipe(request.recipe or "seed", request.changes)
        recipe = recipe if arch is None else dataclasses.replace(recipe, arch=arch)
        return Beginnings(lungs=_lungs(recipe, request.lungs), teachers=teachers), recipe
    folder = model_folder(settings) if request.start == CURRENT else Path(request.start)
    card = load_card(folder, serves=False)
    if arch not in (None, card.arch):
        raise InvalidSettings(f"--arch {arch}: {card.label} is a {card.arch}; use --from scratch for another one")
    recipe = _recipe(request.recipe or ("lungs" if card.lungs else "robust"), request.changes)
    if recipe.init != "random" and recipe.arch != card.arch:
        raise InvalidSettings(f"recipe {request.recipe} begins with published weights: use --from scratch")
    if card.lungs and not recipe.lungs:
        raise InvalidSettings(
            f"recipe {recipe.name}: {card.label} looks at the lungs alone; use recipe lungs, or --from scratch"
        )
    lungs = weights_in(request.lungs) if request.lungs else None
    return Beginnings(folder / SAFETENSORS, lungs, teachers), dataclasses.replace(recipe, arch=card.arch)


def _lungs(recipe: Recipe, path: Path | None) -> Path | None:
    """Return the weights that find lungs, for a run that begins with no model: those that are named, or the shipped."""
    if path or not recipe.lungs:
        return weights_in(path) if path else None
    return shipped_model() / SAFETENSORS


def _recipe(name: str, changes: Changes) -> Recipe:
    """Return a recipe with the values that replace its own, but for the architecture."""
    recipe = recipe_named(name, init=changes.init, epochs=changes.epochs, seed=changes.seed)
    return recipe if changes.patience is None else dataclasses.replace(recipe, patience=changes.patience)


def checked_sources(
    settings: Settings, request: RetrainingRequest, checked: Callable[[int, int], None] = lambda _done, _total: None
) -> Sources:
    """Return the training data, every image of it read once; `checked` gets the images read so far, and all."""
    parts = [training_data(settings, request.data), *([folder_source(request.base)] if request.base else [])]
    total = sum(len(part.samples) for part in parts)
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        checked(done, total)

    return Sources(tuple(readable(part, skip=request.skip_unreadable, advance=advance) for part in parts))
