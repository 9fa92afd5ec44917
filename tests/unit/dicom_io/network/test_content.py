"""The digest of a data set: the same whatever wrote the File Meta Information, however the bytes come in pieces."""

from __future__ import annotations

import hashlib
import struct
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmwrite

from dicom_io.network.content import ContentHash, content_sha256
from dicom_io.network.spool_file import SpoolFile
from tests.support.peers import chest


def encoded(version: str) -> bytes:
    dataset, buffer = chest(), BytesIO()
    dataset.file_meta.ImplementationVersionName = version
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def digest(data: bytes, size: int) -> str:
    content = ContentHash()
    for start in range(0, len(data), size):
        content.update(data[start : start + size])
    return content.hexdigest()


@pytest.mark.parametrize("size", [1, 7, 128, 132, 144, 200, 1 << 20])
def test_only_what_follows_the_meta_information_counts(size: int, tmp_path: Path) -> None:
    data = encoded("ONE")
    start = 144 + struct.unpack("<L", data[140:144])[0]
    expected = hashlib.sha256(data[start:]).hexdigest()
    assert digest(data, size) == digest(encoded("ANOTHER_ONE"), size) == expected
    (tmp_path / "a.dcm").write_bytes(data)
    assert content_sha256(tmp_path / "a.dcm") == expected
    file = SpoolFile(tmp_path)
    for begin in range(0, len(data), size):
        file.write(data[begin : begin + size])
    assert (file.content_sha256, file.sha256) == (expected, hashlib.sha256(data).hexdigest())
    file.discard()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"short",
        bytes(128) + b"DIC",
        bytes(128) + b"DICM",
        bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00\x10\x00",
        bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00\x10\x00\x00\x00half of it",
        bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00\xff\xff\xff\xffdamaged",
        b"\x08\x00\x16\x00" * 100,  # no file, a bare data set
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_of_what_has_no_such_beginning_all_counts(data: bytes, size: int) -> None:
    assert digest(data, size) == hashlib.sha256(data).hexdigest()
