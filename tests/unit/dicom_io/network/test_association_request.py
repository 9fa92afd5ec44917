"""Association requests are read as they were meant; what cannot be read is said in words."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from pynetdicom.pdu import A_ASSOCIATE_RQ

from dicom_io.network.association_request import DEFAULT_LENGTH, MalformedRequest, read_request, title
from tests.support.raw_peer import item, pdu, request


def decoded(data: bytes) -> Any:
    """Return what pynetdicom makes of the request that we hand on."""
    made = A_ASSOCIATE_RQ()
    made.decode(read_request(data).pdu)
    made.to_primitive()
    return made


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"CT-3            ", "CT-3"),
        (b"  CT-3", "CT-3"),
        (b"CT\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "CT"),
        ("RÖNTGEN".encode("latin-1"), r"R\xd6NTGEN"),
        (b"A\\B", r"A\x5cB"),
        (b"\x1b[2J\n", r"\x1b[2J\x0a"),
        (b" " * 16, ""),
        (b"\0" * 16, ""),
        (b"\xff" * 16, r"\xff\xff\xff\xff"),
    ],
)
def test_titles_are_shown_in_printable_ascii(raw: bytes, shown: str) -> None:
    assert title(raw) == shown
    assert shown.isascii()
    assert len(shown) <= 16


@pytest.mark.parametrize("calling", [b"CT\0\0", "RÖNTGEN".encode("latin-1"), b"A\\B", b"A\x1bB", b" " * 16, b"\0" * 16])
def test_pynetdicom_decodes_a_request_whatever_its_titles_are(calling: bytes) -> None:
    assert decoded(request(calling, calling)).calling_ae_title


def test_unknown_items_are_skipped() -> None:
    unknown = item(0x7F, b"abcd")
    user = unknown + item(0x51, struct.pack(">I", 4096)) + item(0x52, b"1.2.3") + item(0x01, b"")
    made = decoded(request(user=user, further=unknown, in_context=item(0x41, b"x")))
    assert [each.item_type for each in made.user_information.user_data] == [0x51, 0x52]
    assert len(made.presentation_context) == 1
    assert made.presentation_context[0].abstract_syntax == "1.2.840.10008.5.1.4.1.1.1"


@pytest.mark.parametrize(
    ("stated", "kept"),
    [
        (b"ABCDEFGHIJKLMNOPQRST", "ABCDEFGHIJKLMNOP"),
        (b"A\0\0", "A"),
        (b"G\xfcte", "G?te"),
    ],
)
def test_a_version_name_is_brought_to_its_length(stated: bytes, kept: str) -> None:
    user = item(0x51, struct.pack(">I", 4096)) + item(0x52, b"1.2.3") + item(0x55, stated)
    assert decoded(request(user=user)).user_information.user_data[2].implementation_version_name == kept


@pytest.mark.parametrize("empty", [b"", b"\0\0", b"   "])
def test_an_empty_version_name_counts_as_none(empty: bytes) -> None:
    user = item(0x51, struct.pack(">I", 4096)) + item(0x52, b"1.2.3") + item(0x55, empty)
    assert [each.item_type for each in decoded(request(user=user)).user_information.user_data] == [0x51, 0x52]


def test_without_a_maximum_length_the_default_is_taken() -> None:
    assert decoded(request(user=item(0x52, b"1.2.3"))).user_information.maximum_length == DEFAULT_LENGTH


@pytest.mark.parametrize(
    ("stated", "taken"), [(0, 0), (1, 128), (6, 128), (128, 128), (129, 129), (2**32 - 1, 2**32 - 1)]
)
def test_a_maximum_length_that_no_fragment_fits_in_is_not_taken(stated: int, taken: int) -> None:
    user = item(0x51, struct.pack(">I", stated)) + item(0x52, b"1.2.3")
    assert decoded(request(user=user)).user_information.maximum_length == taken


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pdu(1, bytes(20)), "an A-ASSOCIATE-RQ of 26 bytes"),
        (request()[:-3], "item 0x50 of the A-ASSOCIATE-RQ is cut short"),
        (request(further=item(0x20, bytes([4, 0, 0, 0]))), "presentation context 4 has no odd number"),
        (request(further=item(0x20, b"")), "a presentation context without a number"),
        (request(user=b"\x51\0"), "an item of the A-ASSOCIATE-RQ is cut short"),
        (
            request(further=item(0x20, bytes([3, 0, 0, 0])) * 128),
            "more than 128 presentation contexts in one A-ASSOCIATE-RQ",
        ),
        (request(further=item(0x20, bytes([3, 0, 0, 0]))), "a presentation context names no abstract syntax"),
        (request(further=item(0x20, bytes([3, 0, 0, 0]) + item(0x30, b""))), "names no abstract syntax"),
        (request(in_context=item(0x40, b"") * 16000, further=item(0x40, b"") * 400), "more than 16384 items"),
    ],
)
def test_what_cannot_be_read_is_said_in_words(data: bytes, words: str) -> None:
    with pytest.raises(MalformedRequest, match=words):
        read_request(data)


@pytest.mark.parametrize("syntax", ["1." + "2" * 64, "", " ", "1.2.\xe9", "1." + "2" * 500])
def test_a_transfer_syntax_that_is_no_uid_is_left_out(syntax: str) -> None:
    made = decoded(request(in_context=item(0x40, syntax.encode("latin-1"))))
    assert made.presentation_context[0].transfer_syntax == ["1.2.840.10008.1.2.1"]


@pytest.mark.parametrize("syntaxes", [b"", item(0x40, b""), item(0x40, b"1." + b"2" * 64)])
def test_a_context_without_a_transfer_syntax_does_not_end_the_association(syntaxes: bytes) -> None:
    context = item(0x20, bytes([3, 0, 0, 0]) + item(0x30, b"1.2.840.10008.5.1.4.1.1.1") + syntaxes)
    made = decoded(request(further=context))
    assert [each.transfer_syntax for each in made.presentation_context] == [["0"], ["1.2.840.10008.1.2.1"]]


@pytest.mark.parametrize("kind", [0, 6, 9, 255])
def test_a_user_identity_of_no_known_type_is_skipped(kind: int) -> None:
    identity = item(0x58, bytes([kind, 0, 0, 1]) + b"a" + bytes(2))
    user = item(0x51, struct.pack(">I", 4096)) + item(0x52, b"1.2.3") + identity
    assert [each.item_type for each in decoded(request(user=user)).user_information.user_data] == [0x51, 0x52]


def test_a_request_that_is_well_formed_stays_as_it_is() -> None:
    assert read_request(request()).pdu == request()
