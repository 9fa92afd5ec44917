"""What of a cut object can be known when it arrives, without a look at its pixels."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from dicom_io.errors import CxrdError, ObjectCutShort, UnreadableObject
from dicom_io.header.reading import read_arrived, read_dataset, read_header
from dicom_io.pixels.render import render
from tests.support.peers import chest
from tests.unit.dicom_io.header.test_reading_the_end import SYNTAXES, written

DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"


def compressed(folder: Path, parts: int = 1) -> bytes:
    """Return a radiograph in RLE, its frame in so many fragments, as a file."""
    dataset = chest("the end")
    dataset.compress(RLELossless)
    if parts > 1:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        step = len(frame) // parts // 2 * 2
        pieces = [frame[at : at + step] for at in range(0, len(frame), step)]
        items = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(each)) + each for each in pieces)
        dataset.PixelData = b"\xfe\xff\x00\xe0" + bytes(4) + items
    path = folder / "compressed.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path.read_bytes()


def arrived(folder: Path, data: bytes) -> Dataset:
    path = folder / "arrived.dcm"
    path.write_bytes(data)
    return read_arrived(path)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("missing", [1, 2, 100, 500])
def test_native_pixels_that_end_early(tmp_path: Path, syntax: str, missing: int) -> None:
    data = written(tmp_path, syntax)
    assert arrived(tmp_path, data).Modality == "DX"
    with pytest.raises(ObjectCutShort, match=f"cut short at {len(data) - missing} of {len(data)} bytes"):
        arrived(tmp_path, data[:-missing])


@pytest.mark.parametrize("syntax", [*SYNTAXES, RLELossless])
def test_wherever_it_ends_it_is_refused_or_lacks_pixels_and_nothing_untrue_is_said(tmp_path: Path, syntax: str) -> None:
    """An object that ends between two elements cannot be told from one that has no pixel data."""
    data = compressed(tmp_path) if syntax == RLELossless else written(tmp_path, syntax)
    whole = len(data) - (8 if syntax == RLELossless else 0)
    accepted = 0
    for length in range(400, whole, 7):
        try:
            header = arrived(tmp_path, data[:length])
        except UnreadableObject as error:
            assert re.search("cut short at|not a readable DICOM object", str(error))  # noqa: PT017 - not every length raises
            continue
        accepted += 1
        assert "PixelData" not in header
        with pytest.raises(CxrdError, match=r"no pixel data|Rows or Columns|unknown or absent|bits allocated"):
            render(read_dataset(tmp_path / "arrived.dcm"))
    assert accepted <= 15


@pytest.mark.parametrize("parts", [1, 2, 7])
@pytest.mark.parametrize("end", [DELIMITER, b"", bytes(8), b"\xfe\xff\xdd\xe0\xff\xff\xff\xff", DELIMITER[:3]])
def test_whole_fragments_are_taken_whatever_comes_behind_them(tmp_path: Path, parts: int, end: bytes) -> None:
    data = compressed(tmp_path, parts)
    assert data.endswith(DELIMITER)
    assert arrived(tmp_path, data[: -len(DELIMITER)] + end).Modality == "DX"


@pytest.mark.parametrize("parts", [1, 2, 7])
@pytest.mark.parametrize("missing", [1, 2, 50, 300])
def test_a_fragment_that_ends_early(tmp_path: Path, parts: int, missing: int) -> None:
    data = compressed(tmp_path, parts)
    cut = data[: len(data) - len(DELIMITER) - missing]
    with pytest.raises(ObjectCutShort, match=f"cut short at {len(cut)} of"):
        arrived(tmp_path, cut)


def test_an_offset_table_alone_is_no_frame(tmp_path: Path) -> None:
    data = compressed(tmp_path)
    begin = data.index(b"\xe0\x7f\x10\x00OB")
    for length in (12, 20):
        with pytest.raises(ObjectCutShort, match="cut short at"):
            arrived(tmp_path, data[: begin + length])


def test_fewer_bytes_than_the_image_needs(tmp_path: Path) -> None:
    dataset = chest("the end")
    size = len(dataset.PixelData)
    dataset.PixelData = dataset.PixelData[:-2]
    path = tmp_path / "short.dcm"
    dataset.save_as(path, enforce_file_format=True)
    with pytest.raises(ObjectCutShort, match=f"cut short at {size - 2} of {size} bytes of pixel data"):
        read_arrived(path)


@pytest.mark.parametrize(
    "attributes",
    [
        {"PhotometricInterpretation": "YBR_FULL_422", "SamplesPerPixel": 3},  # two bytes a pixel
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"BitsAllocated": 1},
        {"Rows": None},
        {"BitsAllocated": None},
    ],
)
def test_what_is_no_grey_image_is_not_measured(tmp_path: Path, attributes: dict[str, Any]) -> None:
    dataset = chest("the end", **attributes)
    dataset.PixelData = dataset.PixelData[:-200]
    path = tmp_path / "short.dcm"
    dataset.save_as(path, enforce_file_format=True)
    assert read_arrived(path).Modality == "DX"


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("start", [b"\xfe\xff\x00\xe0\0\0\0\0", b"\xff\xd8\xff\xc3", b"\xff\x4f\xff\x51\0\0"])
def test_what_is_compressed_under_a_native_syntax_is_not_cut_short(tmp_path: Path, syntax: str, start: bytes) -> None:
    """It is refused for what it is, when it is read."""
    dataset = chest("the end")
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset["PixelData"].VR = "OB" if dataset.BitsAllocated == 8 else "OW"
    dataset.PixelData = start + bytes(500)
    path = tmp_path / "compressed.dcm"
    dataset.save_as(path, enforce_file_format=True)
    assert read_arrived(path).Modality == "DX"
    with pytest.raises(CxrdError, match="under a native transfer syntax"):
        render(read_dataset(path))


def test_what_is_not_encapsulated_under_its_own_syntax_is_not_cut_short(tmp_path: Path) -> None:
    dataset = chest("the end")
    dataset.compress(RLELossless)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    path = tmp_path / "bare.dcm"
    dataset.save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    place = data.index(b"\xe0\x7f\x10\x00OB")
    path.write_bytes(data[: place + 8] + struct.pack("<I", len(frame)) + frame)
    assert read_arrived(path).Modality == "DX"
    with pytest.raises(CxrdError, match="the compressed image is not encapsulated"):
        render(read_dataset(path))


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_length_beyond_the_end_where_no_pixel_is_missing(tmp_path: Path, syntax: str) -> None:
    dataset = chest("the end")
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset["PixelData"].VR = "OB" if dataset.BitsAllocated == 8 else "OW"
    dataset.PixelData += bytes(100)
    path = tmp_path / "long.dcm"
    dataset.save_as(path, enforce_file_format=True)
    whole = render(read_dataset(path)).values
    path.write_bytes(path.read_bytes()[:-50])
    assert read_arrived(path).Modality == "DX"
    assert np.array_equal(render(read_dataset(path)).values, whole)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ObjectCutShort):
        read_arrived(path)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_an_object_in_the_other_form_than_its_syntax_says_is_whole(tmp_path: Path, syntax: str) -> None:
    other = {ExplicitVRLittleEndian: ImplicitVRLittleEndian, ImplicitVRLittleEndian: ExplicitVRLittleEndian}[
        UID(syntax)
    ]
    stated, body = written(tmp_path, syntax), written(tmp_path, other)
    data = stated[: _end_of_meta(stated)] + body[_end_of_meta(body) :]
    assert arrived(tmp_path, data).Modality == "DX"
    with pytest.raises(ObjectCutShort):
        arrived(tmp_path, data[:-2])


def _end_of_meta(data: bytes) -> int:
    return 144 + int(struct.unpack_from("<I", data, 140)[0])


def test_a_file_that_ends_within_or_behind_its_meta_information(tmp_path: Path) -> None:
    data = written(tmp_path, ExplicitVRLittleEndian)
    end = _end_of_meta(data)
    for length in (150, 200, end - 1):
        with pytest.raises(ObjectCutShort, match=f"cut short at {length} of {end} bytes"):
            read_header(_put(tmp_path, data[:length]))
    with pytest.raises(UnreadableObject, match="holds no data set"):
        read_header(_put(tmp_path, data[:end]))


@pytest.mark.parametrize("defined", [False, True])
def test_a_header_that_ends_within_a_sequence_or_a_length(tmp_path: Path, defined: bool) -> None:
    dataset = chest("the end")
    request = Dataset()
    request.RequestedProcedureDescription = "x" * 60
    request.is_undefined_length_sequence_item = not defined
    dataset.RequestAttributesSequence = [request]
    dataset["RequestAttributesSequence"].is_undefined_length = not defined
    path = tmp_path / "whole.dcm"
    dataset.save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    pixels = data.index(b"\xe0\x7f\x10\x00O")
    for length in (data.index(b"x" * 60) + 20, pixels - 1, pixels + 9, pixels + 11):
        for read in (arrived, lambda folder, part: read_dataset(_put(folder, part))):
            with pytest.raises(ObjectCutShort, match=f"cut short at {length}"):
                read(tmp_path, data[:length])


def _put(folder: Path, data: bytes) -> Path:
    path = folder / "put.dcm"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("tail", [bytes(2), bytes(512), b"\xfc\xff\xfc\xffOB\0\0\x40\0\0\0" + bytes(64), bytes(7)])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_more_behind_the_pixels_does_no_harm(tmp_path: Path, syntax: UID, tail: bytes) -> None:
    data = compressed(tmp_path) if syntax == RLELossless else written(tmp_path, syntax)
    assert arrived(tmp_path, data + tail).Modality == "DX"


def test_no_codec_is_needed() -> None:
    names = {name.split(".")[0] for name in vars(sys.modules["dicom_io.header.end"])}
    assert names.isdisjoint({"cv2", "gdcm", "numpy", "openjpeg", "PIL"})
