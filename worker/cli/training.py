"""`cxrd train`, `train-lungs`, `retrain` and `evaluate`: a new model, and what one is worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from worker.cli import options, output
from worker.defaults import MODEL_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modeltrain.data.sources import Sources
    from worker.models.evaluation import EvaluationResult

_MEASURES = ("n", "auc", "sensitivity", "specificity", "accuracy", "precision", "f1", "threshold", "model")


def train(
    data: Annotated[Path, typer.Option("--data", help="Folder with train/NORMAL and train/PNEUMONIA")],
    out: options.RunFolder,
    recipe: Annotated[
        str,
        typer.Option(
            help="`seed`: from random weights; `teacher`: EfficientNet-Lite0 from ImageNet weights, to teach and not to"
            " serve; `lungs`: looks at the lungs alone, as the shipped model, with --init imagenet; `robust` and"
            " `standardized`: meant for `cxrd retrain`, which begins with a model's weights"
        ),
    ] = "seed",
    init: Annotated[
        Literal["random", "imagenet"] | None, typer.Option(help="Weights to begin with [default: the recipe's]")
    ] = None,
    epochs: options.Epochs = None,
    seed: options.Seed = None,
    arch: Annotated[
        str | None, typer.Option(help="The network's architecture, see docs/training.md [default: the recipe's]")
    ] = None,
    lungs: Annotated[
        Path | None,
        typer.Option(help="Weights that find lungs: a file, run or model folder [default: the shipped model's]"),
    ] = None,
    device: options.Device = "auto",
    resume: options.Resume = False,
    name: Annotated[
        str | None, typer.Option(help="Name of the model [default: cxr-pneumonia- and the architecture]")
    ] = None,
    version: options.ModelVersion = MODEL_VERSION,
    ages: options.Ages = None,
) -> None:
    """Train a model on a folder of labelled radiographs (needs the extra `train`).

    The validation set is taken from `train`, whole patients at a time. A `test` folder is never opened. The model lands
    in OUT/NAME-VERSION and does not serve yet: `cxrd models add` copies it, `cxrd models compare` compares it with the
    serving model, and `cxrd models promote` lets it serve.
    """
    from worker.extras import require

    require("train", "cxrd train")
    from worker import logs
    from worker.models.retraining import Changes, TrainingRequest
    from worker.models.retraining import train as run

    logs.configure("warning", "auto")
    request = TrainingRequest(
        data=data,
        out=out,
        recipe=recipe,
        changes=Changes(init=init, arch=arch, epochs=epochs, seed=seed),
        device=device,
        resume=resume,
        lungs=lungs,
        name=name,
        version=version,
        ages=ages,
    )
    output.line(f"Model: {run(request)}")


def train_lungs(
    data: Annotated[Path, typer.Option("--data", help="Folder with train/NORMAL and train/PNEUMONIA")],
    masks: Annotated[
        Path, typer.Option("--masks", help="Folder with a PNG for each image: same place, name and size; white is lung")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for lungs.safetensors")],
    epochs: options.Epochs = None,
    seed: options.Seed = None,
    credit: Annotated[str, typer.Option(help="Who drew the masks and their licence, for models' cards")] = "",
) -> None:
    """Train the network that finds lungs, from masks that people drew (needs the extra `train`).

    Patients are set aside for validation as by `cxrd train`. Images without a mask are left out. Give OUT to `cxrd
    retrain --lungs` or to `cxrd train --recipe lungs --lungs`. It takes about half an hour for 5,000 images.
    """
    from worker.extras import require

    require("train", "cxrd train-lungs")
    import dataclasses

    from modeltrain.training import lungs
    from modeltrain.training.lung_weights import LUNGS
    from worker import logs

    logs.configure("warning", "auto")
    default = lungs.LungRecipe()
    recipe = dataclasses.replace(default, epochs=epochs or default.epochs, seed=default.seed if seed is None else seed)
    record = lungs.run(data, masks, out, recipe, credit=credit)
    rows = (
        ("images for training", str(record.train)),
        ("images for validation", str(record.validation)),
        ("images without a mask, left out", str(record.without_mask)),
        ("Dice on validation: mean", f"{record.dice.mean:.4f}"),
        ("Dice on validation: least", f"{record.dice.least:.4f}"),
        ("Dice on validation, reframed: mean", f"{record.dice_reframed.mean:.4f}"),
        ("Dice on validation, reframed: least", f"{record.dice_reframed.least:.4f}"),
    )
    output.table(("measure", "value"), rows, 80)
    output.line(f"Weights: {out / LUNGS}")


def retrain(
    data: options.TrainingData,
    out: options.RunFolder,
    base: Annotated[Path | None, typer.Option(help="A folder to mix the images with, as for `cxrd train`")] = None,
    start: Annotated[str, typer.Option("--from", help="Weights to begin with: current, scratch, or a model folder")] = (
        "current"
    ),
    recipe: Annotated[
        str | None,
        typer.Option(
            help="`lungs`: for a model that looks at the lungs, as the shipped one; `robust`: for another one;"
            " `standardized`: with a --teacher; `seed` and `teacher`: with --from scratch [default: lungs or robust, as"
            " the model; seed with --from scratch]"
        ),
    ] = None,
    lungs: Annotated[
        Path | None,
        typer.Option(
            help="Weights that find lungs: a file, run or model folder [default: those of the model it begins with]"
        ),
    ] = None,
    teacher: Annotated[
        list[Path] | None,
        typer.Option(help="Run or model folder of a teacher (recipe standardized); may be repeated"),
    ] = None,
    arch: Annotated[str | None, typer.Option(help="With --from scratch: the network's architecture")] = None,
    epochs: options.Epochs = None,
    patience: Annotated[int | None, typer.Option(min=0, help="Stop after so many epochs without progress")] = None,
    seed: options.Seed = None,
    device: options.Device = "auto",
    outliers: Annotated[
        Path | None, typer.Option(help="Folder of other radiographs, to tell what is out of distribution")
    ] = None,
    skip_unreadable: Annotated[bool, typer.Option("--skip-unreadable", help="Leave out what cannot be read")] = False,
    resume: options.Resume = False,
    name: Annotated[str, typer.Option(help="Name of the model")] = "cxr-pneumonia-site",
    version: options.ModelVersion = MODEL_VERSION,
    ages: options.Ages = None,
    config: options.Config = None,
) -> None:
    """Train a model on local images, from the serving model's weights (needs the extra `train`).

    Every image is read once before the first epoch. The new model does not serve yet: `cxrd models add` copies it,
    `cxrd models promote` compares it with the serving one.
    """
    from worker.extras import require

    require("train", "cxrd retrain")
    from worker.models.retraining import Changes, NewModel, RetrainingRequest, Watch
    from worker.models.retraining import retrain as run

    request = RetrainingRequest(
        data=data,
        model=NewModel(out, name, version, ages),
        base=base,
        start=start,
        recipe=recipe,
        changes=Changes(arch=arch, epochs=epochs, patience=patience, seed=seed),
        teachers=tuple(teacher or ()),
        out_of_distribution=outliers,
        device=device,
        skip_unreadable=skip_unreadable,
        resume=resume,
        lungs=lungs,
    )
    settings = options.load(config)
    with output.advancing("checking images") as (advance, end):

        def data_read(sources: Sources) -> None:
            end()
            output.note(f"{sources.name}: {sum(len(part.samples) for part in sources.parts)} images")

        folder = run(settings, request, Watch(advance, data_read))
    output.line(f"Model: {folder}")


def evaluate(
    data: options.TestData,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for report.html and the figures")],
    as_json: options.Json = False,
    config: options.Config = None,
) -> None:
    """Judge the serving model and its heatmaps on labelled radiographs: measures, figures, a report. Needs no torch.

    Of a folder, `test` is used if it has one. Of a CSV file, the rows whose split is test, or else validation; without
    that column all rows. The report is one page that holds everything. At most a hundred images of each class judge the
    heatmaps, in at most 2,700 further forward passes.
    """
    from worker.extras import require

    require("evaluate", "cxrd evaluate")
    from worker.models.evaluation import EvaluationRequest
    from worker.models.evaluation import evaluate as run

    settings = options.load(config)
    with output.advancing("reading") as (advance, _):
        result = run(settings, EvaluationRequest(data, out), advance)
    for text in result.notes:
        output.note(text)
    if as_json:
        output.json_value(result.to_dict())
    else:
        _show(result)


def _show(result: EvaluationResult) -> None:
    values = ((measure, getattr(result.evaluation, measure)) for measure in _MEASURES)
    rows = ((name, f"{value:.4f}" if isinstance(value, float) else str(value)) for name, value in values)
    output.table(("measure", "value"), rows, 80)
    maps = result.details["heatmaps"]
    if maps:
        output.table(("heatmaps", "value", "95 % interval", "images"), _map_rows(maps["measures"]), 100)
    for path in result.files:
        output.line(str(path))


def _map_rows(measures: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    from modeltrain.evaluation.faithfulness import MEASURES

    for name, words in MEASURES.items():
        each = measures[name]
        if each["value"] is None:
            yield words, "–", "", str(each["n"])
        else:
            yield words, f"{each['value']:.3f}", "{:.3f} to {:.3f}".format(*each["ci"]), str(each["n"])
