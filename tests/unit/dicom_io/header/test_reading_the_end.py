"""Objects whose end is missing: whole frames are read, and of cut ones is said where they end."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from dicom_io.errors import CxrdError, UnsupportedPixels
from dicom_io.header.reading import read_dataset
from dicom_io.pixels.render import render
from tests.support.peers import chest

TRUE_REASONS = r"cut short|no pixel data|not a readable|not a DICOM|Rows or Columns|is missing"
SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)


def written(folder: Path, syntax: str) -> bytes:
    """Return a radiograph as a file in a native syntax."""
    dataset = chest("the end")
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    if syntax == ExplicitVRBigEndian:
        dataset["PixelData"].VR = "OB" if dataset.BitsAllocated == 8 else "OW"
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("missing", [1, 2, 500])
def test_a_file_that_ends_within_its_pixels_is_told(tmp_path: Path, syntax: str, missing: int) -> None:
    data = written(tmp_path, syntax)
    file = tmp_path / "cut.dcm"
    file.write_bytes(data[:-missing])
    size = len(chest("the end").PixelData)
    with pytest.raises(UnsupportedPixels, match=f"cut short at {size - missing} of {size} bytes"):
        render(read_dataset(file))


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_wherever_a_file_ends_nothing_untrue_is_said(tmp_path: Path, syntax: str) -> None:
    data = written(tmp_path, syntax)
    file = tmp_path / "cut.dcm"
    for length in range(200, len(data), max(1, len(data) // 40)):
        file.write_bytes(data[:length])
        with pytest.raises(
            CxrdError, match=r"cut short|no pixel data|not a readable|not a DICOM|Rows or Columns|is missing"
        ):
            render(read_dataset(file))


@pytest.mark.parametrize("end", [b"", bytes(8), b"\xfe\xff\xdd\xe0\0\0\0\0"])
def test_encapsulated_pixels_need_no_delimiter(tmp_path: Path, end: bytes) -> None:
    plain = chest("the end")
    expected = render(plain).values
    plain.compress(RLELossless)
    buffer = BytesIO()
    plain.save_as(buffer, enforce_file_format=True)
    data = buffer.getvalue()
    delimiter = b"\xfe\xff\xdd\xe0\0\0\0\0"
    assert data.endswith(delimiter)
    file = tmp_path / "open.dcm"
    file.write_bytes(data[: -len(delimiter)] + end)
    assert (render(read_dataset(file)).values == expected).all()
