"""Analysis without a server: files and folders in, overlay pictures, result objects and a list of findings out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from dicom_io.durable import file_sha256
from dicom_io.errors import CxrdError, InvalidSettings
from dicom_io.header.eligibility import judge
from dicom_io.header.reading import read_dataset
from dicom_io.header.source_image import source_image
from dicom_io.objects.radiograph import radiograph
from dicom_io.pixels.render import Rendered
from modeltrain.model.preprocess import read_picture
from worker.engines.analysis import outside, rules_of
from worker.inference.analyzer import Reader, Reading
from worker.logs import unexpected
from worker.results.overlay import write_png
from worker.results.pictures import Pictures
from worker.results.result_set import Result, ResultSet, make, not_analysed
from worker.settings import Settings
from worker.storage.files import write_whole

PICTURES = (".jpg", ".jpeg", ".png")
_NOTHING = ResultSet((), {})


@dataclass(frozen=True)
class Answer:
    """What became of one file; `left_out` names the kinds of result that it has not, each with the reason."""

    file: str
    status: str
    reason: str = ""
    probability: float | None = None
    decision: str | None = None
    threshold: float | None = None
    model: str | None = None
    operating_point: str | None = None
    prediction_set: tuple[str, ...] | None = None
    out_of_distribution: bool | None = None
    outlier: float | None = None
    agent: str | None = None
    agent_probability: float | None = None
    region: tuple[int, int, int, int] | None = None
    outputs: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the answer as one JSON object."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


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


def analyze(files: Iterable[Path], out: Path, reader: Reader, settings: Settings) -> Iterator[Answer]:
    """Analyse files one after the other; what goes wrong with one is its answer, and the others go on.

    Parameters
    ----------
    files
        DICOM objects (with the eligibility rules applied) or JPEG and PNG pictures (without).
    out
        Where ``NAME.png``, ``NAME.dcm``, ``NAME.sr.dcm`` and ``NAME.pr.dcm`` are written.
    """
    rules = rules_of(settings)
    names = _Names()
    for file in files:
        model = reader.identity.label
        answer = Answer(file=str(file), status="failed", model=model)
        try:
            if file.suffix.lower() in PICTURES:
                values = read_picture(file, max_pixels=settings.pixels.max_pixels)
                dataset = _wrapped(values, file)
                reading = reader.read_values(Rendered(values=values, aspect=1.0))
            else:
                dataset = read_dataset(file)
                verdict = judge(dataset, rules)
                if not verdict.analyse:
                    answer = replace(answer, status="not_analysed", reason=verdict.reason)
                    told = _told_why(dataset, verdict.reason, reader, settings) if verdict.radiograph else _NOTHING
                    yield _with(answer, told, names, out, file)
                    continue
                reading = reader.read(dataset)
            if reading.finding.out_of_distribution and settings.model.out_of_distribution == "skip":
                answer = replace(_told(answer, reading), status="not_analysed", reason=outside(reading.finding))
                yield _with(answer, _told_why(dataset, answer.reason, reader, settings), names, out, file)
                continue
            created = _when()
            pictures = Pictures(reading, reader.identity, created, settings.results)
            made = make(source_image(dataset), reading, reader.identity, settings.results, created, pictures=pictures)
            stem = names.unique(file.stem)
            write_png(out / f"{stem}.png", pictures.main)
            written = (str(out / f"{stem}.png"), *_write(made.results, out / stem))
        except CxrdError as error:
            yield replace(answer, reason=str(error))
        except Exception as error:  # noqa: BLE001 - one bad file never stops the others
            yield replace(answer, reason=unexpected(error))
        else:
            yield replace(_told(answer, reading), status="analysed", outputs=written, left_out=made.left_out)


def _told_why(dataset: Dataset, reason: str, reader: Reader, settings: Settings) -> ResultSet:
    """Return the report that an image was not analysed, where the settings ask for one."""
    if not settings.results.report_not_analysed:
        return _NOTHING
    return not_analysed(source_image(dataset), reason, reader.identity, settings.results, _when())


def _with(answer: Answer, made: ResultSet, names: _Names, out: Path, file: Path) -> Answer:
    """Write what tells that a file was not analysed, if anything does, and name it in the answer."""
    written = _write(made.results, out / names.unique(file.stem)) if made.results else ()
    return replace(answer, outputs=written, left_out=made.left_out)


def _write(results: tuple[Result, ...], stem: Path) -> tuple[str, ...]:
    """Write result objects to files whose names begin alike; return those names."""
    written = []
    for result in results:
        file = stem.with_name(stem.name + result.suffix)
        write_whole(file, result.data)
        written.append(str(file))
    return tuple(written)


def _told(answer: Answer, reading: Reading) -> Answer:
    """Return the answer with what the model found."""
    finding = reading.finding
    return replace(
        answer,
        probability=round(finding.probability, 6),
        decision=finding.decision,
        threshold=finding.threshold,
        operating_point=finding.operating_point,
        prediction_set=finding.prediction_set,
        out_of_distribution=finding.out_of_distribution,
        outlier=_rounded(finding.outlier),
        agent=finding.agent,
        agent_probability=_rounded(finding.agent_probability),
        region=finding.region.box if finding.region else None,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


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
    seed = file_sha256(file)
    return radiograph((values * 255).round().astype(np.uint8), uid_seed=seed, PatientName="", PatientID="")


def _when() -> dt.datetime:
    """Return the time in the zone of the site."""
    return dt.datetime.now(dt.UTC).astimezone()
