"""What reading a hostile data set costs."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from dicom_io.errors import OutOfResources, UnreadableObject
from dicom_io.header.eligibility import judge
from dicom_io.header.reading import read_arrived, read_dataset, read_header
from dicom_io.header.reading_limits import ReadingLimits
from dicom_io.header.rules import Rules
from dicom_io.header.source_image import source_image
from dicom_io.memory import MemoryBudget
from tests.support.bombs import begin, deflated, header_bytes, many_elements, measured, nested

READ = """
from pathlib import Path
from dicom_io.header.reading_limits import ReadingLimits
from dicom_io.header.reading import {name} as read
def run():
    read(Path(sys.argv[1]), ReadingLimits(max_elements=50_000, max_memory_mb=int(sys.argv[2])))
"""
VALUE = b"\xdf\x7f\x10\x10OB\0\0" + (600_000_000).to_bytes(4, "little")
READERS = [read_arrived, read_header, read_dataset]


@pytest.mark.parametrize("reader", ["read_arrived", "read_header", "read_dataset"])
@pytest.mark.parametrize("where", ["pixels", "header"])
def test_a_deflate_bomb_is_refused_within_its_bound(tmp_path: Path, reader: str, where: str) -> None:
    path = deflated(tmp_path / "bomb.dcm", 300, where=where)
    assert path.stat().st_size < 400_000
    words, megabytes, seconds = measured(READ.format(name=reader), path, 200)
    assert words == "UnreadableObject: the object would need more than 200 MB of memory when it is inflated"
    assert megabytes < (250 if reader == "read_dataset" else 60)
    assert seconds < 5


def test_the_receiver_reads_the_header_of_a_deflated_object_without_its_pixels(tmp_path: Path) -> None:
    path = deflated(tmp_path / "large.dcm", 200)
    words, megabytes, _ = measured(READ.format(name="read_arrived"), path, 1000)
    assert words == "done"
    assert megabytes < 100
    assert read_arrived(path).Modality == "DX"


@pytest.mark.parametrize("form", ["flat", "implicit", "undefined", "defined"])
@pytest.mark.parametrize("reader", ["read_header", "read_dataset"])
def test_elements_are_counted(tmp_path: Path, form: str, reader: str) -> None:
    path = many_elements(tmp_path / "many.dcm", 120_000, form)
    words, megabytes, seconds = measured(READ.format(name=reader), path, 1000)
    assert words == "UnreadableObject: the data set has more than 50000 elements"
    assert megabytes < 80
    assert seconds < 5


@pytest.mark.parametrize("form", ["flat", "implicit", "undefined"])
def test_the_receiver_counts_what_it_parses(tmp_path: Path, form: str) -> None:
    path = many_elements(tmp_path / "many.dcm", 120_000, form)
    words, megabytes, seconds = measured(READ.format(name="read_arrived"), path, 1000)
    assert words == "UnreadableObject: the data set has more than 50000 elements"
    assert megabytes < 80
    assert seconds < 5


def test_the_receiver_does_not_look_into_a_sequence_with_a_length(tmp_path: Path) -> None:
    path = many_elements(tmp_path / "many.dcm", 120_000, "defined")
    before = time.monotonic()
    assert read_arrived(path).Modality == "DX"
    assert time.monotonic() - before < 0.5


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("form", ["flat", "implicit", "undefined"])
def test_an_object_with_as_many_elements_as_allowed_is_read(tmp_path: Path, reader: object, form: str) -> None:
    path = many_elements(tmp_path / "some.dcm", 5000, form)
    limits = ReadingLimits(max_elements=5100)
    assert callable(reader)
    assert len(reader(path, limits)) > 0
    with pytest.raises(UnreadableObject, match="more than 800 elements"):
        reader(path, ReadingLimits(max_elements=800))


@pytest.mark.parametrize("reader", READERS)
def test_sequences_in_one_another(tmp_path: Path, reader: object) -> None:
    assert callable(reader)
    with pytest.raises(UnreadableObject, match="in one another too deep"):
        reader(nested(tmp_path / "deep.dcm", 2000, defined=False))
    assert reader(nested(tmp_path / "deep.dcm", 2000, defined=True)).Modality == "DX"


def test_a_sequence_that_is_too_deep_counts_as_absent(tmp_path: Path) -> None:
    header = read_header(nested(tmp_path / "deep.dcm", 2000, defined=True))
    assert judge(header, Rules()).analyse
    assert source_image(header).requests == ()


def test_a_large_value_before_the_pixels_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.dcm"
    head = begin(ExplicitVRLittleEndian) + header_bytes() + VALUE
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + 600_000_000)
    for reader in ("read_arrived", "read_header"):
        words, megabytes, seconds = measured(READ.format(name=reader), path, 1000)
        assert (words, megabytes < 20, seconds < 1) == ("done", True, True)
    with pytest.raises(UnreadableObject, match="would need 601 MB of memory, at most 500 are allowed"):
        read_dataset(path, ReadingLimits(max_memory_mb=500))


def many_values(path: Path) -> Path:
    """Write a file whose header has 20 values of a megabyte: each of them small enough to be read at once."""
    with path.open("wb") as file:
        file.write(begin(ExplicitVRLittleEndian) + header_bytes())
        for number in range(20):
            file.write(struct.pack("<2H2sHI", 0x6001, 0x1000 + number, b"OB", 0, 990_000))
            file.truncate(file.seek(990_000, 1))
    return path


@pytest.mark.parametrize("form", ["flat", "implicit", "undefined", "values", "deflated"])
def test_a_header_takes_its_memory_from_the_budget(tmp_path: Path, form: str) -> None:
    """20 associations with such headers took 1.3 GB."""
    path = tmp_path / "large.dcm"
    if form == "values":
        many_values(path)
    elif form == "deflated":
        deflated(path, 20, where="header")
    else:
        many_elements(path, 50_000, form)
    budget = MemoryBudget(200_000_000)
    with budget.share() as share:
        assert read_arrived(path, ReadingLimits(share=share))
        held = budget.held
    assert held > 15_000_000
    assert budget.held == 0
    for reader in (read_arrived, read_header):
        with pytest.raises(OutOfResources, match=r"scp\.max_memory_mb"):
            reader(path, ReadingLimits(share=MemoryBudget(held // 2).share()))


def test_an_ordinary_header_needs_nothing_of_the_budget(tmp_path: Path) -> None:
    path = tmp_path / "some.dcm"
    many_elements(path, 1000, "undefined")
    assert read_arrived(path, ReadingLimits(share=MemoryBudget(0).share())).Modality == "DX"


def test_values_that_are_read_at_once_are_counted(tmp_path: Path) -> None:
    with pytest.raises(UnreadableObject, match=r"would need 1\d MB of memory, at most 10 are allowed"):
        read_arrived(many_values(tmp_path / "large.dcm"), ReadingLimits(max_memory_mb=10))


def test_a_damaged_deflated_object(tmp_path: Path) -> None:
    path = deflated(tmp_path / "small.dcm", 1)
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    with pytest.raises(UnreadableObject, match="truncated"):
        read_arrived(path)
    path.write_bytes(begin(DeflatedExplicitVRLittleEndian) + b"\xff" * 50)
    with pytest.raises(UnreadableObject, match="the deflated data set is damaged"):
        read_arrived(path)
