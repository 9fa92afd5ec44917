"""`cxrd drift`: do recent images still look like those that the model was validated on?"""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli import options, output

if TYPE_CHECKING:
    from worker.health.drift import Drift


def drift(
    since: options.Since = None,
    until: options.Until = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Draw the distributions into this PNG file")] = None,
    as_json: options.Json = False,
    as_metrics: Annotated[bool, typer.Option("--metrics", help="Print Prometheus metrics on standard output")] = False,
    config: options.Config = None,
) -> None:
    """Compare recent scores and images with the model's validation set.

    By default these are the images of the last 30 days.

    The population stability index (PSI) says how far they are apart: below 0.1 stable, up to 0.25 to be watched, above
    that drift. Fewer than 50 images get no verdict.

    Exit code 3 means drift.
    """
    from worker.extras import require

    require("evaluate", "cxrd drift")
    from worker.health.drift import DriftRequest, drift_of, metrics

    begin = since or dt.datetime.now(dt.UTC) - dt.timedelta(days=30)
    result = drift_of(options.load(config), DriftRequest(begin, until, out))
    if as_json:
        output.json_value(_without_nan(result.to_dict()))
    elif as_metrics:
        output.page(metrics(result))
    else:
        _show(result)
    if result.verdict == "drift":
        raise typer.Exit(3)


def _show(result: Drift) -> None:
    from worker.health.drift import MEASURES

    rows = []
    for each in result.measures:
        numbers = ("–" if math.isnan(x) else f"{x:.4g}" for x in (each.psi, each.ks, each.p_value))
        rows.append((MEASURES[each.name], *numbers, each.verdict))
    output.table(("measure", "PSI", "KS", "p", "verdict"), rows, 100)
    rates = ("–" if x is None else f"{100 * x:.1f} %" for x in (result.ood_rate, result.reference_ood_rate))
    output.table(("out of distribution", "validation set", "verdict"), [(*rates, result.ood_verdict)], 100)
    output.counts(
        [
            ("Model", result.model),
            ("Images", result.n),
            *((f"Of these {answer}", count) for answer, count in result.answers.items()),
            ("Of these left out as outside", result.left_out),
            ("Images of other models, not counted", result.others),
            ("Verdict", result.verdict),
        ]
    )


def _without_nan(value: Any) -> Any:
    """Return plain values with None for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
