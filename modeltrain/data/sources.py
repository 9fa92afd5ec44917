"""Where training images come from: a folder, a CSV file, or several such parts together."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_io.errors import InvalidData, Permanent
from modeltrain.data.samples import (
    Sample,
    Split,
    data_digest,
    evaluation_samples,
    patient_of,
    read_sample,
    split_by_patient,
    training_samples,
    with_contents,
)
from modeltrain.model.outputs import AGENTS, CLASSES
from modeltrain.model.preprocess import PICTURE_SUFFIXES, names_in_header

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_COLUMNS = ("path", "label")
_SIDES = ("train", "validation", "test")  # of a CSV file's `split`; the last is never learnt from
_SHOWN = 3  # faults that an error quotes; the rest is counted


@dataclass(frozen=True, slots=True)
class Source:
    """Labelled images of one origin.

    Attributes
    ----------
    name
        What the model's card says of it.
    digest
        Fingerprint of names and contents, hexadecimal SHA-256.
    validation
        Patients that are for validation, where the origin says so itself; None leaves it to the recipe.
    """

    name: str
    samples: tuple[Sample, ...]
    digest: str
    validation: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Sources:
    """The parts that a run learns from. Each is split by itself, so that adding one moves no patient of another."""

    parts: tuple[Source, ...]

    @property
    def digest(self) -> str:
        """The fingerprint of one part, or of all parts' fingerprints."""
        if len(self.parts) == 1:
            return self.parts[0].digest
        return hashlib.sha256("\n".join(part.digest for part in self.parts).encode()).hexdigest()

    @property
    def name(self) -> str:
        """What the card says of the data."""
        return " and ".join(part.name for part in self.parts)

    def split(self, fraction: float, seed: int) -> Split:
        """Divide every part by patient.

        A part beside others that is too small to be divided is for training as a whole.

        Raises
        ------
        InvalidData
            A class has too few patients, or a patient would be on both sides.
        """
        splits = []
        for part in self.parts:
            if part.validation is not None:
                splits.append(_split_as_stated(part))
                continue
            if len(self.parts) == 1:
                _both_classes(part.samples, part.name)
            try:
                splits.append(split_by_patient(part.samples, fraction, seed))
            except InvalidData as error:
                if len(self.parts) == 1:
                    raise InvalidData(f"{part.name}: {error}") from error
                splits.append(Split(part.samples, ()))
        both = Split(
            tuple(sample for split in splits for sample in split.train),
            tuple(sample for split in splits for sample in split.validation),
        )
        for side, samples in (("training", both.train), ("validation", both.validation)):
            _both_classes(samples, f"{self.name}: {side}")
        sides = [{sample.patient: sample for sample in side} for side in (both.train, both.validation)]
        refuse(
            f"{self.name}: a patient is in training and in validation",
            [
                f"{sides[0][patient].name} and {sides[1][patient].name}"
                for patient in sorted(sides[0].keys() & sides[1].keys())
            ],
        )
        places = ["training"] * len(both.train) + ["validation"] * len(both.validation)
        refuse(self.name, _twice(both.train + both.validation, places))
        return both


def sources_of(data: Path | Source | Sources) -> Sources:
    """Return training data as `Sources`, whatever form they were given in."""
    if isinstance(data, Sources):
        return data
    return Sources((data if isinstance(data, Source) else folder_source(data),))


def folder_source(root: Path) -> Source:
    """Return a Kaggle-style folder, or one that holds NORMAL/ and PNEUMONIA/ itself; `test` is never opened."""
    samples = with_contents(training_samples(root))
    return Source(
        "Kaggle: train and val joined, then split by patient; test locked", samples, data_digest(samples, root)
    )


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
    rows, sides = _samples_and_sides(path)
    samples = [sample for sample, side in zip(rows, sides, strict=True) if side != "test"]
    name = f"CSV file {path.name}" + (", without its test" if len(samples) < len(rows) else "")
    _both_classes(samples, f"{path}: " + ("beside its test it" if len(samples) < len(rows) else "it"))
    validation = frozenset(s.patient for s, side in zip(rows, sides, strict=True) if side == "validation")
    return Source(name, tuple(samples), _digest(samples), validation or None)


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Labelled images that a model is to be judged on.

    Attributes
    ----------
    others
        What may be learnt from beside them, for near-duplicates; empty where the origin holds nothing else.
    """

    source: Source
    others: tuple[Sample, ...] = ()


def evaluation_set(path: Path, *, beside: bool = True) -> EvaluationSet:
    """Return what a model is judged on.

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
    samples, sides = _samples_and_sides(path)
    name, split = f"CSV file {path.name}", "test" if "test" in sides else "validation"
    others: list[Sample] = []
    if any(sides):
        pairs = list(zip(samples, sides, strict=True))
        samples, others = ([s for s, side in pairs if (side == split) is own] for own in (True, False))
        name += f", split {split}"
    _both_classes(samples, name)
    return EvaluationSet(Source(name, tuple(samples), _digest(samples)), tuple(others))


def _samples_and_sides(path: Path) -> tuple[list[Sample], list[str]]:
    """Return the images of a CSV file, which know their contents, and the side of each."""
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
    refuse(path, _twice(hashed, sides))
    return hashed, sides


def refuse(where: Path | str, faults: Sequence[str]) -> None:
    """Raise an error that quotes the first faults and counts the rest, if there are any.

    Raises
    ------
    InvalidData
        There are.
    """
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise InvalidData(f"{where}: {'; '.join(faults[:_SHOWN])}{more}")


def readable(source: Source, *, skip: bool, advance: Callable[[], None] = lambda: None) -> Source:
    """Read every image once, so that a broken one is found before the hours of training and not within them.

    Parameters
    ----------
    skip
        Leave unreadable images out, which the source's name then says; otherwise they are an error.

    Raises
    ------
    InvalidData
        Images cannot be read: the first ones are named.
    """
    intact, faults = [], []
    for sample in source.samples:
        try:
            read_sample(sample)
            intact.append(sample)
        except Permanent as error:
            faults.append(str(error))
        advance()
    if faults and not skip:
        refuse(f"{len(faults)} image(s) cannot be read", faults)
    if not faults:
        return source
    if not intact:
        raise InvalidData(f"{source.name}: no image can be read")
    _both_classes(intact, source.name)
    name = f"{source.name}, without {len(faults)} unreadable image(s)"
    return Source(name, tuple(intact), _digest(intact), source.validation)


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


def _split_as_stated(part: Source) -> Split:
    validation = part.validation or frozenset()
    return Split(
        tuple(sample for sample in part.samples if sample.patient not in validation),
        tuple(sample for sample in part.samples if sample.patient in validation),
    )


def _both_classes(samples: Sequence[Sample], where: str) -> None:
    counts = Counter(sample.label for sample in samples)
    for label, name in enumerate(CLASSES):
        if not counts[label]:
            raise InvalidData(f"{where} holds no {name}: both classes are needed")


def _twice(samples: Sequence[Sample], sides: Sequence[str]) -> list[str]:
    """Return a fault for each picture that has two labels, or is on two sides, whatever it is called.

    Pictures are the same by their bytes or by their SOP Instance UID.
    """
    first: dict[str, tuple[Sample, str]] = {}
    faults = []
    for sample, side in zip(samples, sides, strict=True):
        for key in filter(None, (sample.content, sample.uid)):
            before, there = first.setdefault(key, (sample, side))
            if (before.label, there) != (sample.label, side):
                how = "with two labels" if before.label != sample.label else f"in {there} and in {side}"
                faults.append(f"{before.name} and {sample.name} are one picture {how}")
                break
    return faults


def _digest(samples: Sequence[Sample]) -> str:
    """Return a fingerprint of contents and labels: where files lie does not matter."""
    total = hashlib.sha256()
    for line in sorted(f"{sample.content} {sample.label}" for sample in with_contents(samples)):
        total.update(f"{line}\n".encode())
    return total.hexdigest()
