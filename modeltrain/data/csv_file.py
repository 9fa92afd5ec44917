"""Images that a CSV file lists."""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_io.errors import InvalidData, Permanent
from modeltrain.data.samples import Sample, patient_of, with_contents
from modeltrain.data.sources import Source, content_digest, refuse, repeated_pictures, require_both_classes
from modeltrain.model.outputs import AGENTS, CLASSES
from modeltrain.model.preprocess import PICTURE_SUFFIXES, names_in_header

if TYPE_CHECKING:
    from collections.abc import Sequence

_COLUMNS = ("path", "label")
_SIDES = ("train", "validation", "test")  # of the column `split`


def csv_source(path: Path) -> Source:
    """Return the images that a CSV file lists.

    Columns: `path` (relative to the file; DICOM, JPEG or PNG), `label` (NORMAL or PNEUMONIA), and if wanted `patient`,
    `agent` (bacteria or virus) and `split` (train, validation or test, then for every row). Rows of the test are not
    learnt from; without a row of the validation, patients are set aside for it as from a folder. Without `patient`,
    DICOM objects are grouped by a digest of their Patient ID, and pictures by their names.

    Raises
    ------
    InvalidData
        The file cannot be read, a column is missing, or rows are faulty: the first ones are quoted by their number.
    """
    rows, sides = samples_and_sides(path)
    samples = [sample for sample, side in zip(rows, sides, strict=True) if side != "test"]
    name = f"CSV file {path.name}" + (", without its test" if len(samples) < len(rows) else "")
    require_both_classes(samples, f"{path}: " + ("beside its test it" if len(samples) < len(rows) else "it"))
    validation = frozenset(s.patient for s, side in zip(rows, sides, strict=True) if side == "validation")
    return Source(name, tuple(samples), content_digest(samples), validation or None)


def samples_and_sides(path: Path) -> tuple[list[Sample], list[str]]:
    """Return the images of a CSV file, with the digests of their contents, and the side of each.

    Raises
    ------
    InvalidData
        As for `csv_source`.
    """
    rows = _rows(path)
    root = path.resolve().parent
    samples: list[Sample] = []
    sides: list[str] = []
    rows_of: dict[Path, tuple[int, int]] = {}
    faults: list[str] = []
    for number, row in rows:
        try:
            sample, side = _sample(root, row)
        except InvalidData as error:
            faults.append(f"row {number}: {error}")
            continue
        before = rows_of.setdefault(sample.path, (number, sample.label))
        if before[0] != number:
            what = "has another label there" if before[1] != sample.label else "stands there too"
            faults.append(f"row {number}: {sample.path.name} {what} (row {before[0]})")
            continue
        samples.append(sample)
        sides.append(side)
    if any(sides) and not all(sides):
        faults.append("split: is empty in some rows and not in others")
    faults += _one_side(samples, sides, [number for number, _ in rows]) if not faults else []
    refuse(path, faults)
    hashed = list(with_contents(samples))
    refuse(path, repeated_pictures(hashed, sides))
    return hashed, sides


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Read a CSV file's rows with their line numbers."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise InvalidData(f"{path}: has no column {' and '.join(missing)}")
            rows = [(reader.line_num, {k: (v or "").strip() for k, v in row.items() if k}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidData(f"{path}: cannot be read as CSV ({error})") from error
    if not rows:
        raise InvalidData(f"{path}: holds no rows")
    return rows


def _sample(root: Path, row: dict[str, str]) -> tuple[Sample, str]:
    """Return a row's image and side."""
    label, agent, side = row["label"].upper(), row.get("agent", "").lower(), row.get("split", "").lower()
    if label not in CLASSES:
        raise InvalidData(f"label {row['label']!r} is neither {' nor '.join(CLASSES)}")
    if agent and agent not in AGENTS:
        raise InvalidData(f"agent {row['agent']!r} is neither {' nor '.join(AGENTS)}")
    if side not in ("", *_SIDES):
        raise InvalidData(f"split {row['split']!r} is neither {' nor '.join(_SIDES)}")
    path = (root / row["path"]).resolve()
    if not row["path"] or not path.is_file():
        raise InvalidData(f"no such file: {row['path'] or '(empty)'}")
    number = CLASSES.index(label)
    cause = AGENTS.index(agent) if agent and number else -1
    try:
        patient_id, uid = names_in_header(path)
    except Permanent:  # whoever reads the image finds out, and may leave it out
        patient_id = uid = ""
    return Sample(path, number, row.get("patient") or _patient(path, patient_id), cause, uid=uid), side


def _patient(path: Path, patient_id: str) -> str:
    """Return whose image a file is, without keeping a name or an ID in the clear."""
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return patient_of(path.stem)
    return hashlib.sha256(patient_id.encode()).hexdigest()[:16] if patient_id else path.stem


def _one_side(samples: Sequence[Sample], sides: Sequence[str], numbers: Sequence[int]) -> list[str]:
    """Return a fault for each patient whose rows are on more than one side."""
    where: dict[str, dict[str, int]] = defaultdict(dict)
    for sample, side, number in zip(samples, sides, numbers, strict=True):
        where[sample.patient].setdefault(side, number)
    faults = []
    for rows in where.values():
        (one, first), *others = sorted(rows.items(), key=lambda item: ("", *_SIDES).index(item[0]))
        faults += [f"rows {first} and {row}: one patient in {one} and in {other}" for other, row in others[:1]]
    return faults
