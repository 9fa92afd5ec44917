"""Looks whether the pixel data of a file is all there, by its lengths alone: nothing is decoded, little is read."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_io.errors import ObjectCutShort
from dicom_io.header.attributes import integer, text

# Float, Double Float and plain Pixel Data, with which the part of a file that is not read as header begins.
_PIXELS = ((0x7FE0, 0x0008), (0x7FE0, 0x0009), (0x7FE0, 0x0010))
_LONG = (b"OB", b"OD", b"OF", b"OV", b"OW", b"UN")
ITEM = b"\xfe\xff\x00\xe0"
ITEM_BIG_ENDIAN = b"\xff\xfe\xe0\x00"  # which is never right: encapsulated data is little endian
_UNDEFINED = 0xFFFFFFFF
_STARTS = (
    ITEM,
    ITEM_BIG_ENDIAN,
    b"\xff\xd8\xff",  # JPEG and JPEG-LS
    b"\xff\x4f\xff\x51",  # JPEG 2000
    b"\x00\x00\x00\x0cjP  \r\n\x87\n",  # and as a file
)
_RLE_HEADER = 64


def begins_compressed(data: bytes) -> bool:
    """Tell whether pixel data begins as compressed data does: with an item, or with a code stream alone."""
    if data.startswith(_STARTS) or len(data) < _RLE_HEADER:
        return data.startswith(_STARTS)
    count, first, *rest = struct.unpack_from("<16I", data)  # RLE's table of segments (PS3.5 G.5)
    return 1 <= count <= 15 and first == _RLE_HEADER and not any(rest[count - 1 :])


def has_long_representation(head: bytes) -> bool:
    """Tell whether pixel data is explicit, with a length of four bytes, by its first eight bytes.

    Some objects are explicit in an implicit transfer syntax. A length that begins like a representation would be odd.
    """
    return head[4:6] in _LONG and head[6:8] == b"\0\0"


def require_end(file: BinaryIO, header: Dataset) -> None:
    """Raise ObjectCutShort where the pixel data of a file ends before its lengths say, and a part of it is missing.

    Parameters
    ----------
    file
        The whole file, not deflated.
    header
        As it was read from there: it tells how values are written, and how large the image is.
    """
    pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=["SOPInstanceUID"])
    place = file.tell()
    size = os.fstat(file.fileno()).st_size
    order = "<" if header.original_encoding[1] else ">"
    head = file.read(12)
    if len(head) < 4 or struct.unpack(f"{order}2H", head[:4]) not in _PIXELS:
        return  # none, or nothing that could be told
    begin = 12 if has_long_representation(head) else 8
    if len(head) < begin:
        raise ObjectCutShort(f"the object is cut short at {size} bytes")
    (length,) = struct.unpack(f"{order}I", head[begin - 4 : begin])
    begin += place
    if length == _UNDEFINED:
        _require_fragments(file, begin, size)
        return
    expected = 0 if _is_encapsulated(header) else _native_size(header)
    one = (integer(header, "NumberOfFrames") or 0) <= 1
    if begin + length > size and not (one and 0 < expected <= size - begin):  # what is missing are no pixels
        raise ObjectCutShort(f"the object is cut short at {size} of {begin + length} bytes")
    file.seek(begin)
    # What is compressed under a native syntax, or bare under another one, is refused for that.
    if length < expected and not begins_compressed(file.read(min(length, _RLE_HEADER))):
        raise ObjectCutShort(f"the object is cut short at {length} of {expected} bytes of pixel data")


def _require_fragments(file: BinaryIO, begin: int, size: int) -> None:
    """Walk the items of encapsulated pixel data (PS3.5 A.4): each must end before the file does."""
    place, fragments = begin, 0
    while place + 8 <= size:
        file.seek(place)
        tag, length = struct.unpack("<4sI", file.read(8))
        if tag != ITEM or length == _UNDEFINED:
            return
        place += 8 + length
        if place > size:
            raise ObjectCutShort(f"the object is cut short at {size} of {place} bytes")
        fragments += 1
    if fragments < 2:  # an offset table at most
        raise ObjectCutShort(f"the object is cut short at {size} bytes")


def _is_encapsulated(header: Dataset) -> bool:
    syntax = UID(text(header.file_meta, "TransferSyntaxUID"))
    return bool(syntax.is_transfer_syntax and syntax.is_encapsulated)


def _native_size(header: Dataset) -> int:
    """Return how many bytes the pixels of a grey image take; 0 where it is none, or does not say so."""
    allocated = integer(header, "BitsAllocated") or 0
    grey = text(header, "PhotometricInterpretation").upper() in ("MONOCHROME1", "MONOCHROME2")
    if not grey or allocated not in (8, 16) or integer(header, "SamplesPerPixel") not in (None, 1):
        return 0
    rows, columns = integer(header, "Rows") or 0, integer(header, "Columns") or 0
    return max(0, rows * columns * (allocated // 8))
