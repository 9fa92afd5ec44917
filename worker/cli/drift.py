"""`cxrd drift`: do the live images still look like those on which the model was judged?"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from dicom_io.errors import InvalidSettings, OutOfResources
from worker import settings

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", envvar="CXRD_CONFIG", help="Settings file")]


def drift(
    since: Annotated[str, typer.Option(help="Received since: 30d, 12h, 2026-01-31")] = "30d",
    until: Annotated[str | None, typer.Option(help="Received before, as --since")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Draw the distributions into this PNG file")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output")] = False,
    as_metrics: Annotated[bool, typer.Option("--metrics", help="Prometheus text on standard output")] = False,
    config: ConfigOption = None,
) -> None:
    """Hold a period's scores and images to the reference of the current model; exit code 3 where they drifted.

    PSI below 0.1 is stable, up to 0.25 to be watched, above it drift; fewer than 50 images get no verdict.
    """
    try:
        from worker.health import drift as drifting
    except ModuleNotFoundError as error:
        raise InvalidSettings(f"drift needs {error.name}: pip install 'cxrd[evaluate]'") from error
    from modeltrain.model.card import load_card
    from worker.inference.serving import model_folder
    from worker.ledger.database import open_ledger
    from worker.ledger.queries import moment

    loaded = settings.load(config)
    card = load_card(model_folder(loaded))
    seen = drifting.period(open_ledger(loaded), card, moment(since), moment(until) if until else None)
    found = drifting.drift(seen, card)
    if out:
        try:
            drifting.figure(seen, found, card).savefig(out, dpi=120, facecolor="white")
        except (OSError, ValueError) as error:
            raise OutOfResources(f"{out}: cannot be written ({error})") from error
    if as_json:
        sys.stdout.write(json.dumps(_without_nan(found.to_dict()), indent=2) + "\n")
    elif as_metrics:
        sys.stdout.write(drifting.metrics(found))
    else:
        table = Table("measure", "PSI", "KS", "p", "verdict")
        for each in found.measures:
            numbers = ("–" if math.isnan(x) else f"{x:.4g}" for x in (each.psi, each.ks, each.p_value))
            table.add_row(drifting.MEASURES[each.name], *numbers, each.verdict)
        Console(width=None if sys.stdout.isatty() else 100).print(table)
        rates = ("–" if x is None else f"{100 * x:.1f} %" for x in (found.ood_rate, found.reference_ood_rate))
        sys.stdout.write("outside the population: {} (reference {}): {}\n".format(*rates, found.ood_verdict))
        stopped = f"{found.left_out} of them left out by the gate, " if found.left_out else ""
        sys.stdout.write(
            f"{found.model}: {found.n} images ({stopped}{found.others} of other models not counted): {found.verdict}\n"
        )
    if found.verdict == "drift":
        raise typer.Exit(3)


def _without_nan(value: Any) -> Any:
    """Return plain values with None for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
