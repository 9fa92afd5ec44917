"""One frame out of encapsulated pixel data, however its items were written (PS3.5 A.4)."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from dicom_io.errors import UnsupportedPixels
from dicom_io.header.end import ITEM
from dicom_io.pixels.fragments import frame_of
from dicom_io.pixels.render import render
from tests.unit.dicom_io.pixels.test_render import grey

DELIMITER = b"\xfe\xff\xdd\xe0" + bytes(4)
FRAME = bytes(range(200))


def item(data: bytes, length: int | None = None) -> bytes:
    return ITEM + struct.pack("<I", len(data) if length is None else length) + data


@pytest.mark.parametrize("table", [b"", struct.pack("<I", 0), struct.pack("<2I", 0, 100), struct.pack("<I", 9999)])
@pytest.mark.parametrize("end", [DELIMITER, b"", bytes(8), bytes(3), DELIMITER + bytes(4)])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_all_fragments_are_the_frame(table: bytes, end: bytes, parts: int) -> None:
    size = len(FRAME) // parts
    fragments = [item(FRAME[start : start + size]) for start in range(0, len(FRAME), size)]
    assert frame_of(b"".join([item(table), *fragments, end])) == FRAME


@pytest.mark.parametrize("end", [DELIMITER, DELIMITER + bytes(2), b""])
def test_a_fragment_without_a_length_goes_on_to_the_end(end: bytes) -> None:
    assert frame_of(item(b"") + item(FRAME, 0xFFFFFFFF) + end) == FRAME


@pytest.mark.parametrize("kept", [1, 100, 199])
def test_a_fragment_that_ends_early_is_told(kept: int) -> None:
    data = item(b"") + item(FRAME)
    with pytest.raises(UnsupportedPixels, match=f"cut short at {16 + kept} of {len(data)} bytes"):
        frame_of(data[: 16 + kept])


@pytest.mark.parametrize(("data", "words"), [(b"", "native"), (FRAME, "native"), (item(b"") + DELIMITER, "no frame")])
def test_what_holds_no_frame_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(UnsupportedPixels, match=words):
        frame_of(data)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("excess", [0, 2, 4000])
def test_items_under_a_native_syntax_are_never_pixels(syntax: UID, order: str, excess: int) -> None:
    dataset = grey()
    data = bytes(dataset.PixelData) + bytes(excess)
    head = struct.pack(f"{order}2HL2HL", 0xFFFE, 0xE000, 0, 0xFFFE, 0xE000, len(data))
    dataset.PixelData = head + data + struct.pack(f"{order}2HL", 0xFFFE, 0xE0DD, 0)
    dataset.file_meta.TransferSyntaxUID = syntax
    with pytest.raises(UnsupportedPixels, match="encapsulated pixel data under a native"):
        render(dataset)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_picture_that_begins_like_an_item_is_one(order: str) -> None:
    dataset = grey(bits=16)
    data = struct.pack(f"{order}2H", 0xFFFE, 0xE000) + bytes(dataset.PixelData)[4:]
    dataset.PixelData = data
    assert render(dataset).values.shape == (64, 96)


COUNTS = [b"0 ", b"", b"1 ", b"+1", b"-1", b"-0", b"001 ", b"1.0 ", b"1\0", b"\0\0", b"  ", b"1e0 ", b"one ", b"1,0 "]
COUNTS += [b"1\\1 ", b"nan ", b"1.5 ", b"\xb9 "]


@pytest.mark.parametrize("rle", [False, True])
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.filterwarnings("ignore")
def test_one_frame_is_one_whatever_the_header_counts(count: bytes, rle: bool) -> None:
    dataset = grey()
    expected = render(dataset).values
    if rle:
        dataset.compress(RLELossless, generate_instance_uid=False)
    dataset[0x00280008] = RawDataElement(Tag(0x00280008), "IS", len(count), count, 0, False, True)
    assert np.array_equal(render(dataset).values, expected)


@pytest.mark.parametrize("count", [b"2 ", b"+2", b"16", b"999999999999"])
def test_several_frames_are_refused(count: bytes) -> None:
    dataset = grey()
    dataset[0x00280008] = RawDataElement(Tag(0x00280008), "IS", len(count), count, 0, False, True)
    with pytest.raises(UnsupportedPixels, match="frames: only a single frame"):
        render(dataset)


@pytest.mark.parametrize("count", [b"0 ", b"", b"x "])
@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
@pytest.mark.filterwarnings("ignore")
def test_two_frames_that_nobody_counts_are_not_one(syntax: UID, count: bytes) -> None:
    dataset = grey()
    expected = render(dataset).values
    dataset.compress(syntax, generate_instance_uid=False)
    frame = frame_of(dataset.PixelData)
    dataset[0x00280008] = RawDataElement(Tag(0x00280008), "IS", len(count), count, 0, False, True)
    dataset.PixelData = item(b"") + item(frame) + item(frame)
    with pytest.raises(UnsupportedPixels, match="number of frames is not stated, and 2 code streams"):
        render(dataset)
    half = len(frame) // 4 * 2
    dataset.PixelData = item(b"") + item(frame[:half]) + item(frame[half:])
    assert np.array_equal(render(dataset).values, expected)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_items_that_happen_to_have_an_image_s_size_are_no_pixels(syntax: UID) -> None:
    dataset = grey()
    size = len(dataset.PixelData)
    dataset.compress(syntax, generate_instance_uid=False)
    dataset.PixelData = item(b"") + item(frame_of(dataset.PixelData).ljust(size - 16, b"\0"))
    assert len(dataset.PixelData) == size
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    with pytest.raises(UnsupportedPixels, match="encapsulated pixel data under a native transfer syntax"):
        render(dataset)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_a_bare_code_stream_is_named(syntax: UID) -> None:
    dataset = grey(rows=128)
    dataset.compress(syntax, generate_instance_uid=False)
    dataset.PixelData = frame_of(dataset.PixelData)
    with pytest.raises(UnsupportedPixels, match="the compressed image is not encapsulated"):
        render(dataset)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.Rows = 4096
    with pytest.raises(UnsupportedPixels, match="a compressed image under a native transfer syntax"):
        render(dataset)


@pytest.mark.parametrize(("rest", "read"), [(bytes(9000), True), (b"\1" * 100, True), (b"\1" * 20_000, False)])
def test_data_of_a_further_frame_is_no_padding(rest: bytes, read: bool) -> None:
    """Eight bits are allocated and sixteen are there, say: what is read would be no picture."""
    dataset = grey(bits=8, allocated=8)
    expected = render(dataset).values
    dataset.PixelData += rest
    if read:
        assert np.array_equal(render(dataset).values, expected)
    else:
        with pytest.raises(UnsupportedPixels, match="bytes of pixel data, where one frame has 6144"):
            render(dataset)


def test_a_frame_in_rle_that_ends_between_two_fragments_is_cut_short() -> None:
    dataset = grey()
    dataset.compress(RLELossless, generate_instance_uid=False)
    frame = frame_of(dataset.PixelData)
    for length in (64, 80, len(frame) // 2, len(frame) - 20):
        dataset.PixelData = item(b"") + item(frame[:length])
        with pytest.raises(UnsupportedPixels, match=f"cut short: {length} bytes of RLE Lossless hold fewer pixels"):
            render(dataset)


def test_fragments_are_counted() -> None:
    empty = b"\xfe\xff\x00\xe0" + bytes(4)
    with pytest.raises(UnsupportedPixels, match="more than 65536 fragments"):
        frame_of(empty * 70_000)
