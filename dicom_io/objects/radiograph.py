"""A CR or DX radiograph made from a picture: for JPEG and PNG files, the demonstration and the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from dicom_io.uids import derived_uid

if TYPE_CHECKING:
    from numpy.typing import NDArray


def radiograph(
    pixels: NDArray[np.uint8] | NDArray[np.uint16], *, uid_seed: str, modality: str = "DX", **attributes: Any
) -> Dataset:
    """Wrap a picture as the CR or DX object that a modality would send: 12 bits in 16, explicit little endian.

    Parameters
    ----------
    pixels
        uint8 [H,W], which is spread over 12 bits, or uint16 [H,W] of 12 bits as it is; 0 is black.
    uid_seed
        Study, series and instance UID follow from this alone.
    modality
        ``"CR"`` or ``"DX"``.
    attributes
        Further attributes by keyword, which replace those set here; None removes one.

    Returns
    -------
    Dataset
        With file meta information, ready for ``dcmwrite(..., enforce_file_format=True)``.

    Raises
    ------
    ValueError
        The modality is neither, or the picture is not grey.
    """
    if modality not in ("CR", "DX") or pixels.ndim != 2:
        raise ValueError("a radiograph is made from a grey picture, as CR or DX")
    values = pixels.astype(np.uint16)
    if pixels.dtype == np.uint8:
        values = values * 16 + values // 16
    dataset = Dataset()
    storage = ComputedRadiographyImageStorage if modality == "CR" else DigitalXRayImageStorageForPresentation
    dataset.update(_identity(uid_seed, storage, modality))
    dataset.update(_image(values))
    if modality == "DX":
        dataset.update(_digital_x_ray())
    for keyword, value in attributes.items():
        if value is not None:
            setattr(dataset, keyword, value)
        elif keyword in dataset:
            delattr(dataset, keyword)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", storage)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get(
        "SOPInstanceUID", derived_uid(uid_seed, "phantom", "sop")
    )
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def _identity(seed: str, storage: str, modality: str) -> Dataset:
    """Return the patient, study, series and equipment of an invented patient of four years."""
    part = Dataset()
    part.SpecificCharacterSet = "ISO_IR 192"
    part.SOPClassUID, part.SOPInstanceUID = storage, derived_uid(seed, "phantom", "instance")
    part.StudyInstanceUID = derived_uid(seed, "phantom", "study")
    part.SeriesInstanceUID = derived_uid(seed, "phantom", "series")
    part.StudyDate = part.SeriesDate = part.AcquisitionDate = part.ContentDate = "20240102"
    part.StudyTime = part.SeriesTime = part.AcquisitionTime = part.ContentTime = "101112"
    part.AccessionNumber, part.StudyID, part.StudyDescription = "PHANTOM1", "1", "CHEST"
    part.ReferringPhysicianName, part.PatientName, part.PatientID = "", "Phantom^Chest", "PHANTOM"
    part.PatientBirthDate, part.PatientSex, part.PatientAge = "20200101", "O", "004Y"
    part.Modality, part.Manufacturer, part.ManufacturerModelName = modality, "cxrd phantom", "drawn chest"
    part.SeriesNumber, part.InstanceNumber = 1, 1
    part.BodyPartExamined, part.ViewPosition, part.PatientOrientation = "CHEST", "AP", ["L", "F"]
    part.ImageType = ["ORIGINAL", "PRIMARY"] if modality == "CR" else ["ORIGINAL", "PRIMARY", ""]
    return part


def _image(values: NDArray[np.uint16]) -> Dataset:
    """Return the pixels and what describes them."""
    part = Dataset()
    part.SamplesPerPixel, part.PhotometricInterpretation = 1, "MONOCHROME2"
    part.Rows, part.Columns = values.shape
    part.BitsAllocated, part.BitsStored, part.HighBit, part.PixelRepresentation = 16, 12, 11, 0
    part.WindowCenter, part.WindowWidth = 2048, 4096
    # A chest is some 36 cm high.
    part.ImagerPixelSpacing = part.PixelSpacing = [round(360 / values.shape[0], 4)] * 2
    part.add_new("PixelData", "OW", values.astype("<u2").tobytes())
    return part


def _digital_x_ray() -> Dataset:
    """Return what a DX object has and a CR object has not (PS3.3 A.26.3)."""
    part = Dataset()
    part.PresentationIntentType = "FOR PRESENTATION"
    part.PixelIntensityRelationship, part.PixelIntensityRelationshipSign = "LOG", -1
    part.RescaleIntercept, part.RescaleSlope, part.RescaleType = 0, 1, "US"
    part.PresentationLUTShape, part.LossyImageCompression, part.BurnedInAnnotation = "IDENTITY", "00", "NO"
    part.ImageLaterality, part.DetectorType, part.PositionerType = "U", "DIRECT", "NONE"
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "51185008", "SCT", "Thorax"
    part.AnatomicRegionSequence, part.AcquisitionContextSequence = [region], []
    return part
