"""Inflates the data set of a deflated object (PS3.5 A.5) piece by piece, and no further than is allowed."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, BinaryIO

from dicom_io.errors import ObjectCutShort, UnreadableObject
from dicom_io.header.reading_limits import FREE

if TYPE_CHECKING:
    from dicom_io.header.reading_limits import ReadingLimits

MOST_HEADER = 32_000_000
"""Bytes of an inflated header that are looked at; what comes behind them is pixels."""
_PIECE = 1 << 18
_INFLATED_PIECE = 1 << 20
_COPIES = 3
"""What is kept lies in memory so often while it is put before the parser."""


def inflate(file: BinaryIO, limits: ReadingLimits, *, header_only: bool) -> bytearray:
    """Return what the rest of a file inflates to.

    Parameters
    ----------
    file
        It stands where the deflated data set begins.
    limits
        A data set of more bytes than `limits.max_memory_mb` is refused, when so many have been inflated.
    header_only
        Only the first `MOST_HEADER` bytes are kept; the rest is inflated and thrown away, as its end must be there.

    Raises
    ------
    UnreadableObject
        It is too large, damaged, or ends early.
    OutOfResources
        `limits.share` has no memory for it.
    """
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    most = limits.max_memory_mb * 1_000_000
    kept, size = bytearray(), 0
    data = file.read(_PIECE)
    while data and not engine.eof:
        try:
            piece = engine.decompress(data, _INFLATED_PIECE)
        except zlib.error as error:
            raise UnreadableObject("the deflated data set is damaged") from error
        size += len(piece)
        if size > most:
            raise UnreadableObject(
                f"the object would need more than {limits.max_memory_mb} MB of memory when it is inflated"
            )
        if not header_only or len(kept) < MOST_HEADER:
            if len(kept) + len(piece) > FREE:
                limits.share.add(_COPIES * len(piece))
            kept += piece
        data = engine.unconsumed_tail or file.read(_PIECE)
    while not engine.eof:  # all is read, and some may not have come out yet
        piece = engine.decompress(b"", _INFLATED_PIECE)
        if not piece:
            raise ObjectCutShort("the deflated data set is truncated")
        size += len(piece)
        kept += piece if not header_only or len(kept) < MOST_HEADER else b""
    return kept
