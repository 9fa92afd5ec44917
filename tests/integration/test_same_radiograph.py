"""One radiograph, as a 224-pixel JPEG and as a full-size 12-bit DICOM object: the same answer."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path

import pytest

from dicom_io.header.reading import read_dataset
from dicom_io.pixels.render import Rendered
from modeltrain.model.preprocess import read_picture
from tests.support.shared import shared
from worker.inference.analyzer import Reader

NOW = dt.datetime(2026, 1, 31, tzinfo=dt.UTC)
STEMS = ("IM-0001-0001", "person1_virus_11", "NORMAL2-IM-0366-0001", "person80_bacteria_391")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few radiographs at their original size."""
    made = tmp_path_factory.mktemp("full")
    for stem in STEMS:
        (source,) = [path for path in shared("data", "kermany_full").rglob("*") if path.stem == stem]
        target = made / source.parent.name
        target.mkdir(exist_ok=True)
        (target / source.name).symlink_to(source)
    return made


def small(stem: str) -> Path:
    """Return the 224-pixel copy of a radiograph."""
    (path,) = [path for path in shared("data", "kermany224", "test").rglob("*") if path.stem == stem]
    return path


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "syntax", ["explicit", "implicit", "bigendian", "deflated", "rle", "j2k", "j2k-lossy", "jpegls"]
)
def test_as_jpeg_and_as_dicom(reader: Reader, folder: Path, tmp_path: Path, syntax: str, photometric: str) -> None:
    subprocess.run(
        [
            *(sys.executable, shared("bench", "make_dicoms.py"), folder, "--out", tmp_path),
            *("--count", str(len(STEMS)), "--syntax", syntax, "--photometric", photometric),
        ],
        check=True,
        timeout=120,
    )
    for path in sorted(tmp_path.glob("*.dcm")):
        dataset = read_dataset(path)
        stem = str(dataset.ImageComments).split()[1]
        full = reader.read(dataset).finding
        copy = reader.read_values(Rendered(values=read_picture(small(stem)), aspect=1.0)).finding
        assert full.answer == copy.answer, stem
        assert abs(full.probability - copy.probability) <= 0.03, stem
