"""`cxrd models`: which models are there, what they are worth, and which one serves."""

from __future__ import annotations

import getpass
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_io.errors import InvalidSettings
from worker.cli import options, output
from worker.defaults import LEAST_IMAGES, MARGIN

if TYPE_CHECKING:
    from worker.models.comparison import PairedComparison
    from worker.models.promotion import Exchange, Inventory, ShadowComparison

models = typer.Typer(
    help="List, compare, promote and roll back models.", no_args_is_help=True, rich_markup_mode="markdown"
)


@models.command("list")
def list_(as_json: options.Json = False, config: options.Config = None) -> None:
    """List the models that came with cxrd and those that were added. A star marks the serving one."""
    from worker.models.promotion import inventory

    contents = inventory(options.load(config))
    if as_json:
        for model in contents.models:
            output.json_value(asdict(model), indent=None)
    else:
        _show_inventory(contents)


def _show_inventory(contents: Inventory) -> None:
    output.table(
        ("", "name", "created", "validation AUC", "test AUC", "from"),
        (
            (
                "*" if model.serves else "",
                model.name,
                model.created[:10],
                *("–" if auc is None else f"{auc:.4f}" for auc in (model.validation_auc, model.test_auc)),
                "cxrd" if model.shipped else "added",
            )
            for model in contents.models
        ),
    )
    for fault in contents.damaged:
        output.line(f"damaged: {fault}")
    if contents.folder:
        output.line(f"model.folder in config.yaml decides which model serves: {contents.folder}")


@models.command()
def show(
    name: Annotated[
        str | None, typer.Argument(help="A model's name, or its beginning [default: the serving one]")
    ] = None,
    config: options.Config = None,
) -> None:
    """Show a model's card as JSON."""
    from worker.models.promotion import card_of

    output.json_value(card_of(options.load(config), name).raw)


@models.command()
def add(
    folder: Annotated[Path, typer.Argument(help="A model folder, as `cxrd train` and `cxrd retrain` make it")],
    config: options.Config = None,
) -> None:
    """Copy a model into the site's models and print its name. It does not serve before it is promoted."""
    from worker.models.promotion import add as copy

    output.line(copy(options.load(config), folder))


@models.command()
def compare(
    names: Annotated[list[str] | None, typer.Argument(metavar="OLD NEW", help="Two models")] = None,
    data: options.LockedData = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Compare the shadow model on live images instead")] = False,
    since: options.Since = None,
    style: options.Format = "table",
    config: options.Config = None,
) -> None:
    """Compare two models on labelled radiographs by a paired test, or the shadow model with the serving one."""
    from worker.models import promotion

    settings = options.load(config)
    if shadow:
        _show_shadow(promotion.compare_shadow(settings, since), style)
        return
    if not names or len(names) != 2 or data is None:
        raise InvalidSettings("name two models and --data, or give --shadow")
    result = promotion.compare(settings, names[0], names[1], data)
    if style == "json":
        output.json_value(result.to_dict())
    else:
        _show_paired(result)


def _show_paired(result: PairedComparison) -> None:
    from modeltrain.evaluation.faithfulness import MEASURES

    rows = []
    for measure in ("auc", "sensitivity", "specificity"):
        each = getattr(result.comparison, measure)
        interval = f"{each.low:+.4f} to {each.high:+.4f}"
        rows.append((measure, f"{each.old:.4f}", f"{each.new:.4f}", f"{each.value:+.4f}", interval))
    for name, each in result.maps.measures.items() if result.maps else ():
        numbers = (f"{each.old:.3f}", f"{each.new:.3f}", f"{each.value:+.3f}", f"{each.low:+.3f} to {each.high:+.3f}")
        rows.append((f"heatmaps: {MEASURES[name]}", *numbers))
    output.table(("measure", "old", "new", "difference", "95 % interval"), rows, 120)
    output.counts([("NORMAL images", result.comparison.normal), ("PNEUMONIA images", result.comparison.pneumonia)])
    output.line("Intervals: AUC by DeLong; sensitivity and specificity by bootstrap, at each model's own threshold.")
    if result.maps:
        output.line(
            "Heatmaps: intervals by bootstrap. "
            f"NORMAL images: {result.maps.normal}. PNEUMONIA images: {result.maps.pneumonia}."
        )
    for text in result.notes:
        output.line(text)


def _show_shadow(result: ShadowComparison, style: str) -> None:
    if style == "table":
        output.table(
            ("shadow", "model", "images", "same answer", "mean difference", "largest difference"),
            (
                (
                    pair["shadow"],
                    pair["model"],
                    str(pair["n"]),
                    str(pair["agree"]),
                    f"{pair['mean_difference']:+.4f}",
                    f"{pair['largest_difference']:.4f}",
                )
                for pair in result.pairs
            ),
        )
        output.line("Images with different answers:")
    shown = ("receipt_id", "probability", "answer", "shadow_probability", "shadow_answer")
    output.rows(result.images, style, shown, width=100)


@models.command()
def promote(
    name: Annotated[str, typer.Argument(help="The candidate's name, or its beginning")],
    data: options.LockedData = None,
    margin: Annotated[
        float, typer.Option(min=0, max=1, help="How much worse AUC, sensitivity and specificity may be")
    ] = MARGIN,
    least: Annotated[int, typer.Option(min=2, help="Images that each class must have")] = LEAST_IMAGES,
    force: Annotated[bool, typer.Option("--force", help="Promote without the comparison, or against it")] = False,
    reason: options.Reason = "",
    config: options.Config = None,
) -> None:
    """Let a model serve, if it is not worse than the serving one on labelled radiographs.

    It is refused if AUC, sensitivity or specificity is lower and the 95 % interval of the difference reaches beyond the
    margin. It is refused if its heatmaps are worse: they move the answer less, find fewer drawn opacities, or peak in a
    lung less often. It is also refused if there are too few images to tell. Images that either model was trained on do
    not count. --force needs a --reason.

    A running worker answers the next image with it. An image in hand is finished with the old model.
    """
    from worker.models import promotion

    request = promotion.PromotionRequest(
        name, getpass.getuser(), data=data, margin=margin, least=least, force=force, reason=reason
    )
    _show_exchange(promotion.promote(options.load(config), request))


@models.command()
def rollback(
    name: Annotated[str | None, typer.Argument(help="A model's name [default: the one that served before]")] = None,
    reason: options.Reason = "",
    config: options.Config = None,
) -> None:
    """Let the model serve again that served before.

    A running worker answers the next image with it. An image in hand is finished with the other model.
    """
    from worker.models import promotion

    request = promotion.RollbackRequest(getpass.getuser(), name, reason)
    _show_exchange(promotion.rollback(options.load(config), request))


def _show_exchange(exchange: Exchange) -> None:
    for text in exchange.notes:
        output.note(text)
    output.counts([("Serves from the next image on", exchange.serving), ("Before", exchange.before)])
