"""Items of a header's sequences as bytes that results can carry: texts undecoded, and nothing that is not valid.

pydicom decodes nested texts before it writes them again. A text that is not in the character set that the header
declares would be lost by that, so items are encoded here, from the bytes that they came in (PS3.5 7.5).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR, EXPLICIT_VR_LENGTH_32

from dicom_io.header.attributes import UNPARSED, is_valid, items, values

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableSequence

    from pydicom.tag import BaseTag

STRICT = ("AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI")
"""Value representations in which a wrong value is an error for whoever reads it (PS3.5 6.2)."""
SIZES = {"AT": 2, "FD": 8, "FL": 4, "OD": 8, "OF": 4, "OL": 4, "OV": 8, "OW": 2}
SIZES |= {"SL": 4, "SS": 2, "SV": 8, "UL": 4, "US": 2, "UV": 8}
"""Bytes of a word where a value consists of words, whose byte order is the transfer syntax's (PS3.5 7.3)."""
_SET = 0x00080005  # Specific Character Set, which an item may have of its own (PS3.3 C.12.1.1.2)
_ITEM = 0xE000FFFE  # the item's tag, as two little endian words read as one
# What an item must have to be one: a code (PS3.3 8.8) and a reference (10.8); any of the lines, all of each.
_CODE = (
    ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"),
    ("LongCodeValue", "CodingSchemeDesignator", "CodeMeaning"),
    ("URNCodeValue", "CodeMeaning"),
)
_REFERENCE = (("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"),)


class Text(NamedTuple):
    """A text as it stands in a header, and the character sets that its item declares; None: those of the header."""

    value: bytes
    sets: tuple[str, ...] | None = None


class Copier:
    """Encodes items in explicit VR little endian.

    Parameters
    ----------
    texts
        To it are added the values, as they stand in the header, that a character set decides about.
    """

    def __init__(self, texts: list[Text]) -> None:
        self._texts = texts
        self._sets: tuple[str, ...] | None = None

    def sequence(self, dataset: Dataset, tag: BaseTag, encodings: str | MutableSequence[str]) -> bytes:
        """Return the value of a sequence; empty where it is none, or holds nothing.

        Left behind are: private elements and group lengths, those of groups that no data set has (0000 and 0002, the
        command and the file meta information), values that are none of their representation, and items without content.

        Parameters
        ----------
        dataset
            What holds the sequence.
        encodings
            Of texts that have been decoded already.
        """
        keyword = keyword_for_tag(tag)
        needs: tuple[tuple[str, ...], ...] = _REFERENCE if keyword == "ReferencedStudySequence" else ()
        needs = _CODE if keyword.endswith("CodeSequence") else needs
        encoded = (self._item(item, needs, encodings) for item in items(dataset, keyword))
        return b"".join(struct.pack("<LL", _ITEM, len(each)) + each for each in encoded if each)

    def _item(self, item: Dataset, needs: tuple[tuple[str, ...], ...], encodings: str | MutableSequence[str]) -> bytes:
        """Return an item's elements; empty where it lacks what it needs, or all of its elements are empty."""
        outer = self._sets
        if _SET in item:
            self._sets = tuple(map(str, values(item, "SpecificCharacterSet")))
            encodings = convert_encodings(list(self._sets))
        parts = dict(self._elements(item, encodings))
        self._sets = outer
        holds = {keyword_for_tag(tag) for tag, (_, has_value) in parts.items() if has_value and tag != _SET}
        if not holds or (needs and not any(holds.issuperset(each) for each in needs)):
            return b""
        return b"".join(data for data, _ in parts.values())

    def _elements(
        self, item: Dataset, encodings: str | MutableSequence[str]
    ) -> Iterator[tuple[BaseTag, tuple[bytes, bool]]]:
        """Yield the elements that can be carried, encoded, each with whether it holds more than padding."""
        for tag in sorted(item.keys()):
            if tag.group < 0x0008 or tag.is_private or tag.element == 0 or not dictionary_has_tag(tag):
                continue
            vr = dictionary_VR(tag)
            try:
                value = self.sequence(item, tag, encodings) if vr == "SQ" else self._value(item, tag, vr, encodings)
            except UNPARSED:
                continue
            if value is not None and (value or vr != "SQ"):
                short = vr[:2]  # "US or SS": neither occurs in what is copied
                yield tag, (_element(tag, short, value), bool(value.strip(b" \0")))

    def _value(self, dataset: Dataset, tag: BaseTag, vr: str, encodings: str | MutableSequence[str]) -> bytes | None:
        """Return an element's value in little endian; None where it is no value of its representation."""
        element = dataset.get_item(tag)
        if isinstance(element, RawDataElement):
            if element.VR == "SQ" or not isinstance(element.value, bytes | None):
                return None
            value = element.value or b""
            if not element.is_little_endian:
                value = swapped(value, vr)
        else:
            value = _decoded(dataset[tag], encodings)
        value = padded(value, vr)
        size = SIZES.get(vr[:2], 1)
        if len(value) % size or (vr not in EXPLICIT_VR_LENGTH_32 and len(value) > 0xFFFE):
            return None
        if vr in STRICT and not all(is_valid(vr, each) for each in _values(value)):
            return None
        if vr in STRICT and dictionary_VM(tag) == "1" and b"\\" in value:
            return None
        if vr in CUSTOMIZABLE_CHARSET_VR:
            self._texts.append(Text(value, self._sets))
        return value


def swapped(value: bytes, vr: str) -> bytes:
    """Return a value with the bytes of each of its words turned; it stays as it is where there are no words."""
    size = SIZES.get(vr[:2], 1)
    if size == 1 or len(value) % size:
        return value
    return b"".join(value[at : at + size][::-1] for at in range(0, len(value), size))


def padded(value: bytes, vr: str) -> bytes:
    """Return a value of an even number of bytes (PS3.5 6.2)."""
    return value + (b"\0" if vr in ("UI", "UN", "OB") else b" ") if len(value) % 2 else value


def _values(value: bytes) -> list[str]:
    return [each.strip(" \0") for each in value.decode("latin-1").split("\\")]


def _decoded(element: object, encodings: str | MutableSequence[str]) -> bytes:
    """Return the value of an element that pydicom has decoded, as it writes it."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    write_data_element(buffer, element, encodings)  # type: ignore[arg-type]
    return buffer.getvalue()[8:]  # behind tag and length


def _element(tag: BaseTag, vr: str, value: bytes) -> bytes:
    head = struct.pack("<HH2s", tag.group, tag.element, vr.encode())
    long = vr in EXPLICIT_VR_LENGTH_32
    return head + (struct.pack("<HL", 0, len(value)) if long else struct.pack("<H", len(value))) + value
