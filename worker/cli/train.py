"""`cxrd train` and `cxrd evaluate`: a new model, and what one is worth."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dicom_io.errors import InvalidSettings, OutOfResources
from worker import settings

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", envvar="CXRD_CONFIG", help="Settings file")]


def train(
    data: Annotated[Path, typer.Option("--data", help="Folder with train/NORMAL and train/PNEUMONIA")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run: checkpoints, TensorBoard, the model")],
    recipe: Annotated[
        str,
        typer.Option(
            help="seed (random weights) or teacher (ImageNet weights, to teach); robust and standardized go on from "
            "a model's weights (cxrd retrain)"
        ),
    ] = "seed",
    init: Annotated[
        Literal["random", "imagenet"] | None, typer.Option(help="Weights to begin with [default: the recipe's]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's")] = None,
    arch: Annotated[
        str | None, typer.Option(help="Another classifier (docs/training.md) [default: the recipe's, resnet18]")
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train")] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last finished epoch of the run in --out")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="Name of the model [default: cxr-pneumonia- and the architecture]")
    ] = None,
    version: Annotated[str, typer.Option(help="Version of the model, made of digits")] = "0.0.0",
    ages: Annotated[
        tuple[float, float] | None, typer.Option(help="Least and greatest age of the population, in completed years")
    ] = None,
) -> None:
    """Train a model on a folder of labelled radiographs and export it for serving (needs the extra `train`).

    The validation set is split off `train` by patient; a `test` folder is never opened. The model lands in
    OUT/NAME-VERSION; serve it with `model.folder` in config.yaml, after `cxrd evaluate` has told what it is worth.
    """
    try:
        import torch  # noqa: F401

        from modeltrain.export import export
        from modeltrain.training import recipe as recipes
        from modeltrain.training import train as training
    except ModuleNotFoundError as error:
        raise InvalidSettings(f"training needs {error.name}: pip install 'cxrd[train]'") from error
    chosen = recipes.recipe_named(recipe, init=init, epochs=epochs, seed=seed)
    if arch is not None:
        chosen = dataclasses.replace(chosen, arch=arch)
    name = name or f"cxr-pneumonia-{chosen.arch.replace('_', '-')}"
    if (out / f"{name}-{version}").exists():  # said before the hours of training, not after
        raise InvalidSettings(f"{out / f'{name}-{version}'}: exists already; name another --version")
    weights = training.run(data, out, chosen, resume=resume, device=device)
    folder = export.export_model(weights, data, out, name=name, version=version, ages=ages)
    sys.stdout.write(f"model: {folder}\n")


def evaluate(
    data: Annotated[
        str,
        typer.Option(
            "--data", help="Folder with NORMAL/ and PNEUMONIA/, or with test/ that holds them; a CSV file; or AUDIT"
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the figures are written (PNG)")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output")] = False,
    config: ConfigOption = None,
) -> None:
    """Judge the serving model on labelled radiographs: metrics, figures and a report. Needs no torch.

    --data takes what `cxrd retrain` takes: of a CSV file the rows whose split is test (or else validation; without the
    column all), and by AUDIT the received images on which a reader has spoken. The folder of --out gets report.html,
    one page that holds everything, and the figures as PNG.
    """
    try:
        from modeltrain.data.duplicates import near_duplicates
        from modeltrain.data.seen_images import INCOMPLETE, seen_by, seen_images_of
        from modeltrain.evaluation import evaluate as judging
        from modeltrain.evaluation import figures, report
        from modeltrain.evaluation.subgroups import details
    except ModuleNotFoundError as error:
        raise InvalidSettings(f"evaluation needs {error.name}: pip install 'cxrd[evaluate]'") from error
    from worker.inference.analyzer import Reader
    from worker.inference.serving import model_folder
    from worker.models.training_data import judged_data

    loaded = settings.load(config)
    judged = judged_data(loaded, data)
    try:
        out.mkdir(parents=True, exist_ok=True)  # said before all images are read, not after
    except OSError as error:
        raise OutOfResources(f"{out}: cannot be written ({error.strerror})") from error
    reader = Reader(loaded, model_folder(loaded))
    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)
        evaluation, answers = judging.evaluate(
            reader.engine.predict,
            judged.source.samples,
            threshold=reader.threshold,
            model=reader.card.label,
            decider=reader.decider,
            size=reader.card.input_size,
            advance=lambda done, total: bar.update(task, completed=done, total=total),
        )
    reader.close()
    known = seen_by(reader.card, judged.source)
    learnt_from = None if known is None else int(known.sum())
    points = {reader.decider.operating_point: reader.threshold} | reader.decider.points
    further = details(answers, evaluation, points)
    written = figures.write_figures(answers, evaluation, out, points)
    duplicates = near_duplicates(judged.source.samples, judged.others) if judged.others else None
    contents = report.Report(
        evaluation,
        further,
        written,
        reader.card,
        reader.engine.name,
        data=judged.source.name,
        learnt_from=learnt_from,
        duplicates=duplicates,
    )
    page = report.write_report(contents, out)
    if learnt_from:
        sys.stderr.write(f"{reader.card.label} has learnt from {learnt_from} of these images: they flatter it\n")
    own = seen_images_of(reader.card)
    if own and not own.complete:
        sys.stderr.write(f"{reader.card.label}: {INCOMPLETE}\n")
    if as_json:
        told = {"data": {"name": judged.source.name, "sha256": judged.source.digest, "learnt_from": learnt_from}}
        told |= further | {"near_duplicates": duplicates.to_dict() if duplicates else None}
        sys.stdout.write(json.dumps(evaluation.to_dict() | told, indent=2) + "\n")
        return
    table = Table("measure", "value")
    for measure in ("n", "auc", "sensitivity", "specificity", "accuracy", "precision", "f1", "threshold", "model"):
        value = getattr(evaluation, measure)
        table.add_row(measure, f"{value:.4f}" if isinstance(value, float) else str(value))
    Console(width=None if sys.stdout.isatty() else 80).print(table)
    for path in (page, *written):
        sys.stdout.write(f"{path}\n")
