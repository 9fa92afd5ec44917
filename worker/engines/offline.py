"""Analysis without a server: files and folders in, overlay pictures, result objects and a list of findings out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from dicom_io.durable import file_sha256
from dicom_io.errors import CxrdError, InvalidSettings
from dicom_io.finding import Finding
from dicom_io.header.reading import read_dataset
from dicom_io.objects.radiograph import radiograph
from dicom_io.pixels.render import Rendered
from modeltrain.model.preprocess import read_picture
from worker.clock import now
from worker.engines import analysis
from worker.engines.analysis import Analysed, Image, NotAnalysed
from worker.inference.analyzer import Reader
from worker.logs import unexpected
from worker.results.overlay import write_png
from worker.results.result_set import Result
from worker.settings import Settings
from worker.storage.files import write_whole

PICTURES = (".jpg", ".jpeg", ".png")


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
    """

    file: str
    model: str
    status: str
    reason: str = ""
    finding: Finding | None = None
    outputs: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the outcome as one flat JSON object."""
        values = dict.fromkeys(_FINDING) if self.finding is None else _finding_values(self.finding)
        about = {"file": self.file, "status": self.status, "reason": self.reason}
        return about | values | {"model": self.model, "outputs": list(self.outputs), "left_out": self.left_out}


_FINDING = (
    *("probability", "decision", "threshold", "model", "operating_point", "prediction_set", "out_of_distribution"),
    *("outlier", "agent", "agent_probability", "region"),
)


def _finding_values(finding: Finding) -> dict[str, Any]:
    """Return the values of a finding as JSON, by the names in `_FINDING`."""
    values: dict[str, Any] = {name: getattr(finding, name, None) for name in _FINDING}
    for name in ("probability", "outlier", "agent_probability"):
        values[name] = None if values[name] is None else round(values[name], 6)
    values["prediction_set"] = None if finding.prediction_set is None else list(finding.prediction_set)
    values["region"] = list(finding.region.box) if finding.region else None
    return values


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


def analyze(files: Iterable[Path], out: Path, reader: Reader, settings: Settings) -> Iterator[FileOutcome]:
    """Analyse files one after the other; what goes wrong with one is its outcome, and the others go on.

    Parameters
    ----------
    files
        DICOM objects (with the eligibility rules applied) or JPEG and PNG pictures (without).
    out
        Where ``NAME.png``, ``NAME.dcm``, ``NAME.sr.dcm`` and ``NAME.pr.dcm`` are written.
    """
    names = _Names()
    for file in files:
        about = FileOutcome(str(file), reader.identity.label, "failed")
        try:
            outcome = analysis.analyze(_image(file, settings), reader, settings)
            about = _write_outcome(about, outcome, out, names, file.stem)
        except CxrdError as error:
            about = replace(about, reason=str(error).removeprefix(f"{file}: "))  # the outcome names the file itself
        except Exception as error:  # noqa: BLE001 - one bad file never stops the others
            about = replace(about, reason=unexpected(error))
        yield about


def _image(file: Path, settings: Settings) -> Image:
    """Read a file as an image that is to be analysed."""
    if file.suffix.lower() not in PICTURES:
        return Image(read_dataset(file), now().astimezone())
    values = read_picture(file, max_pixels=settings.pixels.max_pixels)
    return Image(_wrapped(values, file), now().astimezone(), rendered=Rendered(values=values, aspect=1.0))


def _write_outcome(
    about: FileOutcome, outcome: Analysed | NotAnalysed, out: Path, names: _Names, stem: str
) -> FileOutcome:
    """Write what came of a file, under a name that no other file of this call has."""
    results = outcome.results
    if isinstance(outcome, NotAnalysed):
        finding = outcome.reading.finding if outcome.reading else None
        outputs = _write(results.results, out / names.unique(stem)) if results.results else ()
        about = replace(about, status="not_analysed", reason=outcome.reason, finding=finding)
    else:
        name = names.unique(stem)
        write_png(out / f"{name}.png", outcome.pictures.main)
        outputs = (str(out / f"{name}.png"), *_write(results.results, out / name))
        about = replace(about, status="analysed", finding=outcome.reading.finding)
    return replace(about, outputs=outputs, left_out=results.left_out)


def _write(results: tuple[Result, ...], stem: Path) -> tuple[str, ...]:
    """Write result objects to files whose names begin alike; return those names."""
    files = [stem.with_name(stem.name + result.suffix) for result in results]
    for file, result in zip(files, results, strict=True):
        write_whole(file, result.data)
    return tuple(str(file) for file in files)


class _Names:
    """Hands out file names, each once: two folders may hold files of the same name."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def unique(self, stem: str) -> str:
        name, number = stem, 1
        while name in self._used:
            number += 1
            name = f"{stem}-{number}"
        self._used.add(name)
        return name


def _wrapped(values: np.ndarray[Any, np.dtype[np.float32]], file: Path) -> Dataset:
    """Wrap a picture that is not DICOM, so that its result has a study to stand in: anonymous, and its own."""
    pixels = (values * 255).round().astype(np.uint8)
    return radiograph(pixels, uid_seed=file_sha256(file), PatientName="", PatientID="")
