"""What commands print, read back."""

from __future__ import annotations


def labelled(text: str) -> dict[str, str]:
    """Return the values of a command's `label: value` lines."""
    parts = (line.partition(":") for line in text.splitlines())
    return {label.strip(): value.strip() for label, colon, value in parts if colon}
