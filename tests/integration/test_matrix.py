"""Every kind of result, made from every variant of source, before the tools that others wrote: no error anywhere.

The tools are dciodvfy (dicom3tools) for all kinds; dcmpschk, dsrdump, dsr2html, dcm2pnm, dcmj2pnm and dcm2pdf (DCMTK),
each for what it reads; and highdicom and pypdf where DCMTK has nothing. dciodvfy's warnings are those that
docs/conformance-notes.md lists and explains, all of them and no other.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import cv2
import highdicom
import numpy as np
import pydicom
import pypdf
import pytest
from pydicom import Dataset

from tests.support.tools import tool
from tests.unit.dicom_io.objects.test_presentation_state import table
from tests.unit.dicom_io.objects.test_secondary_capture import MISSING, NAMES
from tests.unit.worker.results.test_result_set import (
    EVIDENCE,
    FINDING,
    NORMAL,
    PICTURE,
    PIXELS,
    answered,
    eight_bits,
    source,
)
from worker.destination_settings import Kind
from worker.results.kinds import KINDS as TABLE

KINDS = get_args(Kind)
NOTES = Path(__file__).resolve().parents[2] / "docs" / "conformance-notes.md"
BITS: dict[str, dict[str, Any]] = {
    "8 bits": eight_bits(),
    "10 bits": {"pixels": PIXELS // 4, "BitsStored": 10, "HighBit": 9},
    "12 bits": {},
    "15 bits": {"pixels": PIXELS * 8, "BitsStored": 15, "HighBit": 14},
}
VARIANTS: dict[str, dict[str, Any]] = {
    f"{modality} {polarity} {bits}": {"modality": modality, "PhotometricInterpretation": polarity, **how}
    for modality in ("CR", "DX")
    for polarity in ("MONOCHROME1", "MONOCHROME2")
    for bits, how in BITS.items()
}
VARIANTS |= {
    f"name {number}": {"SpecificCharacterSet": charset, "PatientName": name, "ReferringPhysicianName": name, **how}
    for number, (charset, name) in enumerate(NAMES)
    for how in [{"modality": "DX", "PhotometricInterpretation": "MONOCHROME1"} if number % 2 else {}]
}
NOTHING = dict.fromkeys((*MISSING.split(), "ImagerPixelSpacing", "PixelSpacing", "WindowCenter"))


def request() -> Dataset:
    item = Dataset()
    item.RequestedProcedureID, item.ScheduledProcedureStepID = "RP1", "SPS1"
    item.AccessionNumber, item.RequestedProcedureDescription = "A1", "Chest"
    return item


VARIANTS |= {
    "nothing known": NOTHING,
    "nothing known, DX": {"modality": "DX", **NOTHING},
    "all empty": dict.fromkeys(MISSING.split(), "") | {"BodyPartExamined": None},
    "no accession number": {"AccessionNumber": ""},
    "request": {"modality": "DX", "RequestAttributesSequence": [request()], "TimezoneOffsetFromUTC": "+0100"},
    "name of one part": {"PatientName": "NAMELESS"},
    "UTC": {"TimezoneOffsetFromUTC": "+0000"},
    "pixels twice as tall": {"ImagerPixelSpacing": [0.2, 0.1], "PixelSpacing": None},
    "two windows": {"WindowCenter": [2000, 1000], "WindowWidth": [1500, 800]},
    "identified pixels": {"modality": "DX", "BurnedInAnnotation": "YES"},
    "lossy source": {
        "modality": "DX",
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": 10,
        "LossyImageCompressionMethod": "ISO_15444_1",
    },
    "normal": {"finding": NORMAL},
    "malformed window": {
        "VOILUTFunction": b"no such word",
        "WindowCenterWidthExplanation": b"x" * 70,
        "RescaleSlope": b"1.00000000000000000001",
        "RescaleIntercept": b"0",
        "RescaleType": b"y" * 70,
    },
    "malformed table": {
        "VOILUTSequence": [table(16, LUTExplanation=b"x" * 70)],
        "ModalityLUTSequence": [table(16, LUTExplanation=b"x" * 70, ModalityLUTType=b"y" * 70)],
    },
}
# A map lies on its source only where that says how it lies and how large its pixels are.
WITHOUT_MAP = {"nothing known", "nothing known, DX", "all empty"}
# What dcmpschk does not take, and the standard does: a name without a value, and one in UTF-8 beyond ASCII.
COMPLAINTS = {
    "nothing known": {"patientName"},
    "nothing known, DX": {"patientName"},
    "all empty": {"patientName"},
    "name 3": {"PatientName", "ReferringPhysicianName"},
}


@dataclass(frozen=True)
class Said:
    """What one program said of one object."""

    kind: str
    program: str
    code: int
    out: str
    err: str

    def lines(self, first_word: str) -> list[str]:
        return [line.rstrip() for line in self.err.splitlines() if line.startswith(first_word)]


@dataclass(frozen=True)
class Examined:
    """One variant's objects, and all that was said of them."""

    left_out: dict[str, str]
    files: dict[str, Path]
    said: tuple[Said, ...]

    def by(self, program: str) -> list[Said]:
        return [each for each in self.said if each.program == program]


def commands(kind: str, file: Path, korean: bool) -> Iterator[list[str]]:
    """Yield what is run on an object; `{}` becomes a file to write."""
    yield ["dciodvfy", str(file)]
    if kind == "presentation-state":
        yield ["dcmpschk", str(file)]
    if kind in ("structured-report", "key-objects"):
        yield ["dsrdump", str(file)]
        if not korean:  # dsr2html does not know it: it says so and gives up
            yield ["dsr2html", str(file)]
    if kind.startswith(("secondary-capture", "multi-frame-capture")):
        program = "dcmj2pnm" if kind.endswith("jpeg") else "dcm2pnm"
        for frame in ("1", "2") if kind.startswith("multi") else ("1",):
            yield [program, "+op", "+F", frame, str(file), f"{file}.{frame}.ppm"]
    if kind == "encapsulated-pdf":
        yield ["dcm2pdf", str(file), f"{file}.pdf"]


def run(kind: str, command: list[str]) -> Said:
    done = subprocess.run(
        [tool(command[0]), *command[1:]], check=False, capture_output=True, text=True, errors="replace", timeout=60
    )
    return Said(kind, command[0], done.returncode, done.stdout, done.stderr)


def examine(variant: str, folder: Path, pool: ThreadPoolExecutor) -> Examined:
    changes = dict(VARIANTS[variant])
    finding = changes.pop("finding", FINDING)
    original = source(changes.pop("modality", "CR"), **changes)
    made = answered(original, finding, kinds=KINDS)
    compressed = answered(original, finding, kinds=("secondary-capture", "multi-frame-capture"), jpeg_quality=90)
    objects = {result.kind: result.data for result in made.results}
    objects |= {f"{result.kind} as jpeg": result.data for result in compressed.results}
    files = {}
    for kind, data in objects.items():
        files[kind] = folder / f"{kind.replace(' ', '-')}.dcm"
        files[kind].write_bytes(data)
    korean = "IR 149" in str(changes)
    jobs = [pool.submit(run, kind, each) for kind, file in files.items() for each in commands(kind, file, korean)]
    return Examined(made.left_out, files, tuple(job.result() for job in jobs))


class Examinations(dict[str, Examined]):
    """The variants by name, each examined when it is first looked at."""

    def __init__(self, folders: pytest.TempPathFactory, pool: ThreadPoolExecutor) -> None:
        super().__init__()
        self._folders, self._pool = folders, pool

    def __missing__(self, variant: str) -> Examined:
        self[variant] = examine(variant, self._folders.mktemp("variant"), self._pool)
        return self[variant]


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Examinations]:
    with ThreadPoolExecutor(4) as pool:
        yield Examinations(tmp_path_factory, pool)


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_kinds_are_made(examined: Examinations, variant: str) -> None:
    found = examined[variant]
    assert set(found.left_out) == ({"parametric-map"} if variant in WITHOUT_MAP else set())
    assert {kind for kind in found.files if "jpeg" not in kind} == set(KINDS) - set(found.left_out)
    assert sum("jpeg" in kind for kind in found.files) == 2
    for kind, file in found.files.items():
        assert pydicom.dcmread(file).SOPClassUID == TABLE[kind.removesuffix(" as jpeg")].sop_class


@pytest.mark.parametrize("variant", VARIANTS)
def test_dciodvfy_finds_no_error(examined: Examinations, variant: str) -> None:
    verdicts = examined[variant].by("dciodvfy")
    assert len(verdicts) == len(examined[variant].files)
    assert [(each.kind, each.lines("Error")) for each in verdicts if each.lines("Error")] == []
    # It names the IOD that it held the object to: without that it has held it to nothing.
    assert all(each.err.splitlines()[0] and each.lines("Warning") for each in verdicts)


def explained() -> list[str]:
    """Return the warnings of dciodvfy that the documentation explains."""
    table = NOTES.read_text().split("| warning of dciodvfy |", 1)[1].split("\n\n", 1)[0]
    return [row.split("`")[1] for row in table.splitlines() if row.startswith("| `")]


def test_every_warning_is_explained_and_every_explanation_is_needed(examined: Examinations) -> None:
    given = {
        (each.kind, line)
        for found in (examined[variant] for variant in VARIANTS)
        for each in found.by("dciodvfy")
        for line in each.lines("Warning")
    }
    patterns = {row: re.compile(".*".join(map(re.escape, row.split("…")))) for row in explained()}
    matching = {row: [line for _, line in given if pattern.fullmatch(line)] for row, pattern in patterns.items()}
    known = {line for lines in matching.values() for line in lines}
    assert sorted((kind, line) for kind, line in given if line not in known) == []
    assert [row for row, lines in matching.items() if not lines] == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_dcmtk_reads_what_is_in_them(examined: Examinations, variant: str) -> None:
    found = examined[variant]
    for each in found.said:
        assert each.code == 0 or each.program == "dciodvfy", (each.kind, each.program, each.err)
        assert each.program == "dcmpschk" or each.lines("E:") == [], (each.kind, each.program)
    reports = [each.out for each in found.by("dsrdump") + found.by("dsr2html") if each.kind == "structured-report"]
    assert reports
    assert all("Pneumonia" in out for out in reports)
    lists = [each.out for each in found.by("dsrdump") + found.by("dsr2html") if each.kind == "key-objects"]
    assert lists
    assert all("Of Interest" in out for out in lists)
    (state,) = found.by("dcmpschk")
    if variant not in COMPLAINTS:
        assert state.lines("W:")[-1] == "W: Test passed."
        return
    # What it finds is the source's own, copied as it is.
    named = {line.split(" (")[0].split()[-1] for line in state.err.splitlines() if "Affected attribute" in line}
    absent = {line.split()[1] for line in state.lines("W:") if "absent or empty" in line}
    assert named | absent == COMPLAINTS[variant]


def pixels(path: Path) -> Any:
    """Return the picture of a PPM file, uint8 [H,W,3]."""
    return np.asarray(cv2.imread(str(path)))[..., ::-1]


@pytest.mark.parametrize("variant", ["CR MONOCHROME2 12 bits", "DX MONOCHROME1 8 bits", "lossy source"])
def test_dcmtk_shows_the_pictures_that_went_in(examined: Examinations, variant: str) -> None:
    files = examined[variant].files
    for kind, worst in (("multi-frame-capture", 0), ("multi-frame-capture as jpeg", 60)):
        dark, bright = (pixels(Path(f"{files[kind]}.{frame}.ppm")).astype(int) for frame in (1, 2))
        assert np.abs(dark).max() <= worst / 20
        assert np.abs(bright - PICTURE).mean() <= worst
    assert pixels(Path(f"{files['secondary-capture']}.1.ppm")).shape == PICTURE.shape


@pytest.mark.parametrize("variant", [each for each in VARIANTS if each not in WITHOUT_MAP])
def test_highdicom_reads_the_map_and_where_it_lies(examined: Examinations, variant: str) -> None:
    file = examined[variant].files["parametric-map"]
    read = highdicom.imread(file)
    assert np.array_equal(read.get_frames(apply_real_world_transform=True)[0].astype(np.float32), EVIDENCE)
    assert read.FrameOfReferenceUID
    geometry = read.get_volume_geometry()
    assert geometry is not None
    # The middle of the map is the middle of the source, whose first pixel's centre is the origin.
    down, across = (float(each) for each in source_spacing(variant))
    middle = geometry.map_indices_to_reference(np.array([[0, 111.5, 111.5]]))[0]
    assert np.allclose(middle, [(96 - 1) / 2 * across, 0, -(128 - 1) / 2 * down], atol=1e-3)


def source_spacing(variant: str) -> Any:
    changes = {key: value for key, value in VARIANTS[variant].items() if key not in ("modality", "finding")}
    original = source(**changes)
    return original.get("PixelSpacing") or original.ImagerPixelSpacing


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_page_comes_out_whole_and_names_nobody(examined: Examinations, variant: str) -> None:
    file = examined[variant].files["encapsulated-pdf"]
    dataset = pydicom.dcmread(file)
    page = Path(f"{file}.pdf").read_bytes()
    assert page == dataset.EncapsulatedDocument[: dataset.EncapsulatedDocumentLength]
    read = pypdf.PdfReader(BytesIO(page))
    assert len(read.pages) == 1
    words = read.pages[0].extract_text()
    probability = (VARIANTS[variant].get("finding") or FINDING).probability
    assert f"{probability:.4f}" in words
    assert "For research use. Not for diagnosis." in words
    everything = words + str(read.metadata)
    for keyword in ("PatientID", "PatientName", "AccessionNumber", "StudyInstanceUID"):
        value = str(dataset.get(keyword) or "")
        assert not value or value not in everything
