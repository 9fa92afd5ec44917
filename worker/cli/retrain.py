"""`cxrd retrain`: a new model from local images and readers' verdicts."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from dicom_io.errors import InvalidSettings
from worker import settings

if TYPE_CHECKING:
    from modeltrain.data.sources import Sources
    from modeltrain.training.recipe import Recipe
    from worker.settings import Settings

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", envvar="CXRD_CONFIG", help="Settings file")]


def retrain(
    data: Annotated[str, typer.Option(help="A folder with NORMAL/ and PNEUMONIA/, a CSV file, or the word AUDIT")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run: checkpoints, TensorBoard, the model")],
    base: Annotated[Path | None, typer.Option(help="A folder to mix the images with, as for `cxrd train`")] = None,
    start: Annotated[str, typer.Option("--from", help="current, scratch, or a model folder")] = "current",
    recipe: Annotated[str | None, typer.Option(help="[default: robust, or seed with --from scratch]")] = None,
    teacher: Annotated[
        list[Path] | None,
        typer.Option(help="A run or model folder that teaches (recipe standardized); may be given again"),
    ] = None,
    arch: Annotated[str | None, typer.Option(help="With --from scratch: the network's architecture")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's")] = None,
    patience: Annotated[int | None, typer.Option(min=0, help="Stop after so many epochs without progress")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train")] = "auto",
    outliers: Annotated[Path | None, typer.Option(help="Radiographs of other populations, for the gate")] = None,
    skip_unreadable: Annotated[bool, typer.Option("--skip-unreadable", help="Leave out what cannot be read")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last finished epoch in --out")] = False,
    name: Annotated[str, typer.Option(help="Name of the model")] = "cxr-pneumonia-site",
    version: Annotated[str, typer.Option(help="Version of the model, made of digits")] = "0.0.0",
    ages: Annotated[
        tuple[float, float] | None, typer.Option(help="Least and greatest age of the population, in completed years")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Train a model on local images, beginning with the current one's weights (needs the extra `train`).

    AUDIT takes the received images on which a reader has spoken (`cxrd feedback`). Every image is read once before the
    first epoch. The new model does not serve: `cxrd models add`, then `cxrd models promote` compares it with the
    current one on locked radiographs.
    """
    try:
        import torch  # noqa: F401

        from modeltrain.export import export
        from modeltrain.training import train as training
        from modeltrain.training.teachers import check_teachers, weights_in
    except ModuleNotFoundError as error:
        raise InvalidSettings(f"training needs {error.name}: pip install 'cxrd[train]'") from error
    loaded = settings.load(config)
    if (out / f"{name}-{version}").exists():  # said before the hours of training, not after
        raise InvalidSettings(f"{out / f'{name}-{version}'}: exists already; name another --version")
    weights_before, chosen = _beginning(loaded, start, recipe, arch)
    chosen = _changed(chosen, epochs=epochs, patience=patience, seed=seed)
    teachers = [weights_in(path) for path in teacher or ()]
    check_teachers(chosen, weights_before, teachers)  # before every image is read
    sources = _sources(loaded, data, base, skip=skip_unreadable)
    sys.stderr.write(f"{sources.name}: {sum(len(part.samples) for part in sources.parts)} images\n")
    weights = training.run(sources, out, chosen, start=weights_before, teachers=teachers, resume=resume, device=device)
    began_with = weights_before.parent if weights_before else None
    folder = export.export_model(
        weights, sources, out, name=name, version=version, outliers=outliers, ages=ages, began_with=began_with
    )
    sys.stdout.write(f"model: {folder}\n")


def _beginning(loaded: Settings, start: str, recipe: str | None, arch: str | None) -> tuple[Path | None, Recipe]:
    """Return the weights to begin with and the recipe, of the same architecture."""
    from modeltrain.model.card import SAFETENSORS, load_card
    from modeltrain.training.recipe import recipe_named
    from worker.inference.serving import model_folder

    if start == "scratch":
        chosen = recipe_named(recipe or "seed")
        return None, chosen if arch is None else dataclasses.replace(chosen, arch=arch)
    folder = model_folder(loaded) if start == "current" else Path(start)
    card = load_card(folder)
    if arch not in (None, card.arch):
        raise InvalidSettings(f"--arch {arch}: {card.label} is a {card.arch}; another architecture begins from scratch")
    chosen = recipe_named(recipe or "robust")
    if chosen.init != "random" and chosen.arch != card.arch:
        raise InvalidSettings(f"recipe {recipe}: begins with published weights, not with a model's: --from scratch")
    # A model that looks at mirror images goes on doing so: half of its answer would be missed otherwise.
    chosen = dataclasses.replace(chosen, arch=card.arch, mirror=chosen.mirror or card.mirror)
    return folder / SAFETENSORS, chosen


def _changed(recipe: Recipe, *, epochs: int | None, patience: int | None, seed: int | None) -> Recipe:
    """Return the recipe with what the command line says instead."""
    if epochs is not None:
        recipe = dataclasses.replace(recipe, stages=((epochs, recipe.stages[-1][1]),))
    if patience is not None:
        recipe = dataclasses.replace(recipe, patience=patience)
    return recipe if seed is None else dataclasses.replace(recipe, seed=seed)


def _sources(loaded: Settings, data: str, base: Path | None, *, skip: bool) -> Sources:
    """Return the training data, every image of it read once."""
    from modeltrain.data.sources import Sources, folder_source, readable
    from worker.models.training_data import training_data

    parts = [training_data(loaded, data), *([folder_source(base)] if base else [])]
    columns = (TextColumn("checking images"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=sum(len(part.samples) for part in parts))
        read = [readable(part, skip=skip, advance=lambda: bar.advance(task)) for part in parts]
    return Sources(tuple(read))
