"""What reading a data set may cost: the elements that are counted as they are read, and the bytes that it takes.

An element of eight bytes becomes some hundred bytes of memory and some microseconds, and a deflated byte becomes a
thousand: the size of a file bounds neither.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement

from dicom_io.header.reading_limits import ELEMENT, FREE, ITEM, ReadingLimits

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom import Dataset

_HEADER = 8
"""Bytes that pydicom reads at once at the begin of each element and each item, and rarely else."""
_STEP = 1_000_000
"""Bytes of memory that are asked for at once."""
_UNDEFINED = 0xFFFFFFFF
_ITEM_GROUP = 0xFFFE
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
"""The tag of an item, in both byte orders."""
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
"""Value representations whose length has four bytes, behind two that are reserved (PS3.5 7.1.2)."""


class _Metered(io.BufferedIOBase):
    """Counts the elements that are read, and the memory that they take.

    `read` raises UnreadableObject where there are too many, or their values have more bytes than an object may take. It
    raises OutOfResources where `limits.share` has no memory for them.
    """

    _limits: ReadingLimits
    _size: int
    _count = 0
    _items = 0
    _bytes = 0
    _covered = FREE
    ran_out = False
    """Whether more bytes were asked for than there were."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as any file does."""
        if size == _HEADER:
            self._count += 1
            if self._count > self._limits.max_elements:
                raise self._limits.too_many()
        self._bytes += self._size if size is None or size < 0 else min(size, self._size)
        if self._bytes + ELEMENT * self._count + ITEM * self._items > self._covered:
            self._cover()
        data = super().read(size)
        if size == _HEADER and data.startswith(_ITEMS):
            self._items += 1
        self.ran_out = self.ran_out or (size is not None and len(data) < size)
        return data

    def rewind(self) -> None:
        """Go back to the begin, and begin to count; the memory of what was read before is not given back yet."""
        self._count = self._items = self._bytes = 0
        self.seek(0)

    def _cover(self) -> None:
        """Ask for the memory that what is read now takes."""
        self._limits.require(self._bytes)
        missing = self._bytes + ELEMENT * self._count + ITEM * self._items - self._covered
        count = -(-missing // _STEP) * _STEP
        self._limits.share.add(count)
        self._covered += count


class MeteredFile(_Metered, io.BufferedReader):
    """A file whose elements are counted."""

    def __init__(self, path: Path, limits: ReadingLimits) -> None:
        super().__init__(io.FileIO(str(path)))
        self._limits = limits
        self._size = path.stat().st_size


class MeteredBytes(_Metered, io.BytesIO):
    """The same of what lies in memory."""

    def __init__(self, data: bytes | bytearray, limits: ReadingLimits) -> None:
        super().__init__(data)
        self._limits = limits
        self._size = len(data)


def require_few_elements(data: bytes, limits: ReadingLimits, *, implicit: bool) -> None:
    """Raise UnreadableObject where a data set in little endian that nobody has parsed holds too many elements.

    Raises
    ------
    OutOfResources
        `limits.share` has no memory to parse it.
    """
    count = _count(data, implicit, True, limits.max_elements)
    if count > limits.max_elements:
        raise limits.too_many()
    limits.share.add(max(0, len(data) + ELEMENT * count - FREE))


def require_few_items(dataset: Dataset, path: Path, limits: ReadingLimits) -> None:
    """Raise UnreadableObject where sequences that are not parsed yet hold too many elements.

    pydicom parses a sequence whose length is stated when somebody asks for it, and nothing counts then. `path`
    is where the data set was read from.
    """
    left = limits.max_elements
    datasets = [dataset]
    while datasets:
        for element in datasets.pop().values():
            if not isinstance(element, RawDataElement):
                datasets += element.value if element.VR == "SQ" else ()
            elif element.length and element.tag.group != _PIXELS and _is_sequence(element):
                data = _left_for_later(element, path) if element.value is None else element.value
                left -= _count(data, element.is_implicit_VR, element.is_little_endian, left)
                if left < 0:
                    raise limits.too_many()


_PIXELS = 0x7FE0


def _left_for_later(element: RawDataElement, path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(element.value_tell)
        return file.read(element.length)


def _is_sequence(element: RawDataElement) -> bool:
    """Tell whether pydicom may take the bytes of an element for a sequence's."""
    if element.VR not in (None, "UN"):
        return element.VR == "SQ"
    return _is_known_sequence(element.tag)


def _count(data: bytes, implicit: bool, little: bool, most: int) -> int:
    """Return how many elements and items lie in the bytes of a sequence; no further than a few above `most`.

    What cannot be followed ends it: pydicom fails there too.
    """
    order = "<" if little else ">"
    short, long = struct.Struct(f"{order}2HL"), struct.Struct(f"{order}L")
    half = struct.Struct(f"{order}H")
    place, count, end = 0, 0, len(data)
    while place + 8 <= end and count <= most:
        group, number, length = short.unpack_from(data, place)
        place += 8
        count += 1
        if group == _ITEM_GROUP:
            continue  # an item, or a delimiter: what follows is counted like the rest
        vr = data[place - 4 : place - 2]
        if implicit or not vr.isalpha():
            is_sequence = length == _UNDEFINED or _is_known_sequence(group << 16 | number)
        elif vr in _LONG:
            if place + 4 > end:
                break
            (length,) = long.unpack_from(data, place)
            place += 4
            is_sequence = vr == b"SQ" or length == _UNDEFINED
        else:
            (length,) = half.unpack_from(data, place - 2)
            is_sequence = False
        if not is_sequence:
            place += length
    return count


def _is_known_sequence(tag: int) -> bool:
    try:
        return dictionary_VR(tag) == "SQ"
    except KeyError:
        return False
