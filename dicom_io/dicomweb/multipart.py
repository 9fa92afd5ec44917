"""Reads the one part of a multipart/related answer (RFC 2387, RFC 2046 5.1) as it comes, without holding it."""

from __future__ import annotations

from email.message import Message
from itertools import islice
from typing import TYPE_CHECKING

from dicom_io.errors import Declined

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MOST_HEAD = 1 << 16
"""Bytes before a part's content, at most: a preamble and the part's headers."""


def boundary_of(content_type: str) -> bytes:
    """Return the boundary that a Content-Type states.

    Raises
    ------
    Declined
        It is no multipart/related, or states none.
    """
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_param("boundary")
    if message.get_content_type() != "multipart/related" or not isinstance(boundary, str) or not boundary:
        raise Declined("the answer is no multipart/related with a boundary")
    return boundary.encode("latin-1", "replace")


def first_part(chunks: Iterable[bytes], boundary: bytes) -> Iterator[bytes]:
    """Yield the content of the first part, piece by piece.

    Parameters
    ----------
    chunks
        The body, in pieces of any size; of what it yields no more than one piece and a delimiter is held.
    boundary
        As the Content-Type states it.

    Raises
    ------
    Declined
        There is no part, or the body ends before the part does: what was yielded is not whole.
    """
    delimiter = b"\r\n--" + boundary
    source = iter(chunks)
    buffer = bytearray(b"\r\n")  # so that a delimiter at the very beginning looks like any other
    while (end := _end_of_head(buffer, delimiter)) < 0:
        chunk = next(source, None)
        if chunk is None or len(buffer) > _MOST_HEAD:
            raise Declined("the answer holds no part")
        buffer += chunk
    del buffer[:end]
    while (end := buffer.find(delimiter)) < 0:
        ripe = len(buffer) - len(delimiter)
        if ripe > 0:
            yield bytes(buffer[:ripe])
            del buffer[:ripe]
        chunk = next(source, None)
        if chunk is None:
            raise Declined("the answer ends before its part does")
        buffer += chunk
    yield bytes(buffer[:end])
    for _ in islice(source, 16):
        pass  # the last delimiter: an answer that is read to its end leaves the connection to the next request


def _end_of_head(buffer: bytearray, delimiter: bytes) -> int:
    """Return where the first part's content begins, or -1 where that has not come yet."""
    start = buffer.find(delimiter)
    end = buffer.find(b"\r\n\r\n", start + len(delimiter)) if start >= 0 else -1
    return end + 4 if end >= 0 else -1
