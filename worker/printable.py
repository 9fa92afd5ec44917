"""Text of others where people and programs read it: what could steer a terminal or a spreadsheet is written out."""

from __future__ import annotations

import re
from typing import Any

_BEGINS = re.compile(r'(;[\s"]*)(?=[=+\-@＝＋－＠])')
"""Where a formula begins for a program that takes semicolons to divide cells, as Excel does in much of Europe."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a cell begins with that spreadsheets compute (https://owasp.org/www-community/attacks/CSV_Injection)."""


def printable(text: str) -> str:
    r"""Return a text that a terminal shows and does not obey.

    Control characters, line breaks and marks that turn the direction of writing become `\x1b`, `\n` and the like.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def printable_all(value: Any) -> Any:
    """Return a value with all texts in it, also those in mappings and sequences, as `printable` returns them."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable_all(key): printable_all(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [printable_all(each) for each in value]
    return value


def cell(value: Any) -> Any:
    """Return a value as it stands in a CSV file: a text that a spreadsheet would compute begins with an apostrophe.

    Numbers stay as they are, also negative ones. What follows a semicolon is guarded in the same way.
    """
    if not isinstance(value, str):
        return value
    shown = _BEGINS.sub(r"\1'", printable(value))
    return f"'{shown}" if value.lstrip(" ").startswith(_FORMULA) else shown
