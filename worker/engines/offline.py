"""Analysis without a server: files and folders in, overlay pictures, result objects and a list of findings out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from dicom_io.durable import file_sha256
from dicom_io.errors import CxrdError, InvalidSettings
from dicom_io.finding import Finding, bounded
from dicom_io.header.reading import read_dataset, read_header
from dicom_io.objects.radiograph import radiograph
from dicom_io.pixels.content import blank, sample
from dicom_io.pixels.render import Rendered
from modeltrain.model.preprocess import read_picture
from worker.clock import now
from worker.engines import analysis
from worker.engines.analysis import Analysed, Image, NotAnalysed
from worker.inference.analyzer import Reader
from worker.logs import unexpected
from worker.results.kinds import KINDS
from worker.results.overlay import write_png
from worker.settings import Settings
from worker.storage.files import write_whole

PICTURES = (".jpg", ".jpeg", ".png")
PICTURE, MAP = ".png", ".npy"
"""Suffixes of outputs that are no DICOM objects."""


@dataclass(frozen=True)
class FileOutcome:
    """What became of one file.

    Attributes
    ----------
    status
        `analysed`, `not_analysed` or `failed`; `reason` says why where it is not the first.
    finding
        None where the model did not look.
    outputs
        The files that were written.
    left_out
        The kinds of result that could not be made, each with the reason.
    remarks
        What was read otherwise than the header says it.
    """

    file: str
    model: str
    status: str
    reason: str = ""
    finding: Finding | None = None
    outputs: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the outcome as one flat JSON object."""
        about = {"file": self.file, "status": self.status, "reason": self.reason}
        outputs = {"model": self.model, "outputs": list(self.outputs), "left_out": self.left_out}
        return about | finding_json(self.finding) | outputs | {"remarks": list(self.remarks)}


def finding_json(finding: Finding | None) -> dict[str, Any]:
    """Return a finding as JSON: the answer first, then what it rests on; every value None where there is none.

    An image outside has no probability and none of what belongs to it. `score` and `outlier` are there: they tell what
    the network computed, for those who judge it, and no answer.
    """
    if finding is None:
        return dict.fromkeys(finding_json(_NOTHING))
    lungs, classes = finding.lungs, finding.prediction_set
    return {
        "answer": finding.answer.value,
        "answer_in_words": finding.answer.sentence,
        "caution": finding.caution,
        "regions": [{"place": each.place, "box": list(each.box)} for each in finding.regions],
        "lungs_share": lungs and lungs.share,
        "lungs_count": lungs and lungs.count,
        "lungs_cut": lungs and lungs.cut,
        "orientation": finding.orientation.value,
        "probability": bounded(finding.probability, 6) if finding.answered else None,
        "threshold": finding.threshold if finding.answered else None,
        "operating_point": finding.operating_point if finding.answered else None,
        "prediction_set": list(classes) if finding.answered and classes is not None else None,
        "out_of_distribution": finding.out_of_distribution,
        "outlier": _rounded(finding.outlier),
        "score": _rounded(finding.score),
        "agent": finding.agent,
        "agent_probability": _rounded(finding.agent_probability),
    }


_NOTHING = Finding(0.0, "NORMAL", 1.0)  # for its keys


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def find(paths: Iterable[Path]) -> list[Path]:
    """Return the files among `paths`, folders searched through.

    Raises
    ------
    InvalidSettings
        When a path does not exist, or nothing is found at all.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files.extend(sorted(each for each in path.rglob("*") if each.is_file() and not each.name.startswith(".")))
        elif path.exists():
            files.append(path)
        else:
            raise InvalidSettings(f"{path}: no such file or folder")
    if not files:
        raise InvalidSettings(f"{', '.join(str(path) for path in paths)}: no files in it")
    return files


def analyze(
    files: Sequence[Path], out: Path, reader: Reader, settings: Settings, *, maps: bool = False
) -> Iterator[FileOutcome]:
    """Analyse files, several at a time, in their order; what goes wrong with one is its outcome, and the others go on.

    Parameters
    ----------
    files
        DICOM objects (with the eligibility rules applied) or JPEG and PNG pictures (without).
    out
        Where ``NAME.png``, ``NAME.dcm``, ``NAME.sr.dcm`` and ``NAME.pr.dcm`` are written; NAME is the file's, without
        its suffix. Of several files of one name the later ones get a number, and no file of `files` is replaced.
    maps
        Also write ``NAME.npy`` for each file that the model looked at, whatever the answer: evidence for pneumonia,
        float32 [224, 224], see `modeltrain.model.evidence.evidence_map`.
    """
    task = _Task(out, reader, settings, maps)
    names = output_names(files, out)
    with ThreadPoolExecutor(settings.worker.threads or os.cpu_count() or 1) as pool:
        yield from pool.map(task.run, files, names)


@dataclass(frozen=True)
class _Task:
    """What is done with each file."""

    out: Path
    reader: Reader
    settings: Settings
    maps: bool

    def run(self, file: Path, name: str) -> FileOutcome:
        """Analyse one file and write what comes of it."""
        about = FileOutcome(str(file), self.reader.identity.label, "failed")
        try:
            outcome = analysis.analyze(_image(file, self.settings), self.reader, self.settings)
            return self._write(about, outcome, self.out / name)
        except CxrdError as error:
            return replace(about, reason=str(error).removeprefix(f"{file}: "))  # the outcome names the file itself
        except Exception as error:  # noqa: BLE001 - one bad file never stops the others
            return replace(about, reason=unexpected(error))

    def _write(self, about: FileOutcome, outcome: Analysed | NotAnalysed, stem: Path) -> FileOutcome:
        """Write what came of a file, to files whose names begin alike."""
        outputs: list[Path] = []
        if isinstance(outcome, NotAnalysed):
            about = replace(about, status="not_analysed", reason=outcome.reason)
        else:
            about = replace(about, status="analysed")
            outputs.append(_named(stem, PICTURE))
            write_png(outputs[0], outcome.pictures.main)
        if outcome.reading is not None:
            about = replace(about, finding=outcome.reading.finding)
            if self.maps:
                outputs.append(_named(stem, MAP))
                _write_map(outputs[-1], outcome.reading.evidence)
        for result in outcome.results.results:
            outputs.append(_named(stem, result.suffix))
            write_whole(outputs[-1], result.data)
        left_out = outcome.results.left_out
        return replace(about, outputs=tuple(map(str, outputs)), left_out=left_out, remarks=outcome.remarks)


def _image(file: Path, settings: Settings) -> Image:
    """Read a file as an image that is to be analysed."""
    if file.suffix.lower() not in PICTURES:
        limits = settings.pixels.reading
        return Image(read_header(file, limits), now().astimezone(), whole=partial(read_dataset, file, limits))
    values = read_picture(file, max_pixels=settings.pixels.max_pixels)
    levels = sample(values) * 255
    rendered = Rendered(values=values, aspect=1.0, blank=blank(values.shape, levels, levels))
    return Image(_wrapped(values, file), now().astimezone(), rendered=rendered)


def output_names(files: Iterable[Path], out: Path) -> list[str]:
    """Return what the outputs of each file in `out` are called, without suffix: no two alike.

    That is the file's own name without its suffix; with a number where that is taken, or where an output would replace
    one of the files.
    """
    files = list(files)
    here = out.resolve()
    taken = {file.name for file in files if file.parent.resolve() == here}
    suffixes = (PICTURE, MAP, *(kind.suffix for kind in KINDS.values()))
    names: list[str] = []
    for file in files:
        name, number = file.stem, 1
        while any(name + suffix in taken for suffix in suffixes):
            number += 1
            name = f"{file.stem}-{number}"
        taken.update(name + suffix for suffix in suffixes)
        names.append(name)
    return names


def _named(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


def _write_map(path: Path, evidence: NDArray[np.float32]) -> None:
    buffer = BytesIO()
    np.save(buffer, evidence)
    write_whole(path, buffer.getvalue())


def _wrapped(values: NDArray[np.float32], file: Path) -> Dataset:
    """Wrap a picture that is not DICOM, so that its result has a study to stand in: anonymous, and its own."""
    pixels = (values * 255).round().astype(np.uint8)
    return radiograph(pixels, uid_seed=file_sha256(file), PatientName="", PatientID="")
