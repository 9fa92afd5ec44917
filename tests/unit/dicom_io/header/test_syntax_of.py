"""The transfer syntax of a file of ours, also of one that was damaged on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

from dicom_io.header.reading import syntax_of
from dicom_io.objects.common import encode
from tests.support.peers import chest


def test_the_syntax_that_the_file_names(tmp_path: Path) -> None:
    dataset = chest()
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    path = tmp_path / "object.dcm"
    path.write_bytes(encode(dataset))
    assert syntax_of(path) == JPEG2000Lossless


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"\x02\x00\x00\x00UL\x04\x00", b"\x02\x00\x00\x00UL\x02\x00"),  # half a number
        (b"\x02\x00\x00\x00UL", b"\x02\x00\x00\x00UU"),  # no such value representation
        (b"\x02\x00\x10\x00UI", b"\x02\x00\x10\x00UK"),
        (b"DICM", b"DOCM"),
    ],
)
def test_damaged_meta_information_names_none(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "object.dcm"
    data = encode(chest())
    assert before in data
    path.write_bytes(data.replace(before, after, 1))
    assert syntax_of(path) == ExplicitVRLittleEndian
