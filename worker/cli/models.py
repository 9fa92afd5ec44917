"""`cxrd models`: which models are there, what they are worth, and which one serves."""

from __future__ import annotations

import getpass
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from dicom_io.errors import InvalidData, InvalidModel, InvalidSettings
from worker import settings

if TYPE_CHECKING:
    from modeltrain.data.seen_images import UnseenImages
    from modeltrain.evaluation.compare import Comparison
    from modeltrain.evaluation.evaluate import Answers
    from modeltrain.model.card import Card
    from modeltrain.model.registry import Registry, Version
    from worker.settings import Settings

models = typer.Typer(
    help="List, compare, promote and roll back models.", no_args_is_help=True, rich_markup_mode="markdown"
)

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", envvar="CXRD_CONFIG", help="Settings file")]
Locked = Annotated[
    str | None,
    typer.Option(
        "--data", help="Locked radiographs: a folder with NORMAL/ and PNEUMONIA/ or with test/, a CSV file, or AUDIT"
    ),
]
Style = Annotated[Literal["table", "csv", "json"], typer.Option("--format", help="Form of the answer")]

_LEAST = 30  # the customary size from which the intervals of the comparison, those of large samples, hold


@models.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a model")] = False,
    config: ConfigOption = None,
) -> None:
    """List the models that came with cxrd and those that were added; a star marks the one that serves."""
    loaded, versions = _opened(config)
    serves = _serving_name(loaded)
    rows = [
        {
            "serves": version.name == serves,
            "name": version.name,
            "created": version.card.raw.get("created", ""),
            "validation_auc": (version.card.raw.get("metrics", {}).get("validation") or {}).get("auc"),
            "test_auc": (version.card.raw.get("metrics", {}).get("test") or {}).get("auc"),
            "shipped": version.shipped,
        }
        for version in versions.all()
    ]
    if as_json:
        sys.stdout.writelines(json.dumps(row) + "\n" for row in rows)
        return
    table = Table("", "name", "created", "validation AUC", "test AUC", "from")
    for row in rows:
        figures = [f"{row[key]:.4f}" if row[key] is not None else "–" for key in ("validation_auc", "test_auc")]
        where = "cxrd" if row["shipped"] else "added"
        table.add_row("*" if row["serves"] else "", row["name"], row["created"][:10], *figures, where)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    for fault in versions.damaged():
        sys.stdout.write(f"damaged: {fault}\n")
    if loaded.model.folder:
        sys.stdout.write(f"model.folder in the settings overrides promotions: {loaded.model.folder}\n")


@models.command()
def show(
    name: Annotated[str | None, typer.Argument(help="A model's name, or its beginning [default: the current]")] = None,
    config: ConfigOption = None,
) -> None:
    """Show a model's card (JSON)."""
    loaded, versions = _opened(config)
    card = versions.find(name).card if name else _serving(loaded)
    sys.stdout.write(json.dumps(card.raw, indent=2, ensure_ascii=False) + "\n")


@models.command()
def add(
    folder: Annotated[Path, typer.Argument(help="A model folder, as `cxrd train` and `cxrd retrain` leave it")],
    config: ConfigOption = None,
) -> None:
    """Copy a model into the site's models, under a name by its content. It does not serve until it is promoted."""
    _, versions = _opened(config)
    sys.stdout.write(f"{versions.add(folder).name}\n")


@models.command()
def compare(
    names: Annotated[list[str] | None, typer.Argument(metavar="OLD NEW", help="Two models")] = None,
    data: Locked = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Where the shadow model differs on live images")] = False,
    since: Annotated[str | None, typer.Option(help="With --shadow: 7d, 12h, 2026-01-31")] = None,
    style: Style = "table",
    config: ConfigOption = None,
) -> None:
    """Compare two models on labelled radiographs (a paired test), or the shadow model with the current one."""
    if shadow:
        _compare_shadow(config, since, style)
        return
    if not names or len(names) != 2 or data is None:
        raise InvalidSettings("name two models and --data, or say --shadow")
    loaded, versions = _opened(config)
    found, unseen = _compared(loaded, versions.find(names[0]).card, versions.find(names[1]).card, data)
    if style == "json":
        sys.stdout.write(json.dumps(found.to_dict() | unseen.to_dict(), indent=2) + "\n")
        return
    table = Table("measure", "old", "new", "difference", "95 % interval")
    for measure in ("auc", "sensitivity", "specificity"):
        each = getattr(found, measure)
        reach = f"{each.low:+.4f} to {each.high:+.4f}"
        table.add_row(measure, f"{each.old:.4f}", f"{each.new:.4f}", f"{each.value:+.4f}", reach)
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    counts = f"{found.normal} NORMAL and {found.pneumonia} PNEUMONIA images"
    sys.stdout.write(f"{counts}; AUC by DeLong, the rates at each model's own threshold by bootstrap\n")
    sys.stdout.writelines(f"{line}\n" for line in unseen.notes())


@models.command()
def promote(
    name: Annotated[str, typer.Argument(help="The candidate's name, or its beginning")],
    data: Locked = None,
    margin: Annotated[float, typer.Option(min=0, max=1, help="How much worse it may be")] = 0.01,
    least: Annotated[
        int, typer.Option(min=2, help="Images of each class, below which nothing is promoted without --force")
    ] = _LEAST,
    force: Annotated[bool, typer.Option("--force", help="Promote without the comparison, or against it")] = False,
    reason: Annotated[str, typer.Option(help="With --force: why; it is recorded")] = "",
    config: ConfigOption = None,
) -> None:
    """Let a model serve, if it is not worse than the current one on locked radiographs.

    It is refused when AUC, sensitivity or specificity is lower and the 95 % interval of the difference reaches beyond
    the margin, or when there are too few images to tell (--least). Images that either model has learnt from are left
    out. A running worker takes it up by itself, within a second of the next image.
    """
    loaded, versions = _opened(config)
    candidate, serving = versions.find(name), _serving(loaded)
    _promotable(loaded)
    if force and not reason.strip():
        raise InvalidSettings("--force wants a --reason, which is recorded")
    facts: dict[str, Any] = {"forced": force, "reason": reason.strip()}
    if data is not None:
        found, unseen = _compared(loaded, serving, candidate.card, data)
        worse, few = found.worse(margin), found.too_few(least)
        facts |= {"comparison": found.to_dict() | unseen.to_dict(), "margin": margin}
        facts |= {"worse": worse, "least": least, "too_few": bool(few)}
        if few and not force:
            raise InvalidSettings("; ".join([f"{candidate.name} is not promoted: {few}", *unseen.notes()]))
        sys.stderr.writelines(f"{line}\n" for line in unseen.notes())
        if worse and not force:
            raise InvalidSettings(f"{candidate.name} is not promoted: {'; '.join(worse)}; margin {margin:g}")
    elif not force:
        raise InvalidSettings("name locked radiographs by --data, or say --force --reason")
    _exchange(loaded, versions, candidate, "promoted", facts)


@models.command()
def rollback(
    name: Annotated[str | None, typer.Argument(help="A model's name [default: the one that served before]")] = None,
    reason: Annotated[str, typer.Option(help="Why; it is recorded")] = "",
    config: ConfigOption = None,
) -> None:
    """Let the model serve again that served before."""
    loaded, versions = _opened(config)
    _promotable(loaded)
    version = versions.find(name or versions.before())
    _exchange(loaded, versions, version, "rolled_back", {"reason": reason.strip()})


def _exchange(loaded: Settings, versions: Registry, version: Version, kind: str, facts: dict[str, Any]) -> None:
    """Enter the exchange in the audit, then let it happen: never the other way round. Force changes nothing here."""
    from modeltrain.model.registry import prove
    from worker.clock import now
    from worker.ledger.database import open_ledger

    prove(version.card)
    facts = {"kind": kind, "from": _serving_name(loaded), "by": getpass.getuser(), **facts}
    entered = {key: value for key, value in facts.items() if key != "kind"}
    entered |= {"to": version.name, "to_sha256": version.card.sha256}
    open_ledger(loaded).record_event(kind, now(), entered)
    versions.promote(version, facts)
    sys.stdout.write(f"{version.name} serves now, {facts['from']} did before\n")


def _promotable(loaded: Settings) -> None:
    if loaded.model.folder:
        raise InvalidSettings(
            f"model.folder in the settings says {loaded.model.folder}: set it to null to serve what is promoted"
        )


def _serving_name(loaded: Settings) -> str:
    """Return the name by content of the model that serves; of one that is damaged, its folder's."""
    from modeltrain.model.card import load_card
    from modeltrain.model.registry import version_name
    from worker.inference.serving import model_folder

    folder = model_folder(loaded)
    try:
        return version_name(load_card(folder))
    except InvalidModel:
        return folder.name


def _serving(loaded: Settings) -> Card:
    from modeltrain.model.card import load_card
    from worker.inference.serving import model_folder

    return load_card(model_folder(loaded))


def _opened(config: Path | None) -> tuple[Settings, Registry]:
    from worker.inference.serving import registry_of

    loaded = settings.load(config)
    return loaded, registry_of(loaded)


def _compared(loaded: Settings, old: Card, new: Card, data: str) -> tuple[Comparison, UnseenImages]:
    """Ask both models about radiographs that neither has learnt from; return what came of it, and which these were."""
    try:
        from modeltrain.evaluation.compare import compare as paired
        from modeltrain.evaluation.evaluate import answers_of
    except ModuleNotFoundError as error:
        raise InvalidSettings(f"comparing needs {error.name}: pip install 'cxrd[evaluate]'") from error
    from modeltrain.data.seen_images import unseen_images
    from modeltrain.model.decision import Decider
    from worker.inference.engine import open_engine
    from worker.models.training_data import judged_data

    unseen = unseen_images(judged_data(loaded, data, beside=False).source, (old, new))
    answers: list[Answers] = []
    deciders = [Decider(card, loaded.model.operating_point, loaded.model.threshold) for card in (old, new)]
    for card, decider in zip((old, new), deciders, strict=True):
        engine = open_engine(card, loaded.model)
        answers.append(answers_of(engine.predict, unseen.samples, decider=decider, size=card.input_size))
    try:
        return paired(answers[0], answers[1], (deciders[0].threshold, deciders[1].threshold)), unseen
    except InvalidData as error:
        raise InvalidData("; ".join([str(error), *unseen.notes()])) from error


def _compare_shadow(config: Path | None, since: str | None, style: str) -> None:
    from worker.ledger.database import open_ledger
    from worker.ledger.queries import moment, write
    from worker.ledger.shadow_queries import differences, summary

    loaded = settings.load(config)
    ledger = open_ledger(loaded)
    begin = moment(since) if since else None
    rows = differences(ledger, begin)
    if style != "table":
        write(rows, style, sys.stdout)
        return
    for line in summary(ledger, begin):
        sys.stdout.write(
            f"{line['shadow']} beside {line['model']}: {line['n']} images, {line['agree']} decided alike, "
            f"mean difference {line['mean_difference']:+.4f}, largest {line['largest_difference']:.4f}\n"
        )
    table = Table("receipt_id", "current", "decision", "shadow", "decision")
    for row in rows:
        said = (
            f"{row['probability']:.3f}",
            row["decision"],
            f"{row['shadow_probability']:.3f}",
            row["shadow_decision"],
        )
        table.add_row(str(row["receipt_id"]), *said)
    Console(width=None if sys.stdout.isatty() else 100).print(table)
