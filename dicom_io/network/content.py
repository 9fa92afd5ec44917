"""The digest of what a DICOM file holds: its data set alone, since each receiver writes File Meta Information anew."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_GROUP_LENGTH = b"DICM\x02\x00\x00\x00UL\x04\x00"
_BEFORE, _FIXED = 128, 144  # the preamble's bytes; those up to the end of (0002,0000)
_LONGEST = 1 << 20
"""Bytes of File Meta Information at most: what claims more is damaged."""
_PIECE = 1 << 20


class ContentHash:
    """SHA-256 of what follows the File Meta Information of a file (PS3.10 7.1) that comes piece by piece.

    Of a file without such a beginning, or with a damaged one, it is that of the whole file.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._head: bytearray | None = bytearray()

    def update(self, data: bytes) -> None:
        """Take the next bytes of the file."""
        if self._head is None:
            self._hash.update(data)
            return
        self._head += data
        start = _start(self._head)
        if start is not None and len(self._head) >= start:
            self._hash.update(memoryview(self._head)[start:])
            self._head = None

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far, as 64 hexadecimal digits."""
        return self._hash.hexdigest() if self._head is None else hashlib.sha256(self._head).hexdigest()


def content_sha256(path: Path) -> str:
    """Return the digest of a file's data set. Raises OSError where the file cannot be read."""
    content = ContentHash()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            content.update(piece)
    return content.hexdigest()


def _start(head: bytearray) -> int | None:
    """Return where the data set begins; None where more must come before that can be told."""
    if not _GROUP_LENGTH.startswith(bytes(head[_BEFORE : _BEFORE + len(_GROUP_LENGTH)])):
        return 0
    if len(head) < _FIXED:
        return None
    (length,) = struct.unpack_from("<L", head, _FIXED - 4)
    return _FIXED + length if length <= _LONGEST else 0
