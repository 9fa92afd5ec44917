"""Commands with small faults are mended, and all others stay as they are."""

from __future__ import annotations

import struct

import pytest

from dicom_io.network.association_request import NO_UID
from dicom_io.network.commands import is_answerable, mended
from tests.support.raw_peer import element, store_command

ECHO = element(0, struct.pack("<I", 10)) + element(0x100, struct.pack("<H", 0x30))


@pytest.mark.parametrize(
    "command",
    [
        store_command(b"1.2.3"),
        store_command(b"1.2.3\0"),
        store_command(b"9" * 66),
        store_command(b"1.2.3", element(0x1030, b"PACS_QR ")),
        ECHO,
        b"",
        b"\x08\0\x18\0\x02\0\0\0ab",
        store_command(b"1.2.3")[:-2],
    ],
)
def test_what_can_be_served_or_is_no_command_stays_as_it_is(command: bytes) -> None:
    assert mended(command) == command


@pytest.mark.parametrize("uid", [b"", b"\0\0", b"  ", b"1.2.\xe9"])
def test_an_unusable_uid_gets_a_stand_in(uid: bytes) -> None:
    assert mended(store_command(uid)) == store_command(NO_UID.encode())


def test_an_unusable_class_gets_a_stand_in() -> None:
    assert mended(store_command(b"1.2.3", sop_class="")) == store_command(b"1.2.3", sop_class=NO_UID)


@pytest.mark.parametrize("originator", [b"PACS\0\0\0\0", "RÖNTGEN".encode("latin-1"), b"A\\B", b"A" * 18])
def test_a_move_originator_that_is_no_title_is_left_out(originator: bytes) -> None:
    assert mended(store_command(b"1.2.3", element(0x1030, originator))) == store_command(b"1.2.3")


@pytest.mark.parametrize(
    ("uid", "is_one"), [("1.2.3", True), ("9" * 66, True), ("", False), ("9" * 2000, False), (3, False)]
)
def test_a_long_uid_is_answered(uid: object, is_one: bool) -> None:
    assert is_answerable(uid)[0] is is_one
