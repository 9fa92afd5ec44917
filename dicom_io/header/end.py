"""Looks whether the pixel data of a file is all there, by its lengths alone: nothing is decoded, little is read."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset

from dicom_io.errors import ObjectCutShort
from dicom_io.header.attributes import integer, text

# Float, Double Float and plain Pixel Data, with which the part of a file that is not read as header begins.
_PIXELS = ((0x7FE0, 0x0008), (0x7FE0, 0x0009), (0x7FE0, 0x0010))
_LONG = (b"OB", b"OD", b"OF", b"OV", b"OW", b"UN")
_ITEM = b"\xfe\xff\x00\xe0"
_UNDEFINED = 0xFFFFFFFF


def require_end(file: BinaryIO, header: Dataset) -> None:
    """Raise ObjectCutShort where the pixel data of a file ends before its lengths say.

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
    implicit, little = header.original_encoding
    order = "<" if little else ">"
    head = file.read(12)
    if len(head) < 4 or struct.unpack(f"{order}2H", head[:4]) not in _PIXELS:
        return  # none, or nothing that could be told
    begin = 12 if not implicit and head[4:6] in _LONG else 8
    if len(head) < begin:
        raise ObjectCutShort(f"the object is cut short at {size} bytes")
    (length,) = struct.unpack(f"{order}I", head[begin - 4 : begin])
    begin += place
    if length == _UNDEFINED:
        _require_fragments(file, begin, size)
        return
    if begin + length > size:
        raise ObjectCutShort(f"the object is cut short at {size} of {begin + length} bytes")
    expected = _native_size(header)
    if length < expected:
        raise ObjectCutShort(f"the object is cut short at {length} of {expected} bytes of pixel data")


def _require_fragments(file: BinaryIO, begin: int, size: int) -> None:
    """Walk the items of encapsulated pixel data (PS3.5 A.4): each must end before the file does."""
    place, fragments = begin, 0
    while place + 8 <= size:
        file.seek(place)
        tag, length = struct.unpack("<4sI", file.read(8))
        if tag != _ITEM or length == _UNDEFINED:
            return
        place += 8 + length
        if place > size:
            raise ObjectCutShort(f"the object is cut short at {size} of {place} bytes")
        fragments += 1
    if fragments < 2:  # an offset table at most
        raise ObjectCutShort(f"the object is cut short at {size} bytes")


def _native_size(header: Dataset) -> int:
    """Return how many bytes the pixels of a grey image take; 0 where it is none, or does not say so."""
    allocated = integer(header, "BitsAllocated") or 0
    grey = text(header, "PhotometricInterpretation").upper() in ("MONOCHROME1", "MONOCHROME2")
    if not grey or allocated not in (8, 16) or integer(header, "SamplesPerPixel") not in (None, 1):
        return 0
    rows, columns = integer(header, "Rows") or 0, integer(header, "Columns") or 0
    return max(0, rows * columns * (allocated // 8))
