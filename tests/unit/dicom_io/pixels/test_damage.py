"""Damaged code streams: cut, cut with an end put on, with a hole, with zeros in it. None is answered as a picture."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGLSLossless, JPEGLSNearLossless, RLELossless

from dicom_io.errors import UnsupportedPixels
from dicom_io.header.reading import read_dataset
from dicom_io.objects.common import encode
from dicom_io.objects.radiograph import radiograph
from dicom_io.pixels.decoder import is_complaint
from dicom_io.pixels.render import render
from tests.support.tools import tool

EOI = b"\xff\xd9"
BY_DCMTK = {
    "sv1": ["+e1"],
    "process 14": ["+el"],
    "extended": ["+ee", "+q", "95"],
    "baseline": ["+eb", "+q", "95"],
}
BY_PYDICOM: dict[str, tuple[str, dict[str, Any]]] = {
    "rle": (RLELossless, {}),
    "jpeg-ls": (JPEGLSLossless, {}),
    "jpeg-ls, near": (JPEGLSNearLossless, {"jls_error": 2}),
    "jpeg 2000": (JPEG2000Lossless, {}),
    "jpeg 2000, lossy": (JPEG2000, {"j2k_cr": [8]}),
}


def noisy(bits: int) -> Dataset:
    """Return a picture of smooth shapes and noise, as a radiograph is one; large enough for a tenth to be a hole."""
    shape, top = (400, 480), (1 << bits) - 1
    random = np.random.default_rng(0)
    shapes = cv2.GaussianBlur(random.normal(0, 1, shape).astype(np.float32), (0, 0), 20)
    values: NDArray[Any] = top / 2 + shapes / np.abs(shapes).max() * top / 3 + random.normal(0, top / 200, shape)
    dataset = radiograph(values.clip(0, top).astype(np.uint16), uid_seed="damage", modality="CR")
    if bits == 8:
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.add_new("PixelData", "OB", values.clip(0, top).astype(np.uint8).tobytes())
    return dataset


def compressed(kind: str, folder: Path) -> Dataset:
    dataset = noisy(8 if kind == "baseline" else 12)
    if kind in BY_PYDICOM:
        syntax, options = BY_PYDICOM[kind]
        dataset.compress(syntax, generate_instance_uid=False, **options)
        return dataset
    (folder / "plain.dcm").write_bytes(encode(dataset))
    command = [tool("dcmcjpeg"), *BY_DCMTK[kind], str(folder / "plain.dcm"), str(folder / "compressed.dcm")]
    subprocess.run(command, check=True)
    return read_dataset(folder / "compressed.dcm")


def damages(frame: bytes) -> Iterator[tuple[str, bytes]]:
    tenth = len(frame) // 10
    for k in range(1, 10):
        yield f"cut at {k}", frame[: k * tenth]
        yield f"cut at {k}, with an end", frame[: k * tenth] + EOI
        yield f"hole at {k}", frame[: k * tenth] + frame[(k + 1) * tenth :]
        yield f"zeros at {k}", frame[: k * tenth] + bytes(tenth) + frame[(k + 1) * tenth :]


@pytest.mark.parametrize("kind", [*BY_DCMTK, *BY_PYDICOM])
def test_a_damaged_code_stream_is_no_picture(kind: str, tmp_path: Path) -> None:
    dataset = compressed(kind, tmp_path)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    whole = render(dataset).values
    reasons = set()
    for name, data in damages(frame):
        dataset["PixelData"].value = encapsulate([data])
        try:
            values = render(dataset).values
        except UnsupportedPixels as error:
            reasons.add(str(error).partition(":")[0])
        else:
            assert (np.abs(values - whole) > 0.01).mean() < 0.01, name
    assert reasons <= {"the object's JPEG data are damaged", "the object is cut short"} or "could not" in str(reasons)
    if kind in BY_DCMTK:
        assert reasons == {"the object's JPEG data are damaged", "the object is cut short"}


@pytest.mark.parametrize("kind", ["sv1", "baseline", "jpeg 2000"])
def test_padding_is_no_damage(kind: str, tmp_path: Path) -> None:
    """Zeros behind the end, and with JPEG a byte before it."""
    dataset = compressed(kind, tmp_path)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1).rstrip(b"\0")
    whole = render(dataset).values
    for data in [frame + bytes(6000), *([frame[:-2] + b"\0" + EOI] if kind in BY_DCMTK else [])]:
        dataset["PixelData"].value = encapsulate([data])
        assert np.array_equal(render(dataset).values, whole)


@pytest.mark.parametrize(
    ("lines", "damaged"),
    [
        (b"", False),
        (b"Unsupported JPEG data precision 12\n", False),
        (b"Corrupt JPEG data: premature end of data segment\n", True),
        (b"Unsupported JPEG data precision 12\nCorrupt JPEG data: bad Huffman code\n", True),
        (b"Corrupt JPEG data: found marker 0xd1 instead of RST0\n", True),
        (b"Corrupt JPEG data: 1 extraneous bytes before marker 0xd9\n", False),
        (b"Corrupt JPEG data: 2 extraneous bytes before marker 0xd0\n", True),
        (b"Corrupt JPEG data: 12 extraneous bytes before marker 0xd9\n", True),
        (b"Premature end of JPEG file\n", True),
    ],
)
def test_what_libjpeg_prints(lines: bytes, damaged: bool) -> None:
    assert is_complaint(lines) is damaged
