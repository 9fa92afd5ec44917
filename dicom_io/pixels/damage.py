"""Damage to code streams that their decoders say nothing of.

GDCM takes zeros behind a cut for pixels. OpenJPEG takes whatever stands in a code block's place for its data, and goes
on: there is nothing in it to compare.
"""

from __future__ import annotations

import struct

from dicom_io.pixels.codestream import JPEG_2000_SYNTAXES

LOST = 1024
"""Zeros, or bytes of 0xFF, in a row: blocks of a disk, or a page of memory, that were never written.

Coded data look like noise, and empty packets are a zero each: nobody writes so many of them in a row.
"""
_BLANKS = (bytes(LOST), b"\xff" * LOST)


def lost_data(frame: bytes, syntax: str) -> bool:
    """Tell whether a JPEG 2000 frame has lost a part: of a tile, or of what lies between its ends.

    Parameters
    ----------
    frame
        The code stream, or a JP2 file with it.
    syntax
        UID of its transfer syntax; of those that are not JPEG 2000 nothing is told.
    """
    if syntax not in JPEG_2000_SYNTAXES:
        return False
    body = frame.rstrip(b"\0")  # padding behind the end
    return any(blank in body for blank in _BLANKS) or _tiles_are_broken(frame)


def lacks_end(frame: bytes) -> bool:
    """Tell whether no end of the image follows a JPEG's last scan: within a scan FFD9 is nothing else."""
    return frame.find(b"\xff\xd9", frame.rfind(b"\xff\xda") + 1) < 0


def _tiles_are_broken(frame: bytes) -> bool:
    """Tell whether a tile-part is followed by something else than another one or the end (ISO/IEC 15444-1 A.4.2)."""
    at = frame.find(b"\xff\x90\x00\x0a")  # SOT and its length
    if at < 0:
        return False  # the decoder says so
    while frame[at : at + 4] == b"\xff\x90\x00\x0a" and at + 12 <= len(frame):
        length: int
        (length,) = struct.unpack_from(">I", frame, at + 6)
        if length < 14:  # 0: the last one, as long as the code stream is
            return length != 0
        at += length
    # Some writers leave the end out: then nothing may be missing before it.
    return frame[at : at + 2] != b"\xff\xd9" and at != len(frame)
