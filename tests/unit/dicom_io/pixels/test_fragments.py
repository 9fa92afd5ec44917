"""One frame out of encapsulated pixel data, however its items were written (PS3.5 A.4)."""

from __future__ import annotations

import struct

import pytest

from dicom_io.errors import UnsupportedPixels
from dicom_io.pixels.fragments import ITEM, frame_of

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
