"""Pictures as JPEG: made so before an object gets its UID, since this compression changes the pixels.

Where a node accepts nothing else, a picture becomes one on its way, and another object by that.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from pydicom.dataelem import DataElement
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)

from dicom_io.header.attributes import integer, items, numbers, values
from dicom_io.header.source_image import sop_instance
from dicom_io.objects.common import code, encode, reference
from dicom_io.uids import derived_uid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset
    from pydicom.uid import UID

PICTURES = (SecondaryCaptureImageStorage, MultiFrameTrueColorSecondaryCaptureImageStorage)
"""The SOP classes of the results that are pictures, which may be compressed."""
LOSSY: tuple[UID, ...] = (JPEGBaseline8Bit, JPEGExtended12Bit)
"""What a picture goes in where a node accepts nothing that loses nothing."""
QUALITY = 90
"""Of a picture that is compressed on its way, where `results.jpeg_quality` has not made it a JPEG of its own."""
_FARTHEST = 8  # mean difference of 255, seen from afar, where even noise is as it was
METHOD = "ISO_10918_1"  # PS3.3 C.7.6.1.1.5.1


def variant(quality: int | None) -> str:
    """Return what a picture's quality adds to its kind: other pixels must have another UID (PS3.3 C.7.6.1.1.5)."""
    return "" if quality is None else f"/jpeg-{quality}"


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
        The object, whose UIDs must have been made with `variant`.
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

    Its pixels are what every decoder shows of it, so it keeps its UID; it goes on to say what it has lost. It was made
    here: Pillow reads it in a tenth of the time that it takes pydicom to bring another library's colours to RGB.

    Raises
    ------
    ValueError
        The pixel data is damaged, or is not what the object says of it.
    """
    shape = (dataset.Rows, dataset.Columns, 3)
    frames = []
    for frame in generate_frames(dataset.PixelData, number_of_frames=integer(dataset, "NumberOfFrames") or 1):
        try:
            with JpegImageFile(BytesIO(frame)) as picture:
                frames.append(np.asarray(picture.convert("RGB")))
        except (OSError, SyntaxError) as error:
            raise ValueError(f"the JPEG data of the picture are damaged ({type(error).__name__})") from error
        if frames[-1].shape != shape:
            raise ValueError("the JPEG data of the picture have another size than it says")
    data = b"".join(frame.tobytes() for frame in frames)
    dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset["PixelData"] = DataElement("PixelData", "OB", data + b"\0" * (len(data) % 2))


def lose(dataset: Dataset, quality: int = QUALITY) -> None:
    """Make an uncompressed picture a JPEG Baseline one, in its place: another object, derived from the one it was.

    Its SOP Instance UID is derived from that one's and the quality, so that each attempt sends the same object; what it
    was made from is named as *uncompressed predecessor* (PS3.3 C.7.6.1.1.3, C.7.6.1.1.4, C.7.6.1.1.5). The picture that
    it was has been checked; that this one shows it is looked at in the bytes that would be sent.

    Raises
    ------
    ValueError, RuntimeError
        The pixel data is not what the object says of it, or what was made of it does not show the picture.
    """
    pixels = dataset.pixel_array
    predecessor = reference(sop_instance(dataset))
    predecessor.PurposeOfReferenceCodeSequence = [code("121320", "Uncompressed predecessor")]
    compress(dataset, list(pixels) if pixels.ndim == 4 else [pixels], quality)
    dataset.SOPInstanceUID = derived_uid(dataset.SOPInstanceUID, "", f"jpeg-{quality}")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.SourceImageSequence = [*items(dataset, "SourceImageSequence"), predecessor]
    dataset.DerivationCodeSequence = [*items(dataset, "DerivationCodeSequence"), code("113040", "Lossy Compression")]
    decoded = pixel_array(BytesIO(encode(dataset)))
    if decoded.shape != pixels.shape or np.abs(_from_afar(decoded) - _from_afar(pixels)).mean() > _FARTHEST:
        raise ValueError("the JPEG picture is not like the one it was made from")


def _from_afar(pixels: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Return pictures, uint8 [H,W,3] or [N,H,W,3], at 16×16 pixels each."""
    frames = pixels[np.newaxis] if pixels.ndim == 3 else pixels
    return np.stack(
        [np.asarray(Image.fromarray(each).resize((16, 16), Image.Resampling.BOX)) for each in frames]
    ).astype(np.int16)


def extend(dataset: Dataset) -> None:
    """Bring a picture from JPEG Baseline to JPEG Extended, in its place, without a change of its pixels.

    The extended sequential process holds the baseline one (ISO/IEC 10918-1, 4.11): all that differs is the marker.

    Raises
    ------
    ValueError
        A frame is no JPEG Baseline code stream.
    """
    frames = generate_frames(dataset.PixelData, number_of_frames=integer(dataset, "NumberOfFrames") or 1)
    dataset["PixelData"] = DataElement(
        "PixelData", "OB", encapsulate([_extended(frame) for frame in frames]), is_undefined_length=True
    )
    dataset.file_meta.TransferSyntaxUID = JPEGExtended12Bit


def _extended(stream: bytes) -> bytes:
    """Turn the marker of the frame header from SOF0 into SOF1 (ISO/IEC 10918-1, B.1.1.3)."""
    at = 2
    while stream[at : at + 1] == b"\xff" and stream[at + 1] != 0xC0:
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    if stream[at : at + 2] != b"\xff\xc0":
        raise ValueError("no JPEG Baseline code stream")
    return stream[: at + 1] + b"\xc1" + stream[at + 2 :]
