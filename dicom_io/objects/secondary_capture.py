"""Makes the Secondary Capture that carries a colour picture of the finding back into the study it came from."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_io.finding import MANUFACTURER, Finding, ModelIdentity
from dicom_io.header.attributes import text
from dicom_io.objects.common import (
    begin,
    burned_in,
    code,
    element_of,
    plain_text,
    source_image,
    versions_of,
)
from dicom_io.objects.jpeg import compress, kind_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

KIND = "secondary-capture"

# Transfer syntaxes that never are lossless, and the method they stand for (PS3.3 C.7.6.1.1.5.1).
_LOSSY = {"1.2.840.10008.1.2.4.50": "ISO_10918_1", "1.2.840.10008.1.2.4.51": "ISO_10918_1"}


def secondary_capture(
    source: Dataset,
    rgb: NDArray[np.uint8],
    *,
    finding: Finding,
    identity: ModelIdentity,
    series_number: int,
    series_description: str,
    created: datetime,
    jpeg_quality: int | None = None,
) -> Dataset:
    """Wrap a picture as a Secondary Capture in a new series of the source's study (PS3.3 A.8.1).

    The same arguments make the same object, to the byte. Texts copied from the source keep their bytes and their
    character set, right or wrong.

    Burned In Annotation says whether the picture identifies the patient (PS3.3 C.7.6.1).
    What we write into it does not, so it is NO where the source says NO of its own pixels. Where it says YES, or
    nothing, it is YES: whoever removes identities must look at the picture.

    Parameters
    ----------
    source
        The radiograph as received; its pixel data is not needed. It is not changed.
    rgb
        The picture, uint8 [H,W,3].
    finding, identity
        Named in the derivation description and the contributing equipment.
    series_number, series_description
        Of the new series, the same for every study.
    created
        When the picture was made, aware. Written in the source's time zone if it states one, else in its own.
    jpeg_quality
        Makes it a JPEG of this quality, 1 to 100, with UIDs of its own; None leaves it uncompressed.

    Returns
    -------
    Dataset
        With file meta information; explicit little endian or JPEG Baseline.

    Raises
    ------
    UnreadableObject
        The source lacks its study, SOP instance or SOP class UID.
    ValueError
        The picture is not uint8 [H,W,3], or the time is naive.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError("the picture is not uint8 [H,W,3]")
    dataset = begin(
        source,
        identity,
        kind=kind_of(KIND, jpeg_quality),
        sop_class=SecondaryCaptureImageStorage,
        # Not the source's modality: a viewer that hangs radiographs must not take this for one.
        modality="OT",
        series_number=series_number,
        series_description=series_description,
        created=created,
    )
    describe_capture(dataset, identity)
    describe_derivation(dataset, source, finding, identity)
    pass_on_loss(dataset, source)
    set_picture(dataset, source, rgb)
    if jpeg_quality is not None:
        compress(dataset, [rgb], jpeg_quality)
    return dataset


def describe_capture(dataset: Dataset, identity: ModelIdentity) -> None:
    """Say what captured the picture, and when (PS3.3 C.8.6.1)."""
    dataset.DateOfSecondaryCapture, dataset.TimeOfSecondaryCapture = dataset.ContentDate, dataset.ContentTime
    dataset.SecondaryCaptureDeviceManufacturer = MANUFACTURER
    dataset.SecondaryCaptureDeviceManufacturerModelName = dataset.ManufacturerModelName
    dataset.SecondaryCaptureDeviceSoftwareVersions = versions_of(identity)
    dataset.ConversionType = "WSD"


def describe_derivation(dataset: Dataset, source: Dataset, finding: Finding, identity: ModelIdentity) -> None:
    """Say what the picture was made from, and how (PS3.3 C.7.6.1.1.3, C.7.6.1.1.4)."""
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.SourceImageSequence = [source_image(source)]
    dataset.DerivationDescription = plain_text(
        f"Grad-CAM heatmap beside the radiograph, by {identity.name} {identity.version}: pneumonia probability"
        f" {finding.probability:.4f}, decision {finding.decision} at threshold {finding.threshold:.4f}."
        " For research use. Not for diagnosis."
    )[:1024]
    dataset.DerivationCodeSequence = [
        code("113085", "Spatial resampling"),
        code("113042", "Pixel by pixel addition"),
    ]
    dataset.BurnedInAnnotation = burned_in(source)


def pass_on_loss(dataset: Dataset, source: Dataset) -> None:
    """Pass on that the source was once compressed with loss: the picture has that loss too (PS3.3 C.7.6.1.1.5)."""
    syntax = text(getattr(source, "file_meta", None) or Dataset(), "TransferSyntaxUID")
    stated = text(source, "LossyImageCompression")
    if stated == "01" or syntax in _LOSSY:
        dataset.LossyImageCompression = "01"
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            element = element_of(source, keyword)
            if element is not None:
                dataset[element.tag] = element
        if syntax in _LOSSY and "LossyImageCompressionMethod" not in dataset:
            dataset.LossyImageCompressionMethod = _LOSSY[syntax]
    elif stated == "00":
        dataset.LossyImageCompression = "00"


def set_picture(dataset: Dataset, source: Dataset, rgb: NDArray[np.uint8]) -> None:
    """Set the pixels, uint8 [H,W,3] or [frames,H,W,3], and what describes them (PS3.3 C.7.6.1, C.7.6.3)."""
    orientation = element_of(source, "PatientOrientation")
    if orientation is None:
        dataset.PatientOrientation = None
    else:
        dataset[orientation.tag] = orientation
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.Rows, dataset.Columns = rgb.shape[-3:-1]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    data = rgb.tobytes()
    dataset.add_new("PixelData", "OB", data + b"\0" * (len(data) % 2))
