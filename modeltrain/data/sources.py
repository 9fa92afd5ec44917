"""Where training images come from: a folder, or several parts together, each split by patient."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicom_io.errors import InvalidData, Permanent
from modeltrain.data.samples import (
    Sample,
    Split,
    data_digest,
    read_sample,
    split_by_patient,
    training_samples,
    with_contents,
)
from modeltrain.model.outputs import CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

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
                require_both_classes(part.samples, part.name)
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
            require_both_classes(samples, f"{self.name}: {side}")
        sides = [{sample.patient: sample for sample in side} for side in (both.train, both.validation)]
        refuse(
            f"{self.name}: a patient is in training and in validation",
            [
                f"{sides[0][patient].name} and {sides[1][patient].name}"
                for patient in sorted(sides[0].keys() & sides[1].keys())
            ],
        )
        places = ["training"] * len(both.train) + ["validation"] * len(both.validation)
        refuse(self.name, repeated_pictures(both.train + both.validation, places))
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
    require_both_classes(intact, source.name)
    name = f"{source.name}, without {len(faults)} unreadable image(s)"
    return Source(name, tuple(intact), content_digest(intact), source.validation)


def _split_as_stated(part: Source) -> Split:
    validation = part.validation or frozenset()
    return Split(
        tuple(sample for sample in part.samples if sample.patient not in validation),
        tuple(sample for sample in part.samples if sample.patient in validation),
    )


def require_both_classes(samples: Sequence[Sample], where: str) -> None:
    """Raise an error where a class has no images.

    Raises
    ------
    InvalidData
        One has none.
    """
    counts = Counter(sample.label for sample in samples)
    for label, name in enumerate(CLASSES):
        if not counts[label]:
            raise InvalidData(f"{where} holds no {name}: both classes are needed")


def repeated_pictures(samples: Sequence[Sample], sides: Sequence[str]) -> list[str]:
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


def content_digest(samples: Sequence[Sample]) -> str:
    """Return a fingerprint of contents and labels: where files lie does not matter."""
    total = hashlib.sha256()
    for line in sorted(f"{sample.content} {sample.label}" for sample in with_contents(samples)):
        total.update(f"{line}\n".encode())
    return total.hexdigest()
