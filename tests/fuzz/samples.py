"""Valid objects that cases begin with: drawn radiographs in each syntax that is read, and shared files."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from dicom_io.objects.common import encode
from dicom_io.objects.radiograph import radiograph
from tests.support.bombs import header_bytes
from tests.support.peers import picture
from tests.support.shared import ROOT

LARGEST = 300_000
"""Bytes of a shared file that cases begin with: larger ones take their time at each step."""
_BY_DCMTK = {"sv1": "+e1", "process 14": "+el", "extended": "+ee", "baseline": "+eb"}


def chest(rows: int = 64, cols: int = 80, *, eight: bool = False) -> Dataset:
    """Return a small drawn radiograph with most of what headers have."""
    pixels = picture(1, rows, cols)
    dataset = radiograph(pixels, uid_seed="fuzz", modality="CR" if eight else "DX")
    if eight:
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.WindowCenter, dataset.WindowWidth = 128, 256
        dataset.add_new("PixelData", "OB", pixels.astype(np.uint8).tobytes())
    return dataset


@cache
def names() -> tuple[str, str]:
    """Return SOP class and instance of the drawn radiograph."""
    dataset = chest(16, 16)
    return str(dataset.SOPClassUID), str(dataset.SOPInstanceUID)


@cache
def data_set(rows: int = 64, cols: int = 80) -> bytes:
    """Return the elements of a drawn radiograph in explicit VR little endian, without File Meta Information."""
    dataset = chest(rows, cols)
    with_tables(dataset)
    pixels: bytes = dataset.PixelData
    return header_bytes(dataset) + b"\xe0\x7f\x10\x00OW\0\0" + len(pixels).to_bytes(4, "little") + pixels


def with_tables(dataset: Dataset) -> None:
    """Add what the grey scale, orders and references can be made of."""
    table = Dataset()
    table.LUTDescriptor = [16, 0, 12]
    table.add_new("LUTData", "US", list(range(0, 4096, 256)))
    dataset.VOILUTSequence = [table]
    order = Dataset()
    order.RequestedProcedureID, order.AccessionNumber = "RP1", "A1"
    order.PlacerOrderNumberImagingServiceRequest = "P1"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "399208008", "SCT", "Plain chest X-ray"
    order.RequestedProcedureCodeSequence = [code]
    dataset.RequestAttributesSequence, dataset.ProcedureCodeSequence = [order], [code]
    dataset.OtherPatientIDsSequence, dataset.PixelPaddingValue = [Dataset()], 0
    dataset.PatientSpeciesDescription, dataset.TimezoneOffsetFromUTC = "Homo sapiens", "+0100"
    dataset.add_new(0x00091010, "UN", b"a private element ")


@cache
def objects() -> dict[str, bytes]:
    """Return files by name: one in each transfer syntax that is read and that can be made here."""
    made = {"explicit": encode(chest()), "8 bits": encode(chest(eight=True))}
    for name, syntax in (
        ("implicit", ImplicitVRLittleEndian),
        ("big endian", ExplicitVRBigEndian),
        ("deflated", DeflatedExplicitVRLittleEndian),
    ):
        dataset = chest()
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
        if syntax == ExplicitVRBigEndian:
            dataset["PixelData"].value = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        made[name] = encode(dataset)
    for syntax, options in (
        (RLELossless, {}),
        (JPEG2000Lossless, {}),
        (JPEG2000, {"j2k_cr": [4]}),
        (JPEGLSLossless, {}),
        (JPEGLSNearLossless, {"jls_error": 2}),
    ):
        dataset = chest()
        dataset.compress(syntax, generate_instance_uid=False, **options)
        made[UID(syntax).name] = encode(dataset)
    dataset = chest(eight=True)
    _, stream = cv2.imencode(".jpg", np.frombuffer(dataset.PixelData, np.uint8).reshape(64, 80))
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset["PixelData"].value = encapsulate([stream.tobytes()])
    dataset["PixelData"].is_undefined_length = True
    made["JPEG by OpenCV"] = encode(dataset)
    return made | dict(_by_dcmtk())


def _by_dcmtk() -> Iterator[tuple[str, bytes]]:
    """Yield JPEG of four processes, where DCMTK is installed."""
    program = shutil.which("dcmcjpeg")
    if program is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        plain, made = Path(folder, "plain.dcm"), Path(folder, "made.dcm")
        for name, option in _BY_DCMTK.items():
            plain.write_bytes(encode(chest(eight=name == "baseline")))
            subprocess.run([program, option, plain, made], check=True)
            yield f"JPEG {name}", made.read_bytes()


@cache
def shared_objects() -> dict[str, bytes]:
    """Return the smaller files of the shared folder, by name; none where it is not there."""
    paths = sorted(path for kind in ("dicom_chest", "dicom_other") for path in (ROOT / "data" / kind).glob("*.dcm"))
    return {path.name: path.read_bytes() for path in paths if path.stat().st_size <= LARGEST}


@cache
def meta() -> bytes:
    """Return preamble and File Meta Information of a file in explicit VR little endian."""
    whole = encode(chest())
    return whole[: 144 + int.from_bytes(whole[140:144], "little")]


def file_of(elements: bytes) -> bytes:
    """Return a file of these elements, explicit VR little endian."""
    return meta() + elements
