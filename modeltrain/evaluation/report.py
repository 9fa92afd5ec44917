"""The evaluation report: one HTML page with its pictures, which loads nothing from elsewhere."""

from __future__ import annotations

import base64
import datetime as dt
import math
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined

from dicom_io.errors import OutOfResources
from dicom_io.pixels.radiograph import ATTRIBUTES
from modeltrain.data.duplicates import COMPARED
from modeltrain.evaluation.faithfulness import MEASURES
from modeltrain.evaluation.subgroups import PREVALENCES

if TYPE_CHECKING:
    from pathlib import Path

    from modeltrain.data.duplicates import Duplicates
    from modeltrain.evaluation.evaluate import Evaluation
    from modeltrain.model.card import Card

REPORT = "report.html"
_MOST_PAIRS = 20


@dataclass(frozen=True, slots=True)
class Report:
    """What stands in the report.

    Attributes
    ----------
    details
        What `modeltrain.evaluation.subgroups.details` returned, and as `heatmaps` what
        `modeltrain.evaluation.faithfulness.Faithfulness.to_dict` did, or None.
    figures
        PNG files, which the page carries within itself.
    data
        The name of the set of radiographs.
    learnt_from
        How many of its images the model has learnt from; None where that is not known.
    duplicates
        Near-duplicates between the set and another; None where there was no other set.
    """

    evaluation: Evaluation
    details: dict[str, Any]
    figures: tuple[Path, ...]
    card: Card
    engine: str
    data: str = ""
    learnt_from: int | None = None
    duplicates: Duplicates | None = None


def write_report(report: Report, out: Path) -> Path:
    """Write `report.html` into a folder and return its path.

    Raises
    ------
    OutOfResources
        The file cannot be written.
    """
    # Every text is escaped: a file name is as foreign as any input.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda value: "–" if value is None or math.isnan(value) else f"{100 * value:.1f} %"
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.4f}"
    template = environment.from_string((files("modeltrain.evaluation") / "report.html.j2").read_text(encoding="utf-8"))
    evaluation = report.evaluation
    page = template.render(
        made=dt.datetime.now(dt.UTC).astimezone().strftime("%Y-%m-%d %H:%M"),
        evaluation=evaluation,
        more=report.details,
        card=report.card,
        engine=report.engine,
        pictures={path.stem: _inline(path) for path in report.figures},
        prevalences=(*PREVALENCES, round(evaluation.pneumonia / evaluation.n, 4)),
        duplicates=report.duplicates,
        compared=COMPARED,
        most_pairs=_MOST_PAIRS,
        data=report.data,
        learnt_from=report.learnt_from,
        attributes=ATTRIBUTES,
        map_measures=MEASURES,
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
