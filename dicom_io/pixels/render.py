"""Makes the picture a radiologist would see (float, 0 black to 1 white) from a dataset's stored values.

The order is that of PS3.4 N.2: stored values, modality LUT, VOI LUT or window, then the polarity of the photometric
interpretation. Every step is a function of the stored value alone, so all of them are worked out once for each value
that a pixel can hold (256 or 65,536), and the image itself is turned by a single table look-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from dicom_io.errors import Retryable, UnsupportedPixels
from dicom_io.header.attributes import UNPARSED, integer, numbers, text
from dicom_io.header.end import begins_compressed
from dicom_io.header.reading_limits import too_much
from dicom_io.pixels.codestream import JPEG_SYNTAXES, Dimensions, dimensions
from dicom_io.pixels.content import blank, sample
from dicom_io.pixels.damage import lacks_end, lost_data
from dicom_io.pixels.decoders import DecoderFailed, DecoderInterrupted, Decoders, FrameDamaged, FrameEndsEarly, shared
from dicom_io.pixels.fragments import cut_short, frame_of, is_encapsulated, is_full_of_items
from dicom_io.pixels.grayscale import modality, voi

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# A radiograph of 43 cm × 43 cm at 0.1 mm is 18 million pixels; nothing real comes near this.
MAX_PIXELS = 60_000_000

# Which of several decoders reads a syntax: the quickest that survives damaged data (docs/decisions.md).
_DECODERS = {
    JPEG2000Lossless: "pylibjpeg",
    JPEG2000: "pylibjpeg",
    HTJ2KLossless: "pylibjpeg",
    HTJ2KLosslessRPCL: "pylibjpeg",
    HTJ2K: "pylibjpeg",
    RLELossless: "rle",
}
# These are GDCM's, which does not. Beside each, what GDCM is told that it is: it knows the JPEG processes by their code
# streams, but under the name of the extended one it takes 8 bits only. All decoders have processes of their own.
_APART = {
    JPEGBaseline8Bit: JPEGLosslessSV1,  # Pillow reads it too, but does not tell of damage
    JPEGExtended12Bit: JPEGLosslessSV1,
    JPEGLossless: JPEGLosslessSV1,
    JPEGLosslessSV1: JPEGLosslessSV1,
    JPEGLSLossless: JPEGLSLossless,
    JPEGLSNearLossless: JPEGLSNearLossless,
}

_DAMAGED = "the object's JPEG data are damaged"

Cells = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class Rendered:
    """A radiograph as displayed."""

    values: NDArray[np.float32]  # [H,W], 0 black (air) to 1 white (bone)
    aspect: float  # row spacing / column spacing: how much taller than wide a pixel is; 1.0 if unknown
    # Centre and width (VOI LUT Function LINEAR) where the dataset's own VOI LUT or window was not what was shown.
    window: tuple[float, float] | None = None
    blank: str = ""  # why there is nothing to read in it (`content.blank`)


@dataclass(frozen=True)
class _Layout:
    """How a stored value lies in its cell of memory (PS3.5 8.1.1)."""

    rows: int
    columns: int
    allocated: int  # bits of a cell: 8 or 16
    stored: int  # bits of a value
    high: int  # the value's highest bit
    signed: bool


def render(dataset: Dataset, *, max_pixels: int = MAX_PIXELS, decoders: Decoders | None = None) -> Rendered:
    """Turn a single-frame grey dataset into the picture it means (PS3.3 C.11.1 and C.11.2, PS3.4 N.2).

    The VOI LUT or window is the first of those given. Without one, the range from the 0.1 to the 99.9 percentile is
    shown; so it is where the given one leaves 99 % of the pixels black, or 99 % white, or all of them in two shades of
    256, which no reader could have used.
    Pixel padding is left out of that and drawn black. Polarity follows the photometric interpretation alone:
    Presentation LUT Shape only repeats it (PS3.3 C.8.11.3.1.2), and inverting for both would undo it.

    Parameters
    ----------
    dataset
        A dataset with pixel data, as read; it is not changed.
    max_pixels
        Rows × Columns above this are refused before anything is allocated.
    decoders
        What decodes compressed frames, and says how much memory an image may take; by default those of the process.

    Returns
    -------
    Rendered
        At full size. Of an image that shows nothing it says so (`blank`).

    Raises
    ------
    UnsupportedPixels
        The pixel data is missing, damaged, too large, or of a kind that is not read here.
    Retryable
        A decoder took too long, or the system ended it. OutOfResources: none could be started.
    """
    decoders = decoders or shared()
    layout = _layout(dataset, max_pixels)
    _require_room(dataset, layout, decoders.limits.max_memory_mb)
    cells, order = _cells(dataset, layout, decoders)
    stored = _stored_values(order, layout)
    counts = np.asarray(cv2.calcHist([cells], [0], None, [order.size], [0, order.size]), np.float32).ravel()
    padding = _padding(dataset, order, stored, counts, layout)
    counts[padding] = 0
    displayed = modality(dataset, stored, signed=layout.signed)
    shown, window = voi(dataset, displayed, counts)
    if text(dataset, "PhotometricInterpretation").upper() == "MONOCHROME1":
        shown = 1.0 - shown
    shown[padding] = 0.0
    some = sample(cells)
    nothing = blank((layout.rows, layout.columns), stored[some], displayed[some], padding[some])
    values = np.asarray(cv2.LUT(cells, shown.astype(np.float32)), np.float32)
    return Rendered(values, _aspect(dataset), window, nothing)


def _layout(dataset: Dataset, max_pixels: int) -> _Layout:
    """Check the image pixel module and return how the values lie in memory."""
    if "PixelData" not in dataset:
        kinds = "float " if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset else ""
        raise UnsupportedPixels(f"{kinds}pixel data is not read here" if kinds else "no pixel data")
    photometric = text(dataset, "PhotometricInterpretation").upper()
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        name = photometric if photometric in _COLOUR else "unknown or absent"
        raise UnsupportedPixels(f"photometric interpretation {name}: only MONOCHROME1 and MONOCHROME2 are read")
    if (samples := integer(dataset, "SamplesPerPixel") or 1) != 1:
        raise UnsupportedPixels(f"{samples} samples per pixel: only 1 is read")
    frames = integer(dataset, "NumberOfFrames")
    if (frames or 0) > 1:  # less than 1 cannot be meant: where the data is that of one frame, it is one
        raise UnsupportedPixels(f"{frames} frames: only a single frame is read")
    rows, columns = integer(dataset, "Rows") or 0, integer(dataset, "Columns") or 0
    if rows < 1 or columns < 1:
        raise UnsupportedPixels("Rows or Columns is missing or 0")
    if rows * columns > max_pixels:
        raise UnsupportedPixels(f"{rows} × {columns} pixels are more than the {max_pixels} allowed")
    allocated = integer(dataset, "BitsAllocated")
    if allocated not in (8, 16):
        raise UnsupportedPixels(f"{allocated or 'no'} bits allocated: only 8 and 16 are read")
    stored = integer(dataset, "BitsStored") or allocated
    high = integer(dataset, "HighBit")
    high = stored - 1 if high is None else high
    if not 1 <= stored <= high + 1 <= allocated:
        raise UnsupportedPixels(f"Bits Stored {stored} and High Bit {high} do not fit {allocated} bits allocated")
    return _Layout(rows, columns, allocated, stored, high, integer(dataset, "PixelRepresentation") == 1)


def _require_room(dataset: Dataset, layout: _Layout, max_memory_mb: int) -> None:
    """Refuse an image whose data, cells and displayed values together would take too much memory."""
    data = _pixel_data(dataset)
    pixels = layout.rows * layout.columns
    size = pixels * (layout.allocated // 8 + np.dtype(np.float32).itemsize) + len(data)
    if size > max_memory_mb * 1_000_000:
        raise UnsupportedPixels(too_much(size, max_memory_mb))


def _pixel_data(dataset: Dataset) -> bytes:
    """Return the pixel data as it is stored; another value representation than OB or OW makes it no bytes."""
    try:
        data = dataset["PixelData"].value
    except UNPARSED as error:
        raise UnsupportedPixels("the pixel data cannot be read") from error
    if not isinstance(data, bytes | bytearray | None):
        raise UnsupportedPixels("the pixel data has a value representation other than OB or OW")
    return bytes(data) if data else b""  # of bytes, which it mostly is, this is no copy


_COLOUR = frozenset(
    {"RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT"}
    | {"HSV", "ARGB", "CMYK", "XYB"}
)


def _cells(dataset: Dataset, layout: _Layout, decoders: Decoders) -> tuple[Cells, Cells]:
    """Return the image's cells as they lie in memory, and the cell meant by each number that one can show there."""
    syntax = _transfer_syntax(dataset)
    kind = np.dtype(np.uint8 if layout.allocated == 8 else np.uint16)
    order = np.arange(1 << layout.allocated, dtype=np.uint32).astype(kind)
    if syntax.is_encapsulated:
        return _decoded(dataset, layout, syntax, decoders).view(kind), order
    data = _pixel_data(dataset)
    pixels = layout.rows * layout.columns
    size = pixels * kind.itemsize
    _require_native(data, size)
    if len(data) < size:
        raise cut_short(len(data), size)
    if "NumberOfFrames" in dataset and integer(dataset, "NumberOfFrames") != 1 and len(data) > size + 1:
        raise UnsupportedPixels(f"the number of frames is not stated, and {len(data)} bytes are not those of one")
    if len(data) >= 2 * size and bytes(data[size:]).strip(b"\0"):  # so much is no padding: a cell may have two bytes
        raise UnsupportedPixels(f"{len(data)} bytes of pixel data, where one frame has {size}")
    if syntax == ExplicitVRBigEndian:
        if kind.itemsize == 2:
            order = order.byteswap()  # the pixels stay as they are: turning the table is the cheaper way
        elif dataset["PixelData"].VR == "OW":  # bytes in words: their order in each word is turned (PS3.5 8.1.1)
            data = np.frombuffer(data, np.uint16, len(data) // 2).byteswap().tobytes()
    return np.frombuffer(data, kind, pixels).reshape(layout.rows, layout.columns), order


def _require_native(data: bytes, size: int) -> None:
    """Refuse compressed pixel data under a native syntax (PS3.5 A.4), unless it may be a picture of that size."""
    if is_encapsulated(data) and (len(data) not in (size, size + 1) or is_full_of_items(data)):
        raise UnsupportedPixels("encapsulated pixel data under a native transfer syntax")
    if len(data) < size and begins_compressed(data):
        raise UnsupportedPixels("a compressed image under a native transfer syntax")


def _transfer_syntax(dataset: Dataset) -> UID:
    """Return the dataset's transfer syntax, or refuse one that carries no picture of its own."""
    meta = getattr(dataset, "file_meta", None)
    syntax = UID(text(meta, "TransferSyntaxUID")) if meta is not None else UID("")
    if not syntax:
        raise UnsupportedPixels("the transfer syntax is not known")
    if not syntax.is_transfer_syntax:  # also false for a private one, of which nothing is known
        raise UnsupportedPixels("the transfer syntax is not one of DICOM's")
    return syntax


def _decoded(dataset: Dataset, layout: _Layout, syntax: UID, decoders: Decoders) -> NDArray[np.generic]:
    """Decompress the frame, after its own header has confirmed the size that the dataset states."""
    if syntax not in _DECODERS and syntax not in _APART:
        raise UnsupportedPixels(f"transfer syntax {syntax.name} is not read here")
    one = "NumberOfFrames" not in dataset or integer(dataset, "NumberOfFrames") == 1
    frame = frame_of(_pixel_data(dataset), one=one)
    stated = dimensions(frame, syntax)
    if stated is not None:
        _confirm(stated, layout)
    if stated and syntax in (JPEGLSLossless, JPEGLSNearLossless) and stated.bits in (6, 7):
        raise UnsupportedPixels(f"JPEG-LS of {stated.bits} bits: GDCM misreads 6 and 7")
    if lost_data(frame, syntax):
        raise _cut_short(frame, syntax) if _ends_early(frame, syntax) else UnsupportedPixels(_DAMAGED)
    array = _by_decoder(frame, layout, stated, syntax, decoders)
    if syntax in JPEG_SYNTAXES and lacks_end(frame):  # zeros may have passed for pixels
        raise _cut_short(frame, syntax)
    if array.shape != (layout.rows, layout.columns):
        raise UnsupportedPixels(f"{syntax.name} was decoded to another size than stated")
    # Decoders choose cells by the precision of the code stream: 8 bits, in a dataset that allocates 16.
    return np.ascontiguousarray(array.astype(f"u{layout.allocated // 8}", copy=False))


def _by_decoder(
    frame: bytes, layout: _Layout, stated: Dimensions | None, syntax: UID, decoders: Decoders
) -> NDArray[np.generic]:
    """Decompress a frame with the decoder of its syntax, and say what went wrong as errors of ours."""
    try:
        if stated and syntax in _APART:
            return _by_gdcm(frame, stated, syntax, decoders)
        return _by_pydicom(frame, layout, stated, syntax, decoders)
    except FrameEndsEarly as error:
        words = f"{len(frame)} bytes of {syntax.name} hold fewer pixels than stated"
        raise UnsupportedPixels(f"the object is cut short: {words}") from error
    except FrameDamaged as error:
        raise UnsupportedPixels(_DAMAGED) from error
    except DecoderInterrupted as error:
        raise Retryable(f"{syntax.name} could not be decoded: {error}") from error
    except DecoderFailed as error:
        if _ends_early(frame, syntax):
            raise _cut_short(frame, syntax) from error
        raise UnsupportedPixels(f"{syntax.name} could not be decoded: {error}") from error


def _cut_short(frame: bytes, syntax: UID) -> UnsupportedPixels:
    return UnsupportedPixels(f"the object is cut short: {len(frame)} bytes of {syntax.name} without an end")


def _ends_early(frame: bytes, syntax: UID) -> bool:
    """Tell whether a code stream lacks its end: EOI of the JPEGs, EOC of JPEG 2000; both are FFD9."""
    return syntax != RLELossless and b"\xff\xd9" not in frame.rstrip(b"\0")[-4:]


def _by_gdcm(frame: bytes, stated: Dimensions, syntax: UID, decoders: Decoders) -> NDArray[np.generic]:
    """Decompress a frame with GDCM."""
    cell = 8 if stated.bits <= 8 else 16
    head = {"plugin": "gdcm", "syntax": _APART[syntax], "rows": stated.rows, "columns": stated.columns}
    decoded = decoders.decode(frame, head | {"allocated": cell, "bits": stated.bits})
    return np.frombuffer(decoded.cells, f"u{cell // 8}").reshape(stated.rows, stated.columns)


def _by_pydicom(
    frame: bytes, layout: _Layout, stated: Dimensions | None, syntax: UID, decoders: Decoders
) -> NDArray[np.generic]:
    """Decompress a frame with one of pydicom's decoders."""
    options: dict[str, Any] = {
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "bits_allocated": layout.allocated,
        # The code stream's own words, so that the decoder has nothing to mend: the table masks and extends signs.
        "bits_stored": stated.bits if stated else layout.stored,
        "pixel_representation": int(stated.signed if stated else layout.signed),
        "photometric_interpretation": "MONOCHROME2",
        "pixel_keyword": "PixelData",
    }
    decoded = decoders.decode(frame, {"plugin": _DECODERS[syntax], "syntax": syntax, "options": options})
    return np.frombuffer(decoded.cells, decoded.kind).reshape(decoded.shape)


def _confirm(stated: Dimensions, layout: _Layout) -> None:
    """Refuse a code stream that differs from the dataset around it."""
    if (stated.rows, stated.columns) != (layout.rows, layout.columns):
        inside, outside = f"{stated.rows} × {stated.columns}", f"{layout.rows} × {layout.columns}"
        raise UnsupportedPixels(f"the compressed image is {inside}, the dataset says {outside}")
    if stated.components != 1:
        raise UnsupportedPixels(f"the compressed image has {stated.components} components: only 1 is read")
    if stated.bits > layout.allocated:
        raise UnsupportedPixels(
            f"the compressed image has {stated.bits} bits, the dataset allocates {layout.allocated}"
        )


def _stored_values(cells: Cells, layout: _Layout) -> NDArray[np.int32]:
    """Take the stored value out of each possible cell: bits above and below it (old overlays) do not count."""
    value = (cells.astype(np.int32) >> (layout.high + 1 - layout.stored)) & ((1 << layout.stored) - 1)
    sign = np.int32(1 << (layout.stored - 1))
    return (value ^ sign) - sign if layout.signed else value  # two's complement


def _padding(
    dataset: Dataset, order: Cells, stored: NDArray[np.int32], counts: NDArray[np.float32], layout: _Layout
) -> NDArray[np.bool_]:
    """Tell which cells are Pixel Padding (PS3.3 C.7.5.1.1.2).

    Its bits count, whatever sign it was written with. A value beyond the stored bits is meant for the whole cell, as
    some writers fill it. Where no pixel is such a cell, it is compared with the stored values, if it can be one.
    """
    first = integer(dataset, "PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, np.bool_)
    last = integer(dataset, "PixelPaddingRangeLimit")
    ends = [first, first if last is None else last]
    signed = layout.signed or min(ends) < 0  # a range that was written with signs goes through 0
    if all(_fits(end, layout.allocated) for end in ends):
        inside = _between(order.astype(np.int32), ends, layout.allocated, signed=signed)
        if counts[inside].any():
            return inside
    # Of the negative ones, unsigned pixels have all bits or none: nobody pads with a value in the midst.
    may_be_stored = all(_fits(end, layout.stored) and (layout.signed or _signed(end) >= -1) for end in ends)
    if not may_be_stored:
        return np.zeros(stored.shape, np.bool_)
    return _between(stored, ends, layout.stored, signed=signed)


def _between(cells: NDArray[np.int32], ends: list[int], bits: int, *, signed: bool) -> NDArray[np.bool_]:
    """Tell which cells lie within a range, all taken as numbers of so many bits, with a sign or without."""
    sign = np.int32(1 << (bits - 1) if signed else 0)
    mask = (1 << bits) - 1
    values = ((cells & mask) ^ sign) - sign
    low, *_, high = sorted(int(((end & mask) ^ int(sign)) - int(sign)) for end in ends)
    inside: NDArray[np.bool_] = (values >= low) & (values <= high)
    return inside


def _fits(end: int, bits: int) -> bool:
    """Tell whether a padding value, signed or not, is one of so many bits."""
    return -(1 << (bits - 1)) <= _signed(end) < 1 << bits or 0 <= end < 1 << bits


def _signed(end: int) -> int:
    """Return a padding value as the signed number of its 16 bits."""
    return ((end & 0xFFFF) ^ 0x8000) - 0x8000


def _aspect(dataset: Dataset) -> float:
    """Return row spacing / column spacing from the first attribute that gives both, 1.0 where none does in reason."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        pair = numbers(dataset, keyword)
        if len(pair) == 2 and min(pair) > 0:
            ratio = pair[0] / pair[1]
            return ratio if 0.2 <= ratio <= 5.0 else 1.0
    return 1.0
