"""DICOM files read with care: bounded inflation, one error type, and no value of the data set in any message."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NoReturn

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
from dicom_io.header.attributes import UNPARSED
from dicom_io.header.end import has_long_representation, require_end
from dicom_io.header.inflation import inflate
from dicom_io.header.limits import MeteredBytes, MeteredFile, require_few_items
from dicom_io.header.reading_limits import DEFAULT, ReadingLimits

# Modalities send values that break the standard's rules; we store them as they came and never quote them in a warning.
config.settings.reading_validation_mode = config.IGNORE

_PIXEL_DATA = (0x7FE0, 0x0010)
_UNDEFINED = 0xFFFFFFFF
_LATER = "1 MB"
"""A value of a header that is larger is read only when somebody asks for it."""


def read_header(path: Path, limits: ReadingLimits = DEFAULT) -> FileDataset:
    """Read everything before the pixel data; a value of more than a megabyte only when somebody asks for it.

    Raises
    ------
    UnreadableObject
        When the file is not DICOM, cannot be parsed, or holds more than the limits allow.
    OutOfResources
        When the file cannot be opened, or `limits.share` has no memory for it.
    """
    header = _read(path, limits, stop_before_pixels=True)
    if len(header) == 0:
        raise UnreadableObject("the file holds no data set")
    require_few_items(header, path, limits)
    return header


def read_arrived(path: Path, limits: ReadingLimits = DEFAULT) -> FileDataset:
    """Read everything before the pixel data of an object that has just arrived, and look whether its end is there.

    Sequences whose length is stated are not looked into: nobody asks for them yet. Pixel data is not read, only its
    lengths. Where nothing but the delimiter of encapsulated data is missing, the object may be whole.

    Raises
    ------
    ObjectCutShort
        The object ends within an element, or its native pixel data is shorter than rows, columns and bits say.
    UnreadableObject, OutOfResources
        As `read_header`.
    """
    header = _read(path, limits, stop_before_pixels=True)
    if header.file_meta.TransferSyntaxUID != DeflatedExplicitVRLittleEndian:  # the end of that has been looked at
        try:
            with path.open("rb") as file:
                require_end(file, header)
        except OSError as error:
            raise OutOfResources(f"cannot read the file: {error.strerror}") from error
    return header


def read_dataset(path: Path, limits: ReadingLimits = DEFAULT) -> FileDataset:
    """Read a whole object; raises as `read_header` does."""
    try:
        limits.require(path.stat().st_size)
    except OSError as error:
        _raise(error)
    dataset = _read(path, limits, stop_before_pixels=False)
    require_few_items(dataset, path, limits)
    return dataset


def syntax_of(path: Path) -> str:
    """Return the transfer syntax that a file of ours names; explicit VR little endian where it cannot be read."""
    try:
        meta = pydicom.filereader.read_file_meta_info(str(path))
        return str(meta.TransferSyntaxUID)
    except (InvalidDicomError, *UNPARSED):
        return str(ExplicitVRLittleEndian)


def _read(path: Path, limits: ReadingLimits, *, stop_before_pixels: bool) -> FileDataset:
    try:
        bare = not _has_preamble(path)
        with MeteredFile(path, limits) as file:
            meta = FileMetaDataset() if bare else _meta(file)
            deflated = meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
            source = _inflated(file, meta, limits, header_only=stop_before_pixels) if deflated else file
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
    except (UnreadableObject, OutOfResources):
        raise
    except OSError as error:
        _raise(error)
    except InvalidDicomError as error:
        raise UnreadableObject("not a DICOM file") from error
    except Exception as error:
        raise _unreadable(error) from error
    return dataset


def _raise(error: OSError) -> NoReturn:
    """Raise what an error of the system, or of pydicom, means for the object."""
    if isinstance(error, FileNotFoundError):
        raise UnreadableObject("the file is missing") from error
    if error.errno is not None:
        raise OutOfResources(f"cannot read the file: {error.strerror}") from error
    raise _unreadable(error) from error


def _unreadable(error: Exception) -> UnreadableObject | OutOfResources:
    """Return what keeps an object from being read; pydicom raises errors of its own in the place of some of ours."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UnreadableObject | OutOfResources):
            return type(cause)(str(cause))
        if isinstance(cause, RecursionError):
            return UnreadableObject("not a readable DICOM object: sequences lie in one another too deep")
        cause = cause.__context__
    return UnreadableObject(f"not a readable DICOM object ({type(error).__name__})")


def _meta(file: MeteredFile) -> FileMetaDataset:
    """Return the File Meta Information, and leave the file at its end."""
    pydicom.filereader.read_preamble(file, force=False)
    meta: FileMetaDataset = pydicom.filereader._read_file_meta_info(file)  # noqa: SLF001 - the public one opens a path
    return meta


def _require_last(dataset: FileDataset, path: Path) -> None:
    """Raise ObjectCutShort where the header ends within an element: pydicom then keeps the part of it, or nothing."""
    size = path.stat().st_size
    if len(dataset) == 0:
        begin = 132 + 12 + int(dataset.file_meta.get("FileMetaInformationGroupLength", 0))
        if size != begin:
            of = f" of {begin}" if size < begin else ""
            raise ObjectCutShort(f"the object is cut short at {size}{of} bytes")
        return
    last = dataset.get_item(max(dataset.keys()), keep_deferred=True)
    if not isinstance(last, RawDataElement) or last.tag >= _PIXEL_DATA or last.length == _UNDEFINED:
        return
    end = last.value_tell + last.length
    if end > size if last.value is None else len(last.value) < last.length:
        raise ObjectCutShort(f"the object is cut short at {size} of {end} bytes")
    if 0 < size - end < 8:  # less than an element's tag and length, which pydicom leaves unread
        with path.open("rb") as file:
            file.seek(end)
            if file.read().strip(b"\0"):
                raise ObjectCutShort(f"the object is cut short at {size} bytes")


def _parsed(source: MeteredFile | MeteredBytes, *, stop_before_pixels: bool, force: bool) -> FileDataset:
    source.rewind()
    # Of what lies in memory anyway nothing is left for later.
    later = _LATER if stop_before_pixels and isinstance(source, MeteredFile) else None
    dataset: FileDataset
    try:
        dataset = pydicom.dcmread(source, stop_before_pixels=stop_before_pixels, force=force, defer_size=later)
    except (OSError, struct.error) as error:
        if not source.ran_out or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise ObjectCutShort(f"the object is cut short at {source.tell()} bytes") from error
    if len(dataset) or stop_before_pixels:
        return dataset
    return _to_the_end(source, force=force)  # pydicom met the end within an element


def _to_the_end(file: MeteredFile | MeteredBytes, *, force: bool) -> FileDataset:
    """Read an object whose end is missing: pydicom then returns an empty data set.

    Pixel data without a delimiter goes on to the end of the file. What lies behind it is not read.

    Raises
    ------
    UnreadableObject
        It ends before its pixel data, or within it.
    """
    file.rewind()
    dataset: FileDataset = pydicom.dcmread(file, stop_before_pixels=True, force=force)
    place = file.tell()
    rest = file.read()
    order = "<" if dataset.original_encoding[1] else ">"
    if "SOPInstanceUID" not in dataset or rest[:4] != struct.pack(f"{order}2H", *_PIXEL_DATA):
        raise ObjectCutShort(f"the object is cut short at {place + len(rest)} bytes")
    vr, begin = (rest[4:6].decode("latin-1"), 12) if has_long_representation(rest[:8]) else ("OW", 8)
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


def _inflated(file: MeteredFile, meta: FileMetaDataset, limits: ReadingLimits, *, header_only: bool) -> MeteredBytes:
    """Return the file with its data set inflated, as explicit VR little endian (PS3.5 A.5)."""
    body = inflate(file, limits, header_only=header_only)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = DicomBytesIO()
    buffer.write(b"\0" * 128 + b"DICM")
    pydicom.filewriter.write_file_meta_info(buffer, meta, enforce_standard=False)
    return MeteredBytes(buffer.getvalue() + body, limits)
