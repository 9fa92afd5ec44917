"""The headers of compressed images, from real encoders and from damaged bytes."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
from openjpeg.utils import encode_array
from pydicom.encaps import get_frame
from pydicom.uid import RLELossless

from dicom_io.errors import UnsupportedPixels
from dicom_io.header.reading import read_dataset
from dicom_io.pixels.codestream import Dimensions, dimensions
from tests.support.shared import shared

BASELINE, JPEG_LS, J2K, HTJ2K = (f"1.2.840.10008.1.2.4.{n}" for n in (50, 80, 90, 201))


def jpeg(rows: int = 70, columns: int = 93) -> bytes:
    return cv2.imencode(".jpg", np.zeros((rows, columns), np.uint8))[1].tobytes()


def j2k(dtype: type = np.uint16, bits: int = 12) -> bytes:
    return bytes(encode_array(np.zeros((70, 93), dtype), bits_stored=bits, photometric_interpretation=2))


def test_reads_a_jpeg() -> None:
    assert dimensions(jpeg(), BASELINE) == Dimensions(70, 93, 1, 8, signed=False)


def test_reads_a_colour_jpeg() -> None:
    data = cv2.imencode(".jpg", np.zeros((70, 93, 3), np.uint8))[1].tobytes()
    assert dimensions(data, BASELINE) == Dimensions(70, 93, 3, 8, signed=False)


def test_passes_over_fill_bytes_and_segments() -> None:
    data = jpeg()
    padded = data[:2] + b"\xff\xfe\x00\x06abcd" + b"\xff\xff\xff" + data[2:]
    assert dimensions(padded, BASELINE) == dimensions(data, BASELINE)


@pytest.mark.parametrize(
    ("dtype", "bits", "signed"), [(np.uint16, 12, False), (np.int16, 16, True), (np.uint8, 8, False)]
)
def test_reads_a_jpeg_2000(dtype: type, bits: int, signed: bool) -> None:
    assert dimensions(j2k(dtype, bits), J2K) == Dimensions(70, 93, 1, bits, signed=signed)


def test_reads_the_code_stream_of_a_jp2_file() -> None:
    boxes = b"\x00\x00\x00\x0cjP  \r\n\x87\n" + struct.pack(">I4s", 12, b"ftyp") + b"jp2 "
    stream = j2k()
    short = boxes + struct.pack(">I4s", 0, b"jp2c") + stream
    long = boxes + struct.pack(">I4sQ", 1, b"jp2c", 16 + len(stream)) + stream
    assert dimensions(short, J2K) == dimensions(long, J2K) == dimensions(stream, J2K)


def test_the_offset_of_a_jpeg_2000_image_does_not_count() -> None:
    stream = bytearray(j2k())
    stream[8:24] = struct.pack(">4I", 193, 170, 100, 100)
    assert dimensions(bytes(stream), HTJ2K) == Dimensions(70, 93, 1, 12, signed=False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dicom_chest/cr_mono1_15bit_jpegls_near.dcm", (1955, 1841, 1, 15)),
        ("dicom_chest/cr_mono1_15bit_j2k_nodules.dcm", (1955, 1841, 1, 15)),
        ("dicom_chest/cr_rsna_normal.dcm", (1024, 1024, 1, 8)),
        ("dicom_other/ct_1_jpeg_extended_process_2_and.dcm", (512, 512, 1, 12)),
        ("dicom_other/nm_2_jpeg_lossless_non_hierarchic.dcm", (1024, 256, 1, 16)),
    ],
)
def test_reads_what_modalities_sent(name: str, expected: tuple[int, int, int, int]) -> None:
    dataset = read_dataset(shared("data", *name.split("/")))
    frame = get_frame(dataset.PixelData, 0, number_of_frames=int(dataset.get("NumberOfFrames") or 1))
    found = dimensions(frame, dataset.file_meta.TransferSyntaxUID)
    assert found is not None
    assert (found.rows, found.columns, found.components, found.bits) == expected


def test_run_length_encoding_states_no_size() -> None:
    assert dimensions(b"", RLELossless) is None


@pytest.mark.parametrize(
    ("data", "syntax"),
    [
        (b"", BASELINE),
        (b"\xff\xd8", BASELINE),
        (b"GIF89a", BASELINE),
        (b"\xff\xd8\xff\xda\x00\x04ab", BASELINE),  # a scan without a frame
        (b"\xff\xd8\xff\xd9", BASELINE),
        (b"\xff\xd8\xff\xe0\x00\x00" * 4, BASELINE),  # a segment shorter than its own length
        (b"\xff\xd8\xff\xe0\x00\x04ab plainly no marker", BASELINE),
        (b"\xff\xd8\xff\xc0\x00\x11\x08\x00", JPEG_LS),
        (b"\xff\xd8" + b"\xff" * 40, JPEG_LS),
        (b"", J2K),
        (b"\xff\x4f\xff\x51\x00", J2K),
        (b"\xff\xd8\xff\xe0", J2K),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", J2K),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n" + b"\x00\x00\x00\x04free" * 3, HTJ2K),
        (b"\xff\x4f\xff\x51" + struct.pack(">HH8IHB", 41, 0, 8, 8, 8, 8, 1, 1, 0, 0, 1, 7), HTJ2K),  # an empty image
    ],
)
def test_damaged_headers_are_refused(data: bytes, syntax: str) -> None:
    with pytest.raises(UnsupportedPixels):
        dimensions(data, syntax)


@pytest.mark.parametrize("syntax", [BASELINE, J2K])
def test_a_header_cut_off_anywhere_is_refused_or_read(syntax: str) -> None:
    whole = jpeg() if syntax == BASELINE else j2k()
    sizes = set()
    for end in range(len(whole)):
        try:
            sizes.add(dimensions(whole[:end], syntax))
        except UnsupportedPixels:
            continue
    assert sizes == {dimensions(whole, syntax)}
