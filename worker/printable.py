"""Text of others on a terminal: what could steer it is written out."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return a text that a terminal shows and does not obey.

    Control characters, line breaks and marks that turn the direction of writing become `\x1b`, `\n` and the like.
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
