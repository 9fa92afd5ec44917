"""The frame in encapsulated pixel data, whatever its writer made of offset table and delimiter (PS3.5 A.4)."""

from __future__ import annotations

import struct

from dicom_io.errors import UnsupportedPixels
from dicom_io.header.end import ITEM, ITEM_BIG_ENDIAN, begins_compressed

_DELIMITER = b"\xfe\xff\xdd\xe0"
_UNDEFINED = 0xFFFFFFFF
MOST_FRAGMENTS = 65_536
"""Fragments of one frame; an empty one has eight bytes and costs ten times that."""


def is_encapsulated(data: bytes) -> bool:
    """Tell whether pixel data begins as encapsulated data does: with the item of an offset table, in either order."""
    return data[:4] in (ITEM, ITEM_BIG_ENDIAN)


def is_full_of_items(data: bytes) -> bool:
    """Tell whether pixel data is items from its begin to its end, or to a delimiter."""
    order = "<" if data[:4] == ITEM else ">"
    place = 0
    while place + 8 <= len(data):
        group, number, length = struct.unpack_from(f"{order}2HI", data, place)
        if group != 0xFFFE or number != 0xE000:
            return (group, number) == (0xFFFE, 0xE0DD)
        place += 8 + length
    return place == len(data)


def frame_of(data: bytes, *, one: bool = True) -> bytes:
    """Return the one frame of encapsulated pixel data: all fragments belong to it, whatever the offset table says.

    The delimiter may be absent, or zeros may stand for it. A fragment without a length goes on to the end.

    Parameters
    ----------
    data
        The value of the Pixel Data element.
    one
        Whether the header says that there is one frame, if only by saying nothing.

    Raises
    ------
    UnsupportedPixels
        The data is not encapsulated, holds no fragment or too many, or ends within one; or nobody says that it is one
        frame, and several of its fragments begin one.
    """
    if data[:4] != ITEM:
        if begins_compressed(data):
            raise UnsupportedPixels("the compressed image is not encapsulated")
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
    begun = sum(map(begins_compressed, fragments[1:]))
    if not one and begun > 1:
        raise UnsupportedPixels(f"the number of frames is not stated, and {begun} code streams are not those of one")
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
