"""Pictures compressed without loss, for destinations that want or take them in no other way."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pydicom.dataelem import DataElement
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import JPEG2000, UID, JPEG2000Lossless, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from dicom_io.pixels.codec_process import encode_rgb

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# None of them loses anything, so that an object keeps its UID whichever way it travels (PS3.3 C.7.6.1.1.5).
COMPRESSIONS = {"rle": RLELossless, "jpeg-2000": JPEG2000Lossless}
"""By the names that a destination's `compression` asks for them."""
LOSSLESS: tuple[UID, ...] = (JPEG2000Lossless, JPEG2000, JPEGLSLossless, JPEGLosslessSV1, JPEGLossless, RLELossless)
"""What a picture can be compressed to, the most common and smallest first."""
_ONE_AT_A_TIME = threading.Lock()
"""Of pylibjpeg-openjpeg's encoder: two at once end the process (2.6.0)."""
_BY_GDCM = (JPEGLSLossless, JPEGLosslessSV1, JPEGLossless)


def is_available(syntax: str) -> bool:
    """Tell whether what is installed here can compress to a transfer syntax of `LOSSLESS`."""
    if syntax in _BY_GDCM:
        return True  # we depend on it
    return bool(get_encoder(JPEG2000Lossless if syntax == JPEG2000 else UID(syntax)).is_available)


def compress(dataset: Dataset, syntax: str) -> None:
    """Compress the pixel data of an uncompressed object in its place, without loss and under the same UID.

    Parameters
    ----------
    dataset
        With file meta information. For JPEG Lossless and JPEG-LS, 8 bits RGB by pixel.
    syntax
        One of `LOSSLESS`. As JPEG 2000 (1.2.840.10008.1.2.4.91), which may be reversible too (PS3.5 A.4.4), goes the
        same code stream as for the lossless one; as JPEG Lossless (.57), whose selection value is free (A.4.2), that
        of first-order prediction (.70).

    Raises
    ------
    ValueError, RuntimeError, AttributeError, EncoderFailed
        The pixel data is of a kind that the encoder does not take, or there is none.
    """
    if syntax in _BY_GDCM:
        _by_gdcm(dataset, JPEGLosslessSV1 if syntax == JPEGLossless else syntax)
    elif syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
    else:
        if dataset.PhotometricInterpretation == "RGB":
            # So the encoder applies the reversible colour transformation, which colour must have (PS3.3 A.8.5.4).
            dataset.PhotometricInterpretation = "YBR_RCT"
        with _ONE_AT_A_TIME:
            dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = UID(syntax)


def _by_gdcm(dataset: Dataset, syntax: str) -> None:
    """Compress RGB as it is, without a colour transformation (PS3.5 8.2.1, 8.2.3), which pydicom has no encoder for."""
    colour = tuple(map(dataset.get, ("PhotometricInterpretation", "BitsAllocated", "PlanarConfiguration")))
    if colour != ("RGB", 8, 0):
        raise ValueError("only RGB by pixel is compressed to JPEG Lossless and JPEG-LS")
    rows, columns = dataset.Rows, dataset.Columns
    size, frames = rows * columns * 3, int(dataset.get("NumberOfFrames") or 1)
    if len(dataset.PixelData) < size * frames:
        raise ValueError("the pixel data is too short")
    starts = range(0, size * frames, size)
    streams = [
        encode_rgb(dataset.PixelData[at : at + size], syntax=syntax, rows=rows, columns=columns) for at in starts
    ]
    dataset["PixelData"] = DataElement("PixelData", "OB", encapsulate(streams), is_undefined_length=True)
