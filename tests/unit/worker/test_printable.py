"""Text of others on a terminal: it is shown, and steers nothing."""

from __future__ import annotations

import pytest

from worker.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("PACS 1 – Gerät", "PACS 1 – Gerät"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\u202egnirts", r"\u202egnirts"),  # turns the direction of writing
        ("\x9b31m", r"\x9b31m"),  # CSI in one character
        ("\ud800", r"\ud800"),
        ("", ""),
    ],
)
def test_what_steers_a_terminal_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown
