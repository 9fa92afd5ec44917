"""Labelled radiographs in folders: listing, patients, split, reading, contents."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dicom_io.durable import file_sha256
from dicom_io.errors import InvalidData, UnreadableObject, UnsupportedPixels
from modeltrain.model.outputs import AGENTS, CLASSES
from modeltrain.model.preprocess import INPUT_SIZE, PICTURE_SUFFIXES, read_and_tell, to_input

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

# person123_bacteria_4 → person123; IM-0115-0001 → IM-0115; NORMAL2-IM-0381-0001-0002 → NORMAL2-IM-0381
_PATIENT = re.compile(r"(person\d+)_|((?:NORMAL\d*-)?IM-\d+)-")
_AGENT = re.compile(rf"_({'|'.join(AGENTS)})_")


@dataclass(frozen=True, slots=True)
class Sample:
    """One radiograph on disk: its file, its class (index into `CLASSES`) and its patient.

    `agent` is the index into `AGENTS` of what caused a pneumonia, where that is known, and -1 otherwise. `title` names
    the image where its path tells a person nothing; empty otherwise. `uid` is a DICOM
    object's SOP Instance UID, where it was read, and `content` the hexadecimal SHA-256 of the file, where it is known.
    """

    path: Path
    label: int
    patient: str
    agent: int = -1
    title: str = ""
    uid: str = ""
    content: str = ""

    @property
    def name(self) -> str:
        """The image's title, or else its file's name, for errors and reports."""
        return self.title or self.path.name


@dataclass(frozen=True, slots=True)
class Split:
    """A training folder divided by patient: no patient is on both sides."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]


def patient_of(stem: str) -> str:
    """Return whose radiograph a file is, from its name without the ending; an unknown name is a patient of its own."""
    match = _PATIENT.match(stem)
    return (match[1] or match[2]) if match else stem


def agent_of(stem: str) -> int:
    """Return what caused a pneumonia, from the file's name: an index into `AGENTS`, or -1."""
    match = _AGENT.search(stem)
    return AGENTS.index(match[1]) if match else -1


def scan(folder: Path) -> tuple[Sample, ...]:
    """List the radiographs of a folder that holds NORMAL/ and PNEUMONIA/, sorted by class and name.

    Raises
    ------
    InvalidData
        The folder or one of the two is missing, or one of them holds no JPEG or PNG file.
    """
    if not folder.is_dir():
        raise InvalidData(f"{folder}: no such folder")
    samples = []
    for label, name in enumerate(CLASSES):
        inside = folder / name
        if not inside.is_dir():
            raise InvalidData(f"{folder}: has no folder {name} (expected {' and '.join(CLASSES)})")
        names = sorted(entry.name for entry in os.scandir(inside) if entry.is_file() and not entry.name.startswith("."))
        paths = [inside / name for name in names if (inside / name).suffix.lower() in PICTURE_SUFFIXES]
        if not paths:
            raise InvalidData(f"{inside}: holds no JPEG or PNG file")
        samples += [Sample(path, label, patient_of(path.stem), agent_of(path.stem) if label else -1) for path in paths]
    return tuple(samples)


def pictures(folder: Path) -> list[Path]:
    """List the pictures of a folder, and of the folders in it, by name; hidden files and other kinds are left out.

    Raises
    ------
    InvalidData
        There are none.
    """
    paths = [
        folder.__class__(root) / name
        for root, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".") and os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES  # noqa: PTH122 - a hundred thousand names
    ]
    if not paths:
        raise InvalidData(f"{folder}: holds no JPEG or PNG file")
    return sorted(paths)


def training_samples(root: Path) -> tuple[Sample, ...]:
    """List what may be learnt from: `train/` of a Kaggle-style folder, joined by `val/`, or the folder's own classes.

    The Kaggle set's `val` holds 16 images, too few to steer by, so they join the rest. `test` is never opened.
    """
    if not (root / "train").is_dir():
        return scan(root)
    samples = scan(root / "train")
    return samples + scan(root / "val") if (root / "val").is_dir() else samples


def evaluation_samples(root: Path) -> tuple[Sample, ...]:
    """List what a model is judged on: `test/` of a Kaggle-style folder, or the folder's own classes."""
    return scan(root / "test") if (root / "test").is_dir() else scan(root)


def split_by_patient(samples: Sequence[Sample], fraction: float, seed: int) -> Split:
    """Set whole patients aside until they hold `fraction` of each class's images.

    Patients are taken in the order of a keyed digest of their names, so the split depends on the seed and the patients
    alone: not on the file system's order, and hardly on patients that are added later. A patient with images of both
    classes counts for the class of most of them. Patients who share a picture (the same bytes, or the same SOP Instance
    UID: an export that gave one patient two names) count as one.

    Raises
    ------
    InvalidData
        A class has fewer than two patients, so one side would be without it.
    """
    by_patient: dict[str, list[Sample]] = defaultdict(list)
    named = _same_patients(samples)
    for sample in samples:
        by_patient[named[sample.patient]].append(sample)
    strata: dict[int, list[str]] = {label: [] for label in range(len(CLASSES))}
    for patient, own in by_patient.items():
        strata[Counter(sample.label for sample in own).most_common(1)[0][0]].append(patient)
    held: set[str] = set()
    for label, patients in strata.items():
        if len(patients) < 2:
            raise InvalidData(f"{CLASSES[label]}: {len(patients)} patient(s); a split by patient needs two or more")
        target = fraction * sum(len(by_patient[patient]) for patient in patients)
        count = 0
        for patient in sorted(patients, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())[:-1]:
            if count >= target:
                break
            held.add(patient)
            count += len(by_patient[patient])
    return Split(
        train=tuple(sample for sample in samples if named[sample.patient] not in held),
        validation=tuple(sample for sample in samples if named[sample.patient] in held),
    )


def _same_patients(samples: Sequence[Sample]) -> dict[str, str]:
    """Return for each patient one name that those who share a picture have in common: the first in order."""
    named = {sample.patient: sample.patient for sample in samples}

    def first_of(patient: str) -> str:
        while named[patient] != patient:
            patient = named[patient]
        return patient

    owners: dict[str, str] = {}
    for sample in samples:
        for key in filter(None, (sample.content, sample.uid)):
            one, other = sorted((first_of(sample.patient), first_of(owners.setdefault(key, sample.patient))))
            named[other] = one
    return {patient: first_of(patient) for patient in named}


def read_sample(sample: Sample, size: int = INPUT_SIZE) -> NDArray[np.float32]:
    """Read one radiograph as the network's input, float32 [1, size, size] in [0, 1].

    Raises
    ------
    InvalidData
        The file is not a readable picture; the message names it.
    """
    return read_with_attributes(sample, size)[0]


def read_with_attributes(sample: Sample, size: int = INPUT_SIZE) -> tuple[NDArray[np.float32], dict[str, str]]:
    """Read a radiograph as `read_sample` does, and by what it belongs to subgroups (`pixels.radiograph.attributes`).

    Raises
    ------
    InvalidData
        The file is not a readable picture; the message names it.
    """
    try:
        values, attributes = read_and_tell(sample.path)
    except (UnreadableObject, UnsupportedPixels) as error:
        raise InvalidData(f"{sample.title}: {error}" if sample.title else str(error)) from error
    return to_input(values, size), attributes


class Images:
    """Random access to samples as uint8 [size, size], with as many kept in memory as a budget allows.

    The first images read are the ones that stay: in an epoch each image is needed once, so replacing one by another
    would gain nothing.
    """

    def __init__(self, samples: Sequence[Sample], budget: int, size: int = INPUT_SIZE) -> None:
        self.samples = samples
        self.size = size
        self._room = budget // (size * size)
        self._cache: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        image: NDArray[np.uint8] = np.rint(read_sample(self.samples[index], self.size)[0] * 255).astype(np.uint8)
        if len(self._cache) < self._room:
            self._cache[index] = image
        return image


def with_contents(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Return samples that know their contents; each file is read once, and none that does know.

    Raises
    ------
    InvalidData
        A file cannot be read; the message names it.
    """
    return tuple(each if each.content else replace(each, content=file_content(each.path)) for each in samples)


def file_content(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal; raises as `with_contents` does."""
    try:
        return file_sha256(path)
    except OSError as error:
        raise InvalidData(f"{path}: cannot be read ({error.strerror})") from error


def data_digest(samples: Sequence[Sample], root: Path) -> str:
    """Return a SHA-256 over the sorted relative names and contents of the files: the data set's fingerprint."""
    total = hashlib.sha256()
    hashed = with_contents(samples)
    for name, content in sorted((sample.path.relative_to(root).as_posix(), sample.content) for sample in hashed):
        total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()
