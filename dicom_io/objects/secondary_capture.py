"""Makes the Secondary Capture that carries a colour picture of the finding back into the study it came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dicom_io.finding import MANUFACTURER
from dicom_io.header.copied import put
from dicom_io.objects.common import begin, code, plain_text, source_reference, versions_of
from dicom_io.objects.jpeg import compress, variant
from dicom_io.objects.kinds import SECONDARY_CAPTURE

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from dicom_io.finding import Finding, ModelIdentity
    from dicom_io.header.source_image import SourceImage
    from dicom_io.objects.common import Basis

# Not the source's modality: a viewer that hangs radiographs must not take this for one.
KIND = SECONDARY_CAPTURE


def secondary_capture(
    basis: Basis, finding: Finding, rgb: NDArray[np.uint8], jpeg_quality: int | None = None
) -> Dataset:
    """Wrap a picture as a Secondary Capture in a new series of the source's study (PS3.3 A.8.1).

    The same arguments make the same object, to the byte. Texts copied from the source keep their bytes and their
    character set, right or wrong.

    Burned In Annotation says whether the picture identifies the patient (PS3.3 C.7.6.1).
    What we write into it does not, so it is NO where the source says NO of its own pixels. Where it says YES, or
    nothing, it is YES: whoever removes identities must look at the picture.

    Parameters
    ----------
    basis
        Source, model, time and series.
    finding
        Named in the derivation description.
    rgb
        The picture, uint8 [H,W,3].
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
    dataset = begin(basis, KIND, variant=variant(jpeg_quality))
    describe_capture(dataset, basis.identity)
    describe_derivation(dataset, basis, finding)
    pass_on_loss(dataset, basis.source)
    set_picture(dataset, basis.source, rgb)
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


def describe_derivation(dataset: Dataset, basis: Basis, finding: Finding) -> None:
    """Say what the picture was made from, and how (PS3.3 C.7.6.1.1.3, C.7.6.1.1.4)."""
    identity = basis.identity
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.SourceImageSequence = [source_reference(basis.source)]
    dataset.DerivationDescription = plain_text(
        f"The radiograph with what {identity.name} {identity.version} says of it. {finding.summary} For research use."
        " Not for diagnosis."
    )[:1024]
    dataset.DerivationCodeSequence = [
        code("113085", "Spatial resampling"),
        code("113042", "Pixel by pixel addition"),
    ]
    dataset.BurnedInAnnotation = basis.source.burned_in


def pass_on_loss(dataset: Dataset, source: SourceImage) -> None:
    """Pass on that the source was once compressed with loss: the picture has that loss too (PS3.3 C.7.6.1.1.5)."""
    if source.lossy:
        dataset.LossyImageCompression = source.lossy
        put(dataset, source.loss)


def set_picture(dataset: Dataset, source: SourceImage, rgb: NDArray[np.uint8]) -> None:
    """Set the pixels, uint8 [H,W,3] or [frames,H,W,3], and what describes them (PS3.3 C.7.6.1, C.7.6.3)."""
    dataset.PatientOrientation = None
    if source.orientation_element is not None:
        put(dataset, [source.orientation_element])
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.Rows, dataset.Columns = rgb.shape[-3:-1]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    data = rgb.tobytes()
    dataset.add_new("PixelData", "OB", data + b"\0" * (len(data) % 2))
