"""Pictures as JPEG Baseline: made so before an object gets its UID, since this compression changes the pixels."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from PIL import Image
from pydicom.dataelem import DataElement
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, MultiFrameTrueColorSecondaryCaptureImageStorage, SecondaryCaptureImageStorage

from dicom_io.values import numbers, values

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

PICTURES = (SecondaryCaptureImageStorage, MultiFrameTrueColorSecondaryCaptureImageStorage)
"""The SOP classes of the results that are pictures, which may be compressed."""
METHOD = "ISO_10918_1"  # PS3.3 C.7.6.1.1.5.1


def kind_of(kind: str, quality: int | None) -> str:
    """Return what the UIDs of a picture are derived from: other pixels must have another UID (PS3.3 C.7.6.1.1.5)."""
    return kind if quality is None else f"{kind}/jpeg-{quality}"


def jpeg(rgb: NDArray[np.uint8], quality: int) -> bytes:
    """Return a picture, uint8 [H,W,3], as a JPEG file of the baseline process, its colours at half width (4:2:2).

    The same picture gives the same bytes under the same version of Pillow.
    """
    buffer = BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, subsampling="4:2:2")
    return buffer.getvalue()


def compress(dataset: Dataset, frames: Sequence[NDArray[np.uint8]], quality: int) -> None:
    """Give an RGB image object JPEG Baseline pixel data in place of what it has, and say what was lost.

    The photometric interpretation is YBR_FULL_422, as PS3.5 8.2.1 asks; ratio and method are added to what the object
    already says of its source's compression, where that is complete, in order of time (PS3.3 C.7.6.1.1.5).

    Parameters
    ----------
    dataset
        The object, whose UIDs must have been made with `kind_of`.
    frames
        uint8 [H,W,3] each.
    quality
        Of the JPEG library, 1 to 100.
    """
    files = [jpeg(frame, quality) for frame in frames]
    ratio = round(sum(frame.nbytes for frame in frames) / sum(map(len, files)), 2)
    dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "YBR_FULL_422", 0
    ratios, methods = numbers(dataset, "LossyImageCompressionRatio"), values(dataset, "LossyImageCompressionMethod")
    if len(ratios) != len(methods):  # which method had which ratio cannot be told
        ratios, methods = [], []
    dataset.LossyImageCompression = "01"
    dataset.LossyImageCompressionRatio = [*ratios, ratio]
    dataset.LossyImageCompressionMethod = [*methods, METHOD]
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset["PixelData"] = DataElement("PixelData", "OB", encapsulate(files), is_undefined_length=True)


def is_jpeg_picture(dataset: Dataset) -> bool:
    """Tell whether an object with file meta information is a picture in JPEG Baseline."""
    return dataset.file_meta.TransferSyntaxUID == JPEGBaseline8Bit and dataset.get("SOPClassUID") in PICTURES


def decompress(dataset: Dataset) -> None:
    """Bring a picture from JPEG Baseline to RGB in explicit VR little endian, in its place, for those who take no JPEG.

    Its pixels are what every decoder shows of it, so it keeps its UID; it goes on to say what it has lost.

    Raises
    ------
    ValueError, RuntimeError
        The pixel data cannot be decoded.
    """
    dataset.decompress(as_rgb=True, generate_instance_uid=False)
