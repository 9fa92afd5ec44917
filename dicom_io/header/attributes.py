"""Reads single attributes of a dataset that may be absent, empty or malformed, without ever raising.

A modality's header is what it is: a broken value counts as an absent one, and the rules for absent ones apply.
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from typing import Any

from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue
from pydicom.valuerep import validate_value

# What pydicom raises, late, for a value that does not fit its value representation. RecursionError is among them
# because sequences may lie in one another too deep, and Warning because a program may have turned pydicom's warnings
# into errors.
MALFORMED = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    Warning,
)
# And for a sequence whose bytes are no items: an OSError, though there is no file.
UNPARSED = (*MALFORMED, EOFError, OSError)


def values(dataset: Dataset, keyword: str) -> list[Any]:
    """Return an attribute's values as a list: empty where it is absent, empty or malformed."""
    try:
        value = dataset.get(keyword)
    except UNPARSED:
        return []
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, (list, tuple, MultiValue)) else [value]


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Return a sequence's items: none where it is absent, empty or malformed."""
    members = values(dataset, keyword)
    if len(members) == 1 and not isinstance(members[0], Dataset):
        try:
            members = list(members[0])  # pydicom's Sequence is no list
        except TypeError:
            return []
    return [item for item in members if isinstance(item, Dataset)]


def text(dataset: Dataset, keyword: str) -> str:
    """Return an attribute's first value as text without the padding around it, or an empty text."""
    all_values = values(dataset, keyword)
    return str(all_values[0]).strip(" \0\r\n\t") if all_values else ""


def numbers(dataset: Dataset, keyword: str) -> list[float]:
    """Return an attribute's finite numbers: none where it is absent or where any of its values is no such number."""
    try:
        all_numbers = [float(each) for value in values(dataset, keyword) for each in _numbers(dataset, keyword, value)]
    except MALFORMED:
        return []
    return all_numbers if all(math.isfinite(value) for value in all_numbers) else []


def _numbers(dataset: Dataset, keyword: str, value: Any) -> tuple[Any, ...]:
    """Return a value; its words where it should be words and came as bytes, with OB or OW for US or SS."""
    if not isinstance(value, bytes) or dictionary_VR(keyword) not in ("US", "SS", "US or SS"):
        return (value,)
    order = ">" if dataset.original_encoding[1] is False else "<"
    return struct.unpack(f"{order}{len(value) // 2}H", value)


def number(dataset: Dataset, keyword: str) -> float | None:
    """Return an attribute's first finite number, or None."""
    all_numbers = numbers(dataset, keyword)
    return all_numbers[0] if all_numbers else None


def integer(dataset: Dataset, keyword: str) -> int | None:
    """Return an attribute's first value where it is a whole number, else None."""
    first = number(dataset, keyword)
    return int(first) if first is not None and first.is_integer() else None


@lru_cache(maxsize=4096)
def is_valid(vr: str, value: str) -> bool:
    """Tell whether a text is a value of its representation (PS3.5 6.2); most are the same in every object."""
    try:
        validate_value(vr, value, RAISE)
    except MALFORMED:
        return False
    return True
