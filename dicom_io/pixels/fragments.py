"""The frame in encapsulated pixel data, whatever its writer made of offset table and delimiter (PS3.5 A.4)."""

from __future__ import annotations

import struct

from dicom_io.errors import UnsupportedPixels

ITEM = b"\xfe\xff\x00\xe0"
_ITEM_BIG_ENDIAN = b"\xff\xfe\xe0\x00"  # which is never right: encapsulated data is little endian
_DELIMITER = b"\xfe\xff\xdd\xe0"
_UNDEFINED = 0xFFFFFFFF
MOST_FRAGMENTS = 65_536
"""Fragments of one frame; an empty one has eight bytes and costs ten times that."""


def is_encapsulated(data: bytes) -> bool:
    """Tell whether pixel data begins as encapsulated data does: with the item of an offset table, in either order."""
    return data[:4] in (ITEM, _ITEM_BIG_ENDIAN)


def frame_of(data: bytes) -> bytes:
    """Return the one frame of encapsulated pixel data: all fragments belong to it, whatever the offset table says.

    The delimiter may be absent, or zeros may stand for it. A fragment without a length goes on to the end.

    Raises
    ------
    UnsupportedPixels
        The data is not encapsulated, holds no fragment or too many, or ends within one.
    """
    if data[:4] != ITEM:
        raise UnsupportedPixels("native pixel data under an encapsulated transfer syntax")
    fragments: list[bytes] = []
    place = 0
    while place + 8 <= len(data) and data[place : place + 4] == ITEM:
        (length,) = struct.unpack_from("<I", data, place + 4)
        if len(fragments) > MOST_FRAGMENTS:
            raise UnsupportedPixels(f"the frame has more than {MOST_FRAGMENTS} fragments")
        begin = place + 8
        if length == _UNDEFINED:
            fragments.append(_without_delimiter(data[begin:]))
            break
        if begin + length > len(data):
            raise cut_short(len(data), begin + length)
        fragments.append(data[begin : begin + length])
        place = begin + length
    frame = b"".join(fragments[1:])  # the first item is the offset table
    if not frame:
        raise UnsupportedPixels("the encapsulated pixel data holds no frame")
    return frame


def _without_delimiter(data: bytes) -> bytes:
    end = data.rfind(_DELIMITER)
    return data[:end] if end >= 0 and not data[end + 8 :].strip(b"\0") else data


def cut_short(present: int, stated: int) -> UnsupportedPixels:
    """Return the error that pixel data ends too early, after `present` of `stated` bytes."""
    return UnsupportedPixels(f"the object is cut short at {present} of {stated} bytes of pixel data")
