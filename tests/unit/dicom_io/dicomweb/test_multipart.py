"""Multipart answers: read whole whatever the pieces they come in, and never taken for whole when they are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_io.dicomweb.multipart import boundary_of, first_part
from dicom_io.errors import Declined

HEAD = b"Content-Type: application/dicom\r\nContent-Length: 7"


def pieces(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


@given(
    content=st.binary(max_size=300).filter(lambda data: b"--B" not in data),
    size=st.integers(1, 64),
    preamble=st.sampled_from([b"", b"\r\n", b"This is a preamble.\r\n"]),
)
def test_a_part_is_read_whole_in_pieces_of_any_size(content: bytes, size: int, preamble: bytes) -> None:
    body = preamble + b"--B\r\n" + HEAD + b"\r\n\r\n" + content + b"\r\n--B--\r\nepilogue"
    assert b"".join(first_part(pieces(body, size), b"B")) == content


@given(size=st.integers(1, 64), end=st.integers(0, 90))
def test_a_body_that_ends_early_is_never_whole(size: int, end: int) -> None:
    body = b"--B\r\n" + HEAD + b"\r\n\r\n" + b"content" * 5 + b"\r\n--B"
    with pytest.raises(Declined):
        list(first_part(pieces(body[: min(end, len(body) - 1)], size), b"B"))


def test_no_more_than_a_piece_is_held() -> None:
    given_out = 0

    def endless() -> object:
        nonlocal given_out
        yield b"--B\r\n\r\n"
        for _ in range(1000):
            given_out += 1
            yield bytes(1000)
        yield b"\r\n--B--"

    got = 0
    for piece in first_part(endless(), b"B"):  # type: ignore[arg-type]
        got += len(piece)
        assert given_out * 1000 - got <= 1000 + len(b"\r\n--B")
    assert got == 1_000_000
    with pytest.raises(Declined, match="no part"):
        list(first_part((b"x" * 1000 for _ in range(10_000)), b"B"))


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        ('multipart/related; type="application/dicom"; boundary="a b"', b"a b"),
        ("Multipart/Related; boundary=abc; type=application/dicom", b"abc"),
        ('multipart/related;type="application/dicom; x";boundary=q', b"q"),
    ],
)
def test_the_boundary_is_found(kind: str, boundary: bytes) -> None:
    assert boundary_of(kind) == boundary


@pytest.mark.parametrize("kind", ["", "text/html", "multipart/related", "multipart/mixed; boundary=a", "; boundary=a"])
def test_what_is_no_multipart_is_refused(kind: str) -> None:
    with pytest.raises(Declined, match="multipart/related"):
        boundary_of(kind)
