"""Labelled images that a model is evaluated on, and what lies beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modeltrain.data.csv_file import samples_and_sides
from modeltrain.data.samples import Sample, data_digest, evaluation_samples, training_samples, with_contents
from modeltrain.data.sources import Source, content_digest, require_both_classes

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Labelled images that a model is evaluated on.

    Attributes
    ----------
    others
        What may be learnt from beside them, for near-duplicates; empty where the origin holds nothing else.
    """

    source: Source
    others: tuple[Sample, ...] = ()


def evaluation_set(path: Path, *, beside: bool = True) -> EvaluationSet:
    """Return what a model is evaluated on.

    Of a folder that is `test/`, or else its own NORMAL/ and PNEUMONIA/; of a CSV file, as for `csv_source`, the rows
    whose `split` is test, where there are none those of validation, and without the column all.

    Parameters
    ----------
    beside
        Whether to list what may be learnt from beside them.

    Raises
    ------
    InvalidData
        The folder or file cannot be used, or holds one class only.
    """
    if path.is_file():
        return _evaluation_rows(path)
    samples = with_contents(evaluation_samples(path))
    root = path if (path / "test").is_dir() else path.resolve().parent if path.resolve().name == "test" else None
    others = training_samples(root) if beside and root and (root / "train").is_dir() else ()
    where = f"folder {path.resolve().name}" + ("/test" if root == path else "")
    return EvaluationSet(Source(where, samples, data_digest(samples, path)), others)


def _evaluation_rows(path: Path) -> EvaluationSet:
    samples, sides = samples_and_sides(path)
    name, split = f"CSV file {path.name}", "test" if "test" in sides else "validation"
    others: list[Sample] = []
    if any(sides):
        pairs = list(zip(samples, sides, strict=True))
        samples, others = ([s for s, side in pairs if (side == split) is own] for own in (True, False))
        name += f", split {split}"
    require_both_classes(samples, name)
    return EvaluationSet(Source(name, tuple(samples), content_digest(samples)), tuple(others))
