"""What a compressed image says of its own size, read before any decoder is allowed to allocate memory for it."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dicom_io.errors import UnsupportedPixels

# PS3.5 annex A.4: the transfer syntaxes whose frame is a JPEG or JPEG-LS code stream, and those of JPEG 2000 and HTJ2K.
JPEG_SYNTAXES = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81))
JPEG_2000_SYNTAXES = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 92, 93, 201, 202, 203))

# Start of frame markers (ISO/IEC 10918-1 table B.1: SOF0 to SOF15 without DHT, JPG and DAC; ISO/IEC 14495-1: SOF55).
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
# Markers without a length: TEM and the restart markers.
_STAND_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  \r\n\x87\n"


@dataclass(frozen=True)
class Dimensions:
    """Size of one compressed frame as its own header states it."""

    rows: int
    columns: int
    components: int
    bits: int  # precision of one sample
    signed: bool


def dimensions(data: bytes, transfer_syntax: str) -> Dimensions | None:
    """Read the size of a compressed frame from its header, without decoding it.

    Parameters
    ----------
    data
        One frame's code stream (the fragments of one frame, joined).
    transfer_syntax
        UID of the transfer syntax it came in.

    Returns
    -------
    Dimensions or None
        None for a syntax whose code stream does not state its size (RLE, native).

    Raises
    ------
    UnsupportedPixels
        The header is missing, cut off or makes no sense.
    """
    try:
        if transfer_syntax in JPEG_SYNTAXES:
            return _jpeg(data)
        if transfer_syntax in JPEG_2000_SYNTAXES:
            return _jpeg_2000(data)
    except (struct.error, IndexError) as error:
        raise UnsupportedPixels("the compressed image ends within its header") from error
    return None


def _jpeg(data: bytes) -> Dimensions:
    """Walk the marker segments of a JPEG or JPEG-LS stream to the frame header (ISO/IEC 10918-1 B.2.2)."""
    if data[:2] != b"\xff\xd8":
        raise UnsupportedPixels("the compressed image is not a JPEG code stream")
    at = 2
    while True:
        if data[at] != 0xFF:
            raise UnsupportedPixels("the JPEG code stream has no frame header")
        while data[at] == 0xFF:  # fill bytes may stand before a marker
            at += 1
        marker = data[at]
        at += 1
        if marker in _STAND_ALONE:
            continue
        if marker in (0xD9, 0xDA):  # the image's end, or its first scan, before any frame header
            raise UnsupportedPixels("the JPEG code stream has no frame header")
        (length,) = struct.unpack_from(">H", data, at)
        if length < 2:
            raise UnsupportedPixels("the JPEG code stream has a segment of impossible length")
        if marker in _START_OF_FRAME:
            bits, rows, columns, components = struct.unpack_from(">BHHB", data, at + 2)
            return Dimensions(rows, columns, components, bits, signed=False)
        at += length


def _jpeg_2000(data: bytes) -> Dimensions:
    """Read the SIZ segment, the first of every JPEG 2000 and HTJ2K code stream (ISO/IEC 15444-1 A.5.1)."""
    at = _contiguous_codestream(data) if data.startswith(_JP2_SIGNATURE) else 0
    if data[at : at + 4] != b"\xff\x4f\xff\x51":  # SOC, SIZ
        raise UnsupportedPixels("the compressed image is not a JPEG 2000 code stream")
    x1, y1, x0, y0 = struct.unpack_from(">4I", data, at + 8)
    (components,) = struct.unpack_from(">H", data, at + 40)
    (depth,) = struct.unpack_from(">B", data, at + 42)
    if x1 <= x0 or y1 <= y0:
        raise UnsupportedPixels("the JPEG 2000 code stream describes an empty image")
    return Dimensions(y1 - y0, x1 - x0, components, (depth & 0x7F) + 1, signed=bool(depth & 0x80))


def _contiguous_codestream(data: bytes) -> int:
    """Return where the code stream starts in a JP2 file, which some encoders put into DICOM against PS3.5 A.4.4."""
    at = 0
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        header = 8
        if length == 1:  # the length follows in eight bytes
            (length,) = struct.unpack_from(">Q", data, at + 8)
            header = 16
        if kind == b"jp2c":
            return at + header
        if length < header:
            raise UnsupportedPixels("the JPEG 2000 file holds no code stream")
        at += length
