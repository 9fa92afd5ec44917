"""What is wrong with a setting, in plain words, from the type of pydantic's error."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

_MESSAGES = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a group of settings, each on a line of its own below",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "model_type": "must be a group of settings, each on a line of its own below",
    "path_type": "must be a path",
    "string_pattern_mismatch": "holds a character that is not allowed, or is empty",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "string_type": "must be text",
    "too_short": "must name at least {min_length}",
    "tuple_type": "must be a list, such as [A, B]",
}

_NAME = re.compile(r"(?:hl7|[A-Za-z])[a-z_-]{0,23}|[A-Z_]{1,24}")
NOT_SHOWN = "<not shown>"


def shown(key: str) -> str:
    """Return a key of the settings, or a stand-in where it looks like no name: a slip can make a password a key."""
    return key if _NAME.fullmatch(key) else NOT_SHOWN


def dotted(at: Iterable[str | int]) -> str:
    """Return where a setting stands, as it is written in errors: keys as they are `shown`, and places in lists."""
    return ".".join(shown(part) if isinstance(part, str) else str(part) for part in at)


def in_words(error: str, context: Mapping[str, Any], message: str) -> str:
    """Return what is wrong with a setting.

    Parameters
    ----------
    error, context, message
        Type, context and message of pydantic's error; the message is what is left where there are no better words.
    """
    words = _MESSAGES.get(error)
    return words.format(**context) if words else message.removeprefix("Value error, ")


def unknown(name: str, names: Iterable[str]) -> str:
    """Return that a setting is unknown, with the name among others that is most like it, if any is."""
    close = difflib.get_close_matches(name, list(names), 1)
    return f"unknown setting; did you mean {close[0]}?" if close else "unknown setting"
