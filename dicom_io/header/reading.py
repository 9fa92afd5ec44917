"""DICOM files read with care: bounded inflation, one error type, and no value of the data set in any message."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom import DataElement, config
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicom_io.errors import ObjectCutShort, OutOfResources, UnreadableObject
from dicom_io.header.end import require_end

# Modalities send values that break the standard's rules; we store them as they came and never quote them in a warning.
config.settings.reading_validation_mode = config.IGNORE

_PIXEL_DATA = (0x7FE0, 0x0010)
_UNDEFINED = 0xFFFFFFFF
MAX_INFLATED = 512 * 1024 * 1024
"""Largest data set, in bytes, that a deflated object may inflate to."""


def read_header(path: Path) -> FileDataset:
    """Read everything before the pixel data.

    Raises
    ------
    UnreadableObject
        When the file is not DICOM or cannot be parsed.
    OutOfResources
        When the file cannot be opened.
    """
    return _read(path, stop_before_pixels=True)


def read_arrived(path: Path) -> FileDataset:
    """Read everything before the pixel data of an object that has just arrived, and look whether its end is there.

    Pixel data is not read, only its lengths. Where nothing but the delimiter of encapsulated data is missing, the
    object may be whole.

    Raises
    ------
    ObjectCutShort
        The object ends within an element, or its native pixel data is shorter than rows, columns and bits say.
    UnreadableObject, OutOfResources
        As `read_header`.
    """
    header = read_header(path)
    if header.file_meta.TransferSyntaxUID != DeflatedExplicitVRLittleEndian:  # the end of that has been looked at
        try:
            with path.open("rb") as file:
                require_end(file, header)
        except OSError as error:
            raise OutOfResources(f"cannot read the file: {error.strerror}") from error
    return header


def read_dataset(path: Path) -> FileDataset:
    """Read a whole object; raises as `read_header` does."""
    return _read(path, stop_before_pixels=False)


def syntax_of(path: Path) -> str:
    """Return the transfer syntax that a file of ours names; explicit VR little endian where it cannot be read."""
    try:
        meta = pydicom.filereader.read_file_meta_info(str(path))
        return str(meta.TransferSyntaxUID)
    except (OSError, InvalidDicomError, AttributeError):
        return str(ExplicitVRLittleEndian)


def _read(path: Path, *, stop_before_pixels: bool) -> FileDataset:
    try:
        bare = not _has_preamble(path)
        meta = FileMetaDataset() if bare else FileMetaDataset(pydicom.filereader.read_file_meta_info(str(path)))
        deflated = meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
        source = _inflated(path, meta) if deflated else str(path)
        dataset = _parsed(source, stop_before_pixels=stop_before_pixels, force=bare)
        if deflated:  # the bytes in memory are no longer deflated, the object still is
            dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        if "TransferSyntaxUID" not in dataset.file_meta:
            # Some exports carry no meta information: what pydicom found while parsing stands in for it.
            implicit, little = dataset.original_encoding
            plain = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else plain
        if bare and not dataset.get("SOPClassUID"):
            raise UnreadableObject("not a DICOM file")
        _require_last(dataset, path)
    except UnreadableObject:
        raise
    except FileNotFoundError as error:
        raise UnreadableObject("the file is missing") from error
    except OSError as error:
        if error.errno is not None:
            raise OutOfResources(f"cannot read the file: {error.strerror}") from error
        raise UnreadableObject(f"not a readable DICOM object ({type(error).__name__})") from error
    except InvalidDicomError as error:
        raise UnreadableObject("not a DICOM file") from error
    except Exception as error:
        raise UnreadableObject(f"not a readable DICOM object ({type(error).__name__})") from error
    return dataset


def _require_last(dataset: FileDataset, path: Path) -> None:
    """Raise ObjectCutShort where the header ends within an element: pydicom then keeps the part of it, or nothing."""
    size = path.stat().st_size
    if len(dataset) == 0:
        begin = 132 + 12 + int(dataset.file_meta.get("FileMetaInformationGroupLength", 0))
        if size > begin:
            raise ObjectCutShort(f"the object is cut short at {size} bytes")
        return
    last = dataset.get_item(max(dataset.keys()), keep_deferred=True)
    if not isinstance(last, RawDataElement) or last.tag >= _PIXEL_DATA or last.length == _UNDEFINED:
        return
    end = last.value_tell + last.length
    if len(last.value or b"") < last.length:
        raise ObjectCutShort(f"the object is cut short at {size} of {end} bytes")
    if 0 < size - end < 8:  # less than an element's tag and length, which pydicom leaves unread
        with path.open("rb") as file:
            file.seek(end)
            if file.read().strip(b"\0"):
                raise ObjectCutShort(f"the object is cut short at {size} bytes")


def _parsed(source: BytesIO | str, *, stop_before_pixels: bool, force: bool) -> FileDataset:
    dataset: FileDataset = pydicom.dcmread(source, stop_before_pixels=stop_before_pixels, force=force)
    if len(dataset) or stop_before_pixels:
        return dataset
    return _to_the_end(source, force=force)  # pydicom met the end within an element


def _to_the_end(source: BytesIO | str, *, force: bool) -> FileDataset:
    """Read an object whose end is missing: pydicom then returns an empty data set.

    Pixel data without a delimiter goes on to the end of the file. What lies behind it is not read.

    Raises
    ------
    UnreadableObject
        It ends before its pixel data, or within it.
    """
    with BytesIO(source.getvalue()) if isinstance(source, BytesIO) else Path(source).open("rb") as file:
        dataset: FileDataset = pydicom.dcmread(file, stop_before_pixels=True, force=force)
        place = file.tell()
        rest = file.read()
    implicit, little = dataset.original_encoding
    order = "<" if little else ">"
    if "SOPInstanceUID" not in dataset or rest[:4] != struct.pack(f"{order}2H", *_PIXEL_DATA):
        raise ObjectCutShort(f"the object is cut short at {place + len(rest)} bytes")
    vr, begin = ("OW", 8) if implicit else (rest[4:6].decode("latin-1"), 12)
    (length,) = struct.unpack(f"{order}I", rest[begin - 4 : begin].ljust(4, b"\0"))
    value = rest[begin:]
    if length == _UNDEFINED:
        dataset.add(DataElement(_PIXEL_DATA, "OB", value))
        dataset["PixelData"].is_undefined_length = True
    elif length > len(value):
        raise ObjectCutShort(f"the object is cut short at {place + len(rest)} of {place + begin + length} bytes")
    else:
        dataset.add(DataElement(_PIXEL_DATA, vr if vr in ("OB", "OW") else "OW", value[:length]))
    return dataset


def _has_preamble(path: Path) -> bool:
    """Tell whether the file begins as PS3.10 7.1 says, or at least like a bare data set.

    A bare data set begins with an element of group 0002 or 0008; anything else is not worth parsing.
    """
    with path.open("rb") as handle:
        head = handle.read(132)
    if head[128:132] == b"DICM":
        return True
    if len(head) >= 16 and head[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):
        return False
    raise UnreadableObject("not a DICOM file")


def _inflated(path: Path, meta: FileMetaDataset) -> BytesIO:
    """Return the file with its data set inflated, as explicit VR little endian (PS3.5 A.5)."""
    raw = path.read_bytes()
    start = 132 + 12 + int(meta.FileMetaInformationGroupLength)
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    body = engine.decompress(raw[start:], MAX_INFLATED)
    if engine.unconsumed_tail:
        raise UnreadableObject("the deflated data set inflates to more than 512 MB")
    if not engine.eof:
        raise UnreadableObject("the deflated data set is truncated")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = DicomBytesIO()
    buffer.write(b"\0" * 128 + b"DICM")
    pydicom.filewriter.write_file_meta_info(buffer, meta, enforce_standard=False)
    return BytesIO(buffer.getvalue() + body)
