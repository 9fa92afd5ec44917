"""Damage to valid samples, chosen by chance alone: the same numbers give the same bytes on every machine."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random

UNDEFINED = 0xFFFFFFFF
LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
"""Value representations with a length of 32 bits (PS3.5 7.1.2)."""
VRS = (*LONG, b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL")
NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, UNDEFINED - 1, UNDEFINED)
WORDS = (
    *(
        b"",
        b" ",
        b"\0",
        b"\\",
        b"\\" * 2000,
        b"0",
        b"-1",
        b"0\\0",
        b"1e400",
        b"-1e-400",
        b"nan",
        b"inf",
        b"1.",
        b"0x10",
    ),
    *(b"9" * 300, b"1." * 60, b"99999999", b"20260230", b"999Y", b"-01D", b"MONOCHROME1", b"RGB", b"PALETTE COLOR"),
    *(b"\x1b]0;x\x07", b"\x1b[2J", b"[/x]", b"=1+1", b"../../x", b"\xff\xfe\xfd", b"\xe2\x80\xae", b"\xed\xa0\x80"),
    *(
        b"\x1b$B\x1b(B\x1b$",
        b"ISO 2022 IR 87\\ISO 2022 IR 149",
        b"ISO_IR 192",
        b"GB18030",
        b"unicode_escape",
        b"A^" * 99,
    ),
)
"""Values that programs trip over."""


def damaged(data: bytes, chance: Random, words: Sequence[bytes] = WORDS) -> bytes:
    """Return bytes with one or some places changed, left out, doubled, filled or cut."""
    made = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 20))):
        at = chance.randrange(len(made) + 1)
        if chance.random() < 0.5:
            _change(made, at, chance)
        else:
            _move(made, at, chance, words)
    return bytes(made)


def _change(made: bytearray, at: int, chance: Random) -> None:
    """Change a byte, a bit or a number in its place."""
    match chance.randrange(6):
        case 0 | 1 | 2:
            made[at : at + 1] = bytes([chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))])
        case 3:
            made[at : at + 1] = bytes([(made[at] if at < len(made) else 0) ^ (1 << chance.randrange(8))])
        case _:
            form = chance.choice(("<H", ">H", "<I", ">I"))
            number = chance.choice(NUMBERS) & (0xFFFF if form[1] == "H" else UNDEFINED)
            made[at : at + struct.calcsize(form)] = struct.pack(form, number)


def _move(made: bytearray, at: int, chance: Random, words: Sequence[bytes]) -> None:
    """Leave out, double, add, fill or cut some bytes."""
    size = chance.choice((1, 2, 4, 8, chance.randrange(1, 65), chance.randrange(1, 2000)))
    match chance.randrange(6):
        case 0:
            del made[at : at + size]
        case 1:
            made[at:at] = made[at : at + size]
        case 2:
            made[at:at] = chance.randbytes(size)
        case 3:
            word = chance.choice(words)
            made[at : at + chance.choice((0, len(word)))] = word
        case 4:
            made[at : at + size] = bytes([chance.choice((0, 0xFF))]) * size
        case 5 if chance.random() < 0.3:
            del made[at:]


def damaged_set(data: bytes, chance: Random) -> bytes:
    """Return a data set, explicit VR little endian without File Meta Information, with damage to whole elements.

    What is left of it can mostly be parsed, so that the damage comes further than the parser.
    """
    parts = elements(data)
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        at = chance.randrange(len(parts))
        match chance.randrange(8):
            case 0 | 1 | 2 | 3:
                parts[at] = with_value(parts[at], chance.choice(WORDS))
            case 4:
                words = tuple(struct.pack("<H", number & 0xFFFF) for number in NUMBERS)
                parts[at] = with_value(parts[at], chance.choice(words) * chance.choice((1, 1, 2, 3)))
            case 5:
                parts[at] = parts[at][:4] + chance.choice(VRS) + parts[at][6:]
            case 6:
                parts[at] = b""
            case 7:
                other = chance.choice(parts)
                parts[at] = parts[at][:4] + other[4:] if chance.random() < 0.5 else parts[at] + other
    whole = b"".join(parts)
    return damaged(whole, chance) if chance.random() < 0.2 else whole


def elements(data: bytes) -> list[bytes]:
    """Return the top-level elements of a data set in explicit VR little endian; its last one may be of any length."""
    parts, at = [], 0
    while at + 8 <= len(data):
        head, (length,) = (12, struct.unpack_from("<I", data, at + 8)) if data[at + 4 : at + 6] in LONG else (8, (0,))
        if head == 8:
            (length,) = struct.unpack_from("<H", data, at + 6)
        end = len(data) if length == UNDEFINED else at + head + length
        parts.append(data[at:end])
        at = end
    return parts


def with_value(element: bytes, value: bytes) -> bytes:
    """Return an element in explicit VR little endian with another value, of even length."""
    if len(element) < 8:
        return element
    value += bytes(len(value) % 2)
    if element[4:6] in LONG:
        return element[:8] + struct.pack("<I", len(value)) + value
    value = value[:0xFFFE]
    return element[:6] + struct.pack("<H", len(value)) + value
