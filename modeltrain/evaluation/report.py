"""The evaluation report: one HTML page that holds everything, pictures included, and asks nothing of the network."""

from __future__ import annotations

import base64
import datetime as dt
import math
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined

from dicom_io.errors import OutOfResources
from dicom_io.pixels.radiograph import ATTRIBUTES
from modeltrain.evaluation.subgroups import PREVALENCES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from modeltrain.data.duplicates import Pair
    from modeltrain.evaluation.evaluate import Evaluation
    from modeltrain.model.card import Card

REPORT = "report.html"
_MOST_PAIRS = 20


def write_report(
    out: Path,
    evaluation: Evaluation,
    further: dict[str, Any],
    figures: Sequence[Path],
    *,
    card: Card,
    engine: str,
    duplicates: Sequence[Pair] | None = None,
    compared: str = "",
    unread: int = 0,
    data: str = "",
    learnt_from: int | None = None,
) -> Path:
    """Write `report.html` into a folder and return its path.

    Parameters
    ----------
    further
        What `modeltrain.evaluation.subgroups.details` returned.
    figures
        PNG files, which the page carries within itself.
    duplicates, compared
        Near-duplicates and the two sets that were compared; None where there was no second set.
    unread
        How many images of the second set cannot be read.
    data
        What the radiographs are called.
    learnt_from
        How many of them the model has learnt from; None where that is not known.

    Raises
    ------
    OutOfResources
        The file cannot be written.
    """
    # Every text is escaped: a file name is as foreign as any input.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda value: "–" if value is None or math.isnan(value) else f"{100 * value:.1f} %"
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.4f}"
    template = environment.from_string((files("modeltrain") / "report.html.j2").read_text(encoding="utf-8"))
    page = template.render(
        made=dt.datetime.now(dt.UTC).astimezone().strftime("%Y-%m-%d %H:%M"),
        evaluation=evaluation,
        more=further,
        card=card,
        engine=engine,
        pictures={path.stem: _inline(path) for path in figures},
        prevalences=(*PREVALENCES, round(evaluation.pneumonia / evaluation.n, 4)),
        duplicates=None if duplicates is None else list(duplicates)[:_MOST_PAIRS],
        duplicate_count=len(duplicates or ()),
        compared=compared,
        unread=unread,
        data=data,
        learnt_from=learnt_from,
        attributes=ATTRIBUTES,
    )
    path = out / REPORT
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise OutOfResources(f"{path}: cannot be written ({error.strerror})") from error
    return path


def _inline(path: Path) -> str:
    """Return a picture as a data URL."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
