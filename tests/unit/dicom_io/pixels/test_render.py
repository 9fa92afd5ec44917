"""Rendering, held to pydicom's own functions in double precision and to the standard's formulas."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
from argparse import Namespace
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicom_io.errors import CxrdError, UnsupportedPixels
from dicom_io.header.reading import read_dataset
from dicom_io.objects.common import encode
from dicom_io.objects.radiograph import radiograph
from dicom_io.pixels.decoders import Decoders
from dicom_io.pixels.render import render
from tests.support.shared import shared
from tests.support.tools import tool


def grey(
    *, bits: int = 12, allocated: int = 16, signed: bool = False, shape: tuple[int, int] = (64, 96), **extra: Any
) -> Dataset:
    """Make a CR object whose pixels take values all over their range; attributes by keyword, None removes one."""
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    values = np.linspace(low, high, shape[0] * shape[1]).round().astype(np.int64).reshape(shape)
    kind = np.dtype(f"{'i' if signed else 'u'}{allocated // 8}")
    dataset = radiograph(np.zeros(shape, np.uint16), uid_seed="pixels", modality="CR")
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    dataset.add_new("PixelData", "OW" if allocated == 16 else "OB", values.astype(kind).tobytes())
    del dataset.WindowCenter, dataset.WindowWidth
    for keyword, value in extra.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    return dataset


def lut(first: int, bits: int, entries: list[int], kind: str | None = None) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "US", entries)
    if kind:
        item.ModalityLUTType = kind
    return item


def reference(dataset: Dataset) -> NDArray[np.float64]:
    """Render with pydicom's functions: modality, VOI, scaled from pydicom's output range to 0..1, then polarity."""
    modality = apply_modality_lut(dataset.pixel_array, dataset).astype(np.float64)
    if "VOILUTSequence" in dataset:
        shown = apply_voi_lut(modality.astype(np.int64), dataset) / (
            (1 << dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1
        )
    else:
        low, high = 0.0, float((1 << dataset.BitsStored) - 1)
        if "ModalityLUTSequence" in dataset:
            high = float((1 << dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1)
        elif dataset.PixelRepresentation == 1:
            low, high = -float(1 << (dataset.BitsStored - 1)), float((1 << (dataset.BitsStored - 1)) - 1)
        if "RescaleSlope" in dataset and "ModalityLUTSequence" not in dataset:
            low, high = (end * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept) for end in (low, high))
        with np.errstate(over="ignore"):  # pydicom's SIGMOID far from the window
            shown = (apply_voi_lut(modality, dataset) - low) / (high - low)
    return 1.0 - shown if dataset.PhotometricInterpretation == "MONOCHROME1" else np.asarray(shown)


STORED = [
    (8, 8, False),
    (10, 16, False),
    (12, 16, False),
    (16, 16, False),
    (8, 16, False),
    (12, 16, True),
    (16, 16, True),
]
WINDOWS = [
    {"WindowCenter": 600, "WindowWidth": 900},
    {"WindowCenter": [100, 600], "WindowWidth": [180, 900]},
    {"WindowCenter": 100, "WindowWidth": 150, "VOILUTFunction": "LINEAR"},
    {"WindowCenter": 100, "WindowWidth": 150, "VOILUTFunction": "LINEAR_EXACT"},
    {"WindowCenter": 100, "WindowWidth": 150, "VOILUTFunction": "SIGMOID"},
    {"WindowCenter": 90.25, "WindowWidth": 33.5, "RescaleSlope": 0.25, "RescaleIntercept": 4},
    {"WindowCenter": 90, "WindowWidth": 330, "RescaleSlope": 2, "RescaleIntercept": -128},
    {"WindowCenter": 40, "WindowWidth": 1},
]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: "-".join(map(str, window.values())))
@pytest.mark.parametrize(("bits", "allocated", "signed"), STORED)
def test_windows_agree_with_pydicom(
    bits: int, allocated: int, signed: bool, window: dict[str, Any], photometric: str
) -> None:
    dataset = grey(bits=bits, allocated=allocated, signed=signed, PhotometricInterpretation=photometric, **window)
    rendered = render(dataset)
    assert rendered.values.dtype == np.float32
    assert rendered.values.shape == (64, 96)
    expected = reference(dataset)
    black, white = expected < 0.5 / 255, expected > 1 - 0.5 / 255
    visible = max(float(black.mean()), float(white.mean())) < 0.99
    if visible:  # what shows nothing at all is not shown so: see below
        assert np.abs(rendered.values - expected).max() < 1e-5


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("first", [0, 500, -100])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_voi_luts_agree_with_pydicom(bits: int, first: int, photometric: str) -> None:
    top = (1 << bits) - 1
    entries = (np.linspace(0, 1, 1500) ** 0.6 * top).round().astype(int).tolist()
    dataset = grey(signed=first < 0, PhotometricInterpretation=photometric, VOILUTSequence=[lut(first, bits, entries)])
    if bits == 8:  # pydicom takes 8 bits for bytes
        assert np.abs(render(dataset).values.max() - 1) < 1e-6
        return
    assert np.abs(render(dataset).values - reference(dataset)).max() < 1e-5


def test_a_voi_lut_comes_before_a_window_and_the_first_before_the_second() -> None:
    ramp = lut(0, 12, list(range(4096)))
    dataset = grey(VOILUTSequence=[ramp, lut(0, 12, [0] * 4096)], WindowCenter=10, WindowWidth=5)
    assert np.abs(render(dataset).values - dataset.pixel_array / 4095).max() < 1e-6


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 30000, "WindowWidth": 50000}])
def test_modality_luts_agree_with_pydicom(window: dict[str, Any]) -> None:
    entries = (np.linspace(0, 1, 4000) ** 2 * 65535).round().astype(int).tolist()
    dataset = grey(ModalityLUTSequence=[lut(50, 16, entries, "US")], **window)
    expected = reference(dataset) if window else None
    values = render(dataset).values
    if expected is not None:
        assert np.abs(values - expected).max() < 1e-5
    else:
        assert np.all(np.diff(values.ravel()) >= 0)
        assert values[32, 48] < 0.3  # squared


def test_a_modality_lut_comes_before_a_rescale() -> None:
    window: dict[str, Any] = {"WindowCenter": 30000, "WindowWidth": 50000}
    table = lut(0, 16, list(range(0, 65536, 16)), "US")
    both = grey(ModalityLUTSequence=[table], RescaleSlope=7, RescaleIntercept=9, **window)
    assert np.array_equal(render(both).values, render(grey(ModalityLUTSequence=[table], **window)).values)


def test_a_modality_lut_of_65536_entries_and_lut_data_as_bytes() -> None:
    entries = np.arange(65535, -1, -1).astype("<u2")
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [0, 0, 16])
    item.add_new("LUTData", "OW", entries.tobytes())
    item.ModalityLUTType = "US"
    dataset = grey(bits=16, ModalityLUTSequence=[item], WindowCenter=32768, WindowWidth=65536)
    assert np.abs(render(dataset).values - (1 - dataset.pixel_array / 65535)).max() < 1e-6


def test_lut_entries_of_eight_bits_may_be_packed_two_to_a_word() -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [256, 0, 8])
    item.add_new("LUTData", "OW", bytes(range(256)))
    dataset = grey(bits=8, allocated=8, VOILUTSequence=[item])
    assert np.abs(render(dataset).values - dataset.pixel_array / 255).max() < 1e-6


def raw_lut(descriptor: list[int], data: bytes) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", descriptor)
    item.add_new("LUTData", "OW", data)
    return item


@pytest.mark.parametrize("descriptor", [[256, 0], [256, 0, 40], [256, 0, 0], []])
def test_what_is_no_table_counts_as_absent(descriptor: list[int]) -> None:
    window: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096}
    broken = raw_lut(descriptor, bytes(512))
    dataset = grey(VOILUTSequence=[broken], ModalityLUTSequence=[broken], **window)
    assert np.array_equal(render(dataset).values, render(grey(**window)).values)


@pytest.mark.parametrize("data", [b"", b"\0"])
def test_a_table_without_entries_counts_as_absent(data: bytes) -> None:
    window: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096}
    dataset = grey(VOILUTSequence=[raw_lut([4096, 0, 12], data)], **window)
    assert np.array_equal(render(dataset).values, render(grey(**window)).values)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("missing", [1, 7, 100])
def test_the_last_entry_of_a_short_table_goes_on(bits: int, missing: int) -> None:
    whole = np.minimum(np.arange(4096) >> (12 - min(bits, 12)), (1 << bits) - 1).astype("<u2")
    whole[-missing:] = whole[-missing - 1]
    short = render(grey(VOILUTSequence=[raw_lut([4096, 0, bits], whole[:-missing].tobytes())]))
    full = render(grey(VOILUTSequence=[raw_lut([4096, 0, bits], whole.tobytes())]))
    assert np.array_equal(short.values, full.values)


@pytest.mark.parametrize("stated", [12, 14, 16])
def test_a_table_that_uses_fewer_bits_than_it_states_is_not_dark(stated: int) -> None:
    dataset = grey(VOILUTSequence=[raw_lut([4096, 0, stated], np.arange(4096, dtype="<u2").tobytes())])
    assert np.abs(render(dataset).values - dataset.pixel_array / 4095).max() < 1e-6


@pytest.mark.parametrize("slope", ["0", "0.0"])
def test_a_slope_of_0_counts_as_absent(slope: str) -> None:
    window: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096}
    assert np.array_equal(render(grey(RescaleSlope=slope, **window)).values, render(grey(**window)).values)


@pytest.mark.parametrize("frames", ["0", "", "abc"])
def test_a_number_of_frames_that_is_none_is_one_where_the_data_is_that_of_one(frames: str) -> None:
    dataset = grey()
    dataset[0x00280008] = RawDataElement(Tag(0x00280008), "IS", len(frames), frames.encode(), 0, False, True)
    expected = render(grey()).values
    assert np.array_equal(render(dataset).values, expected)
    dataset.PixelData += dataset.PixelData
    with pytest.raises(UnsupportedPixels, match="not those of one"):
        render(dataset)


def test_an_empty_lut_item_counts_as_none() -> None:
    dataset = grey(VOILUTSequence=[Dataset()], ModalityLUTSequence=[Dataset()], WindowCenter=2048, WindowWidth=4096)
    assert np.abs(render(dataset).values - dataset.pixel_array / 4095).max() < 1e-6


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "window",
    [
        {},
        {"WindowCenter": 2000, "WindowWidth": 0},
        {"WindowCenter": 2000, "WindowWidth": -5},
        {"WindowCenter": "", "WindowWidth": ""},
        {"WindowCenter": 2000},
        {"WindowCenter": 60000, "WindowWidth": 10},  # all black
        {"WindowCenter": -60000, "WindowWidth": 10},  # all white
    ],
)
def test_without_a_usable_window_the_image_s_own_range_is_shown(window: dict[str, Any], photometric: str) -> None:
    dataset = grey(shape=(200, 200), PhotometricInterpretation=photometric, **window)
    stored = dataset.pixel_array.copy()
    stored[0, :4], stored[1, :4] = 0, 4095  # a few outliers do not count
    stored[2:] = 1000 + stored[2:] // 4
    dataset.PixelData = stored.tobytes()
    low, high = np.percentile(stored, [0.1, 99.9])
    expected = np.clip((stored - low) / (high - low), 0, 1)
    expected = 1 - expected if photometric == "MONOCHROME1" else expected
    assert np.abs(render(dataset).values - expected).max() < 0.005


def test_a_constant_image_renders() -> None:
    values = render(grey(PixelData=b"\x07\x00" * 64 * 96)).values
    assert float(values.min()) == float(values.max())


@pytest.mark.parametrize("shape", ["IDENTITY", "INVERSE", None])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_presentation_lut_shape_does_not_invert_again(photometric: str, shape: str | None) -> None:
    dataset = grey(PhotometricInterpretation=photometric, WindowCenter=2048, WindowWidth=4096)
    if shape:
        dataset.PresentationLUTShape = shape
    expected = dataset.pixel_array / 4095
    assert np.abs(render(dataset).values - (1 - expected if photometric == "MONOCHROME1" else expected)).max() < 1e-6


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("signed", "vr", "value", "limit", "padded"),
    [
        (False, "US", 0, None, (0, 0)),
        (False, "US", 4000, 4095, (4000, 4095)),
        (False, "US", 4095, 4000, (4000, 4095)),
        (True, "SS", -2000, None, (-2000, -2000)),
        (True, "SS", -2048, -2000, (-2048, -2000)),
        (True, "US", 65536 - 2000, None, (-2000, -2000)),
    ],
)
def test_padding_is_black_and_does_not_count(
    signed: bool, vr: str, value: int, limit: int | None, padded: tuple[int, int], photometric: str
) -> None:
    dataset = grey(signed=signed, PhotometricInterpretation=photometric)
    dataset.add_new("PixelPaddingValue", vr, value)
    if limit is not None:
        dataset.add_new("PixelPaddingRangeLimit", vr, limit)
    stored = dataset.pixel_array.astype(int) // 4 + 500
    stored[:20] = np.resize(np.arange(padded[0], padded[1] + 1), (20, 96))  # a fifth of the image
    dataset.PixelData = stored.astype(np.int16 if signed else np.uint16).tobytes()
    values = render(dataset).values
    assert np.all(values[:20] == 0)
    inside = values[20:] if photometric == "MONOCHROME2" else 1 - values[20:]
    assert inside[0, 0] < 0.01
    assert inside[-1, -1] > 0.99  # the range is the rest's


def test_an_image_of_padding_alone_is_black() -> None:
    assert not render(grey(PixelData=bytes(64 * 96 * 2), PixelPaddingValue=0)).values.any()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("bits", "high"), [(12, 11), (10, 9), (12, 15), (8, 11), (15, 14)])
def test_bits_beside_the_stored_ones_do_not_count(bits: int, high: int, signed: bool) -> None:
    clean = grey(bits=bits, signed=signed, WindowCenter=0, WindowWidth=1 << bits)
    shift = high + 1 - bits
    cells = (clean.pixel_array.astype(np.int64) << shift) & (((1 << bits) - 1) << shift)
    stray = np.random.default_rng(0).integers(0, 1 << 16, cells.shape) & ~(((1 << bits) - 1) << shift)
    dirty = grey(bits=bits, signed=signed, WindowCenter=0, WindowWidth=1 << bits, HighBit=high)
    dirty.PixelData = (cells | stray).astype(np.uint16).tobytes()
    assert np.array_equal(render(dirty).values, render(clean).values)


@pytest.mark.parametrize(
    ("keyword", "value", "aspect"),
    [
        ("PixelSpacing", [0.2, 0.1], 2.0),
        ("ImagerPixelSpacing", [0.1, 0.2], 0.5),
        ("NominalScannedPixelSpacing", [0.3, 0.2], 1.5),
        ("PixelAspectRatio", [4, 3], 4 / 3),
        ("PixelSpacing", [0, 0.1], 1.0),
        ("PixelAspectRatio", [1000, 1], 1.0),
        ("PixelAspectRatio", [1], 1.0),
    ],
)
def test_aspect(keyword: str, value: list[float], aspect: float) -> None:
    dataset = grey(PixelSpacing=None, ImagerPixelSpacing=None)
    setattr(dataset, keyword, value)
    assert render(dataset).aspect == pytest.approx(aspect)


def native(dataset: Dataset, syntax: UID) -> Dataset:
    """Send a dataset through a file in an uncompressed syntax."""
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, np.uint16).byteswap().tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax
    buffer = BytesIO()
    little, implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True, little_endian=little, implicit_vr=implicit)
    buffer.seek(0)
    return pydicom.dcmread(buffer)


@pytest.mark.parametrize(("bits", "allocated", "signed"), STORED)
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_uncompressed_syntaxes(syntax: UID, bits: int, allocated: int, signed: bool) -> None:
    expected = render(grey(bits=bits, allocated=allocated, signed=signed)).values
    if allocated == 8:
        again = native(grey(bits=8, allocated=8, PixelData=grey(bits=8, allocated=8).PixelData), syntax)
        if syntax == ExplicitVRBigEndian:
            again["PixelData"].VR = "OW"
    else:
        again = native(grey(bits=bits, allocated=allocated, signed=signed), syntax)
    assert np.array_equal(render(again).values, expected)


def test_deflated() -> None:
    dataset = grey()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert np.array_equal(render(pydicom.dcmread(BytesIO(encode(dataset)))).values, render(grey()).values)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize(("bits", "allocated", "signed"), STORED)
def test_lossless_compression_changes_nothing(syntax: UID, bits: int, allocated: int, signed: bool) -> None:
    if signed and syntax == JPEGLSLossless:
        pytest.skip("pydicom encodes no signed values as JPEG-LS")
    if (bits, allocated, syntax) == (8, 16, RLELossless):
        pytest.skip("pydicom 3.0 encodes half of the segments of 8 bits in 16")
    dataset = grey(bits=bits, allocated=allocated, signed=signed)
    expected = render(dataset).values
    dataset.compress(syntax, generate_instance_uid=False)
    again = pydicom.dcmread(BytesIO(encode(dataset)))
    assert np.array_equal(render(again).values, expected)


def test_jpeg_baseline() -> None:
    dataset = grey(bits=8, allocated=8, WindowCenter=128, WindowWidth=256)
    expected = render(dataset).values
    data = cv2.imencode(".jpg", dataset.pixel_array, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    dataset.add_new("PixelData", "OB", encapsulate([data]))
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    assert np.abs(render(dataset).values - expected).max() < 3 / 255


@pytest.mark.parametrize(
    ("options", "bits", "allocated", "tolerance"),
    [
        (["+e1"], 12, 16, 0),  # lossless, SV1
        (["+el"], 16, 16, 0),  # lossless
        (["+ee", "+q", "98"], 12, 16, 12),  # extended, 12 bits
        (["+eb", "+q", "98"], 8, 8, 3),  # baseline
    ],
)
def test_jpeg_as_dcmtk_encodes_it(
    tmp_path: Path, options: list[str], bits: int, allocated: int, tolerance: int
) -> None:
    dataset = grey(bits=bits, allocated=allocated, WindowCenter=1 << (bits - 1), WindowWidth=1 << bits)
    plain, compressed = tmp_path / "plain.dcm", tmp_path / "compressed.dcm"
    plain.write_bytes(encode(dataset))
    subprocess.run([tool("dcmcjpeg"), *options, plain, compressed], check=True)
    again = read_dataset(compressed)
    assert again.file_meta.TransferSyntaxUID.is_compressed
    assert np.abs(render(again).values - render(dataset).values).max() <= tolerance / (1 << bits) + 1e-6


def test_htj2k_is_routed_to_a_decoder() -> None:
    """No encoder of HTJ2K is at hand; its decoder also reads plain JPEG 2000, which shows the way there is open."""
    dataset = grey()
    expected = render(dataset).values
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
    assert np.array_equal(render(dataset).values, expected)


def changed(dataset: Dataset, **attributes: Any) -> Dataset:
    for keyword, value in attributes.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"PixelData": None}, "no pixel data"),
        ({"PixelData": b""}, "cut short at 0 of 12288"),
        ({"PixelData": bytes(12287)}, "cut short at 12287 of 12288"),
        ({"Rows": None}, "Rows or Columns"),
        ({"Columns": None}, "Rows or Columns"),
        ({"Rows": 0}, "Rows or Columns"),
        ({"Rows": 65535, "Columns": 65535}, "65535 × 65535 pixels are more than"),
        ({"NumberOfFrames": 2}, "2 frames"),
        ({"SamplesPerPixel": 3}, "3 samples"),
        ({"PhotometricInterpretation": None}, "unknown or absent"),
        ({"PhotometricInterpretation": "SMITH^JOHN"}, "unknown or absent"),
        ({"PhotometricInterpretation": "RGB"}, "RGB"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR"),
        ({"PhotometricInterpretation": "YBR_FULL_422"}, "YBR_FULL_422"),
        ({"BitsAllocated": None}, "no bits allocated"),
        ({"BitsAllocated": 32}, "32 bits"),
        ({"BitsAllocated": 1}, "1 bits"),
        ({"BitsStored": 17}, "Bits Stored 17"),
        ({"HighBit": 16}, "High Bit 16"),
        ({"HighBit": 5}, "High Bit 5"),
    ],
)
def test_refusals_name_what_is_wrong(attributes: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedPixels, match=words) as caught:
        render(changed(grey(), **attributes))
    assert "\n" not in str(caught.value)


def test_float_pixel_data_is_named() -> None:
    dataset = changed(grey(), PixelData=None, FloatPixelData=bytes(4 * 64 * 96))
    with pytest.raises(UnsupportedPixels, match="float"):
        render(dataset)


@pytest.mark.parametrize(
    ("vr", "words"), [("\x4f\x7f", "cannot be read"), ("UC", "value representation"), ("US", "value representation")]
)
def test_pixel_data_of_another_value_representation(vr: str, words: str) -> None:
    dataset = grey()
    dataset._dict[Tag("PixelData")] = RawDataElement(Tag("PixelData"), vr, 2, b"xx", 0, False, True)
    with pytest.raises(UnsupportedPixels, match=words):
        render(dataset)


@pytest.mark.parametrize("syntax", [None, "", "1.2.840.10008.1.1", "1.2.3.4", "1.2.840.10008.1.2.4.100", "nonsense"])
def test_transfer_syntaxes_that_are_not_read(syntax: str | None) -> None:
    dataset = grey()
    if syntax is None:
        del dataset.file_meta
    else:
        dataset.file_meta["TransferSyntaxUID"].value = syntax
    with pytest.raises(UnsupportedPixels):
        render(dataset)


def test_the_limit_on_pixels_is_a_parameter() -> None:
    with pytest.raises(UnsupportedPixels, match="more than the 6143"):
        render(grey(), max_pixels=64 * 96 - 1)
    render(grey(), max_pixels=64 * 96)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("lie", [{"Rows": 32}, {"Columns": 97}, {"Rows": 6000, "Columns": 6000}])
def test_a_code_stream_of_another_size_is_refused_before_decoding(
    syntax: UID, lie: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = grey()
    dataset.compress(syntax, generate_instance_uid=False)
    monkeypatch.setattr(Decoders, "decode", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(UnsupportedPixels, match="the compressed image is 64 × 96, the dataset says"):
        render(changed(dataset, **lie))


def test_a_colour_code_stream_is_refused() -> None:
    dataset = grey(bits=8, allocated=8)
    data = cv2.imencode(".jpg", np.zeros((64, 96, 3), np.uint8))[1].tobytes()
    dataset.add_new("PixelData", "OB", encapsulate([data]))
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    with pytest.raises(UnsupportedPixels, match="3 components"):
        render(dataset)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.97])
def test_cut_off_compressed_data_is_refused_or_drawn_but_never_a_crash(syntax: UID, keep: float) -> None:
    dataset = grey()
    dataset.compress(syntax, generate_instance_uid=False)
    data = dataset.PixelData
    dataset["PixelData"].value = data[: int(len(data) * keep)]
    with contextlib.suppress(UnsupportedPixels):
        assert render(dataset).values.shape == (64, 96)


def test_raw_pixels_under_a_jpeg_syntax_are_refused() -> None:
    dataset = grey()
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    with pytest.raises(UnsupportedPixels, match="native pixel data under an encapsulated"):
        render(dataset)


def test_encapsulated_data_under_a_native_syntax_is_refused() -> None:
    dataset = grey()
    dataset.PixelData = encapsulate([bytes(dataset.PixelData)])
    with pytest.raises(UnsupportedPixels, match="encapsulated pixel data under a native"):
        render(dataset)


@pytest.mark.parametrize(("given", "meant"), [(-2000, 63536), (-1, 65535)])
def test_padding_of_the_other_sign_means_the_same_bits(given: int, meant: int) -> None:
    dataset = grey(bits=16)
    pixels = np.array(dataset.pixel_array)
    pixels[:8] = meant
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset.add_new("PixelPaddingValue", "SS", given)
    assert not render(dataset).values[:8].any()
    right = changed(dataset)
    right.add_new("PixelPaddingValue", "US", meant)
    assert np.array_equal(render(dataset).values, render(right).values)


@pytest.mark.parametrize("place", [24, 33])
def test_damage_that_ends_a_decoder_s_process_does_not_end_ours(place: int, tmp_path: Path) -> None:
    """One changed byte in the Huffman table or at the next marker: GDCM 3.2 dies of SIGSEGV or SIGABRT."""
    plain, compressed = tmp_path / "plain.dcm", tmp_path / "compressed.dcm"
    plain.write_bytes(encode(grey()))
    subprocess.run([tool("dcmcjpeg"), "+e1", plain, compressed], check=True)
    dataset = read_dataset(compressed)
    frame = bytearray(get_frame(dataset.PixelData, 0, number_of_frames=1))
    frame[place] = 21
    dataset["PixelData"].value = encapsulate([bytes(frame)])
    with pytest.raises(UnsupportedPixels):
        render(dataset)


def test_random_damage_is_refused_or_drawn() -> None:
    random = np.random.default_rng(0)
    for syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
        dataset = grey()
        dataset.compress(syntax, generate_instance_uid=False)
        whole = bytes(dataset.PixelData)
        for _ in range(4 if syntax == JPEGLSLossless else 25):  # a process each
            data = bytearray(whole)
            for place in random.integers(0, len(data), 4):
                data[place] = random.integers(256)
            dataset["PixelData"].value = bytes(data)
            with contextlib.suppress(UnsupportedPixels):
                assert render(dataset).values.shape == (64, 96)


def test_the_dataset_is_left_as_it_was() -> None:
    for dataset in (grey(PixelPaddingValue=3), changed(grey(PhotometricInterpretation="MONOCHROME1"), WindowCenter=9)):
        before = encode(dataset)
        render(dataset)
        assert encode(dataset) == before


def _make_dicoms() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_dicoms", shared("bench", "make_dicoms.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SYNTAXES = ("explicit", "implicit", "bigendian", "deflated", "rle", "j2k", "j2k-lossy", "jpegls")


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_radiograph_looks_the_same_in_every_syntax_and_polarity(
    syntax: str, photometric: str, tmp_path: Path
) -> None:
    maker = _make_dicoms()
    files = sorted(shared("data", "kermany_full").rglob("*.jpeg"))[:2] or pytest.fail("no radiographs")
    options = Namespace(modality="CR", photometric=photometric, syntax=syntax, age="004Y", rows=256, cols=320)
    for index, file in enumerate(files):
        dataset = maker.dataset(file, index, options)
        path = tmp_path / f"{index}.dcm"
        little, implicit = syntax != "bigendian", syntax == "implicit"
        if little and not implicit:
            dataset.save_as(path, enforce_file_format=True)
        else:
            pydicom.dcmwrite(path, dataset, enforce_file_format=True, little_endian=little, implicit_vr=implicit)
        picture = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        assert picture is not None
        expected = cv2.resize(picture, (320, 256), interpolation=cv2.INTER_CUBIC) / 255.0
        difference = np.abs(render(read_dataset(path)).values - expected)
        assert difference.max() < (0.1 if syntax == "j2k-lossy" else 1.5 / 255)
        assert difference.mean() < (4 if syntax == "j2k-lossy" else 1) / 255


def _corpus() -> list[Path]:
    return sorted(path for folder in ("dicom_chest", "dicom_other") for path in shared("data", folder).iterdir())


def test_real_objects_render_or_say_why_not() -> None:
    rendered = []
    for path in _corpus():
        try:
            result = render(read_dataset(path))
        except CxrdError:
            continue
        assert 0 <= float(result.values.min()) <= float(result.values.max()) <= 1
        assert result.values.std() > 0.01
        rendered.append(path.name)
    assert len([name for name in rendered if name.startswith(("cr_", "dx_"))]) == 9
    assert len(rendered) == 24


@pytest.mark.parametrize(
    "name",
    [
        "cr_mono1_10bit_explicit",
        "cr_mono1_15bit_j2k_nodules",
        "cr_mono1_15bit_jpegls_near",
        "dx_mono1_dog",
        "cr_rsna_normal",
    ],
)
def test_real_radiographs_agree_with_pydicom(name: str) -> None:
    dataset = read_dataset(shared("data", "dicom_chest", f"{name}.dcm"))
    if "WindowCenter" in dataset:
        assert np.abs(render(dataset).values - reference(dataset)).max() < 1e-5
    else:
        assert np.corrcoef(render(dataset).values.ravel(), dataset.pixel_array.ravel())[0, 1] > 0.999
