"""What an encoded object holds, as it stands in its bytes: a plain tree for checking, where nothing needs decoding.

pydicom reads the file; the items of its sequences are taken apart here, since a data set of pydicom's for each of the
hundred items of a report costs more than everything that is then looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from struct import Struct, iter_unpack, unpack_from
from typing import TYPE_CHECKING

from pydicom import dcmread
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.filereader import data_element_generator
from pydicom.uid import ExplicitVRLittleEndian

if TYPE_CHECKING:
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

NUMBERS = {"FD": Struct("<d"), "FL": Struct("<f"), "SL": Struct("<l"), "SS": Struct("<h")}
NUMBERS |= {"UL": Struct("<L"), "US": Struct("<H")}
"""How the value representations that are numbers in binary are written (PS3.5 6.2)."""
BINARY = (*NUMBERS, "AT", "OB", "OF", "OW", "UN")
"""And all that are not text, as far as results hold them."""
LONG = 1 << 16
"""Values longer than this stay where they are: pixel data is compared by its length alone."""
_UNDEFINED = 0xFFFFFFFF  # encapsulated pixel data has no length of its own
_META = 128 + 4 + 12  # preamble, prefix, and the group length that counts from here (PS3.10 7.1)
_ITEM = 0xE000FFFE  # the item's tag, as two little endian words read as one


@dataclass(frozen=True, slots=True)
class Element:
    """One element: its tag, value representation and length; its bytes, unless it is a sequence or long.

    `at` is where its value begins in the file; within an item, in the item.
    """

    tag: int
    vr: str
    length: int
    value: bytes = b""
    items: tuple[Item, ...] = ()
    at: int = 0

    @property
    def keyword(self) -> str:
        """Return its name, or its tag where it has none."""
        return keyword_for_tag(self.tag) or f"{self.tag:08X}"


class Item:
    """A data set or a sequence's item: its elements by tag."""

    def __init__(self, elements: Iterable[Element]) -> None:
        self._elements = {element.tag: element for element in elements}

    def __iter__(self) -> Iterator[Element]:
        """Yield the elements in their order."""
        return iter(self._elements.values())

    def get(self, keyword: str) -> Element | None:
        """Return an element, or None."""
        return self._elements.get(tag_for_keyword(keyword) or 0)

    def has_value(self, keyword: str) -> bool:
        """Tell whether an element is there and holds more than padding."""
        element = self.get(keyword)
        if element is None:
            return False
        if element.vr == "SQ":
            return bool(element.items)
        if element.vr in BINARY:
            return element.length > 0
        return bool(element.value.strip(b" \0")) or element.length > LONG

    def text(self, keyword: str) -> str:
        """Return an element's first value without the padding around it; empty where there is none, or not ASCII."""
        element = self.get(keyword)
        return "" if element is None else element.value.split(b"\\", 1)[0].strip(b" \0").decode("ascii", "ignore")

    def numbers(self, keyword: str) -> list[float]:
        """Return the numbers of an element whose value representation is one in binary; none where it is absent."""
        element = self.get(keyword)
        if element is None or element.vr not in NUMBERS:
            return []
        return [number for (number,) in iter_unpack(NUMBERS[element.vr].format, element.value)]

    def number(self, keyword: str) -> float:
        """Return an element's first number, or 0."""
        numbers = self.numbers(keyword)
        return numbers[0] if numbers else 0

    def items(self, keyword: str) -> tuple[Item, ...]:
        """Return a sequence's items; none where it is absent or empty."""
        element = self.get(keyword)
        return () if element is None else element.items


def evidence_of(document: Item) -> set[str]:
    """Return the SOP Instance UIDs that a document names as evidence (PS3.3 C.17.2)."""
    return {
        instance.text("ReferencedSOPInstanceUID")
        for study in document.items("CurrentRequestedProcedureEvidenceSequence")
        for series in study.items("ReferencedSeriesSequence")
        for instance in series.items("ReferencedSOPSequence")
    }


def read(data: bytes) -> tuple[Dataset, Item]:
    """Read a file in explicit little endian: its file meta information and its data set.

    Raises
    ------
    ValueError
        The bytes end too early, or lengths do not fit into each other. pydicom raises others of `values.MALFORMED`.
    """
    meta = dcmread(BytesIO(data), defer_size=LONG).file_meta
    if meta.TransferSyntaxUID != ExplicitVRLittleEndian and not meta.TransferSyntaxUID.is_encapsulated:
        raise ValueError("not explicit little endian")
    buffer = BytesIO(data)
    buffer.seek(_META + int(meta.FileMetaInformationGroupLength))
    return meta, Item(_elements(buffer, len(data)))


def _elements(buffer: BytesIO, end: int) -> Iterator[Element]:
    """Read the elements from where a buffer stands to its end."""
    elements = data_element_generator(buffer, is_implicit_VR=False, is_little_endian=True, defer_size=LONG)
    return (_element(each, end) for each in elements)


def _element(element: RawDataElement | DataElement, end: int) -> Element:
    """Take over an element; what it holds must end before the bytes do."""
    if not isinstance(element, RawDataElement) or element.VR is None:
        raise ValueError("a sequence of undefined length, or no value representation")  # nothing here writes one
    if element.length != _UNDEFINED and element.value_tell + element.length > end:
        raise ValueError("the bytes end within a value")
    value = element.value or b""
    if element.VR == "SQ":
        return Element(element.tag, "SQ", element.length, items=tuple(_items(value)))
    return Element(element.tag, element.VR, element.length, value, at=element.value_tell)


def _items(data: bytes) -> Iterator[Item]:
    """Take a sequence's value apart (PS3.5 7.5)."""
    at = 0
    while at < len(data):
        if len(data) < at + 8:
            raise ValueError("the bytes end within an item's tag")
        tag, length = unpack_from("<LL", data, at)
        at += 8
        if tag != _ITEM or at + length > len(data):  # an item of undefined length is none of ours
            raise ValueError("no item, or one that is longer than its sequence")
        yield Item(_elements(BytesIO(data[at : at + length]), length))
        at += length
