"""Makes the Parametric Map of the raw heatmap: the model's own grid of numbers, for those who compute with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from highdicom import VOILUTTransformation
from highdicom.pm import RealWorldValueMapping
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import ParametricMapStorage

from dicom_io.errors import Unsuitable
from dicom_io.header.attributes import numbers, text, values
from dicom_io.objects.common import begin, code, element_of, plain_text, reference, source_image, stand_in
from dicom_io.objects.secondary_capture import pass_on_loss
from dicom_io.uids import derived_uid

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from dicom_io.finding import ModelIdentity

KIND = "parametric-map"
LABEL = "CXRD GRADCAM"  # CS: at most 16 capital letters, digits, spaces
QUANTITY = codes.DCM.GradientWeightedClassActivation
# Where the letters of Patient Orientation point to in the patient-based coordinate system (PS3.3 C.7.6.2.1.1).
_AXES = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "H": (0, 0, 1), "F": (0, 0, -1)}
_TYPE = ("DERIVED", "PRIMARY", "STATIC", "QUANTITY")


def parametric_map(
    source: Dataset,
    cam: NDArray[np.float32],
    *,
    identity: ModelIdentity,
    series_number: int,
    series_description: str,
    created: datetime,
) -> Dataset:
    """Store the heatmap as the network gave it (Parametric Map, PS3.3 A.75), one frame of Float Pixel Data.

    Real world values are the stored values: contributions to the logit of PNEUMONIA, negative ones too, without units.

    The IOD requires a Frame of Reference, which a projection radiograph seldom has. The map gets one derived from the
    source: its origin is the centre of the source's first pixel, in the plane of the detector, and its axes are the
    patient's by the source's Patient Orientation. In it the map lies where its cells lie on the source, from edge to
    edge. Nothing else shares it, so that nothing is placed in the patient by it. Spatial Locations Preserved is NO,
    since a cell of the map is many pixels of the source.

    Parameters
    ----------
    source
        The radiograph as received; its pixel data is not needed. It is not changed.
    cam
        float32 [h,w], covering the whole field of view of the source.
    identity, series_number, series_description, created
        As for the other kinds.

    Raises
    ------
    UnreadableObject
        The source lacks its study, SOP instance or SOP class UID.
    Unsuitable
        The source lacks its series, its size, its Patient Orientation or the spacing of its pixels, without which a map
        cannot be laid over it.
    ValueError
        The map is not float32 [h,w], not finite, or the time is naive.
    """
    if cam.dtype != np.float32 or cam.ndim != 2 or not np.isfinite(cam).all():
        raise ValueError("the map is not float32 [h,w] of finite numbers")
    stand = stand_in(source)
    dataset = begin(
        source,
        identity,
        kind=KIND,
        sop_class=ParametricMapStorage,
        modality="OT",
        series_number=series_number,
        series_description=series_description,
        created=created,
    )
    plane = _plane(source, stand, cam)
    _image(dataset, cam)
    dataset.DeviceSerialNumber = plain_text(identity.digest)[:64]
    _relate(dataset, source, stand, cam)
    _group(dataset, source, plane, cam)
    return dataset


@dataclass(frozen=True)
class _Plane:
    """Where the map lies: mm between the centres of its cells, of the first one, and directions of rows and columns."""

    spacing: tuple[float, float]
    position: NDArray[np.float64]
    directions: NDArray[np.float64]  # [2,3], unit vectors


def _plane(source: Dataset, stand: Dataset, cam: NDArray[np.float32]) -> _Plane:
    """Return where the map lies in the plane of its source's pixels (PS3.3 C.7.6.2.1.1, C.7.6.1.1.1)."""
    down, across = stand.Rows / cam.shape[0], stand.Columns / cam.shape[1]
    words = [str(each).strip()[:1] for each in values(source, "PatientOrientation")]
    directions = np.array([_AXES.get(word, (0, 0, 0)) for word in words], np.float64)
    if directions.shape != (2, 3) or not np.array_equal(directions @ directions.T, np.eye(2)):
        raise Unsuitable("the source lacks PatientOrientation")
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        spacing = numbers(source, keyword)
        if len(spacing) == 2 and min(spacing) > 0:
            break
    else:
        raise Unsuitable("the source lacks PixelSpacing and ImagerPixelSpacing")
    middle = np.array([(across - 1) / 2 * spacing[1], (down - 1) / 2 * spacing[0]])
    return _Plane((spacing[0] * down, spacing[1] * across), middle @ directions, directions)


def _image(dataset: Dataset, cam: NDArray[np.float32]) -> None:
    """Set the numbers and what describes them (PS3.3 C.7.6.24, C.8.32.2)."""
    dataset.ImageType = list(_TYPE)
    dataset.ContentLabel, dataset.ContentDescription = LABEL, "Grad-CAM on the model's own grid. Research only."
    dataset.ContentCreatorName = None
    dataset.PixelPresentation, dataset.PresentationLUTShape = "MONOCHROME", "IDENTITY"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.BitsAllocated = 1, "MONOCHROME2", 32
    dataset.NumberOfFrames = 1
    dataset.Rows, dataset.Columns = cam.shape
    dataset.BurnedInAnnotation, dataset.RecognizableVisualFeatures = "NO", "NO"
    dataset.LossyImageCompression = "00"
    dataset.AcquisitionContextSequence = []
    dataset.FloatPixelData = np.ascontiguousarray(cam, "<f4").tobytes()


def _relate(dataset: Dataset, source: Dataset, stand: Dataset, cam: NDArray[np.float32]) -> None:
    """Relate the map to its source: frame of reference, orientation, derivation (PS3.3 C.7.4.1, C.7.6.1, C.12.2)."""
    # Of the source alone: the maps of all models lie in one frame of reference.
    dataset.FrameOfReferenceUID = derived_uid(text(source, "SOPInstanceUID"), "", "frame-of-reference")
    dataset.PositionReferenceIndicator = None
    orientation = element_of(source, "PatientOrientation")
    if orientation is not None:
        dataset[orientation.tag] = orientation
    dataset.DerivationDescription = (
        f"Grad-CAM, {cam.shape[0]} x {cam.shape[1]} cells from edge to edge of the source's {stand.Rows} x"
        f" {stand.Columns} pixels. For research use. Not for diagnosis."
    )
    series = Dataset()
    series.SeriesInstanceUID = stand.SeriesInstanceUID
    series.ReferencedInstanceSequence = [reference(source)]
    dataset.ReferencedSeriesSequence = [series]
    pass_on_loss(dataset, source)


def _group(dataset: Dataset, source: Dataset, plane: _Plane, cam: NDArray[np.float32]) -> None:
    """Set the functional groups of the one frame, and the one dimension (PS3.3 A.75.5, C.7.6.16, C.7.6.17)."""
    organization = derived_uid(text(source, "SOPInstanceUID"), dataset.SOPInstanceUID, "dimension-organization")
    item, index = Dataset(), Dataset()
    item.DimensionOrganizationUID = index.DimensionOrganizationUID = organization
    index.DimensionIndexPointer, index.FunctionalGroupPointer = Tag("FrameLabel"), Tag("FrameContentSequence")
    index.DimensionDescriptionLabel = "Frame Label"
    dataset.DimensionOrganizationSequence, dataset.DimensionIndexSequence = [item], [index]
    shared = Dataset()
    measures, position, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [_short(each) for each in plane.spacing]
    position.ImagePositionPatient = [_short(each) for each in plane.position]
    orientation.ImageOrientationPatient = [_short(each) for each in plane.directions.ravel()]
    shared.PixelMeasuresSequence, shared.PlanePositionSequence = [measures], [position]
    shared.PlaneOrientationSequence = [orientation]
    kind, anatomy, identical = Dataset(), Dataset(), Dataset()
    kind.FrameType = list(_TYPE)
    shared.ParametricMapFrameTypeSequence = [kind]
    anatomy.FrameLaterality = "B"
    anatomy.AnatomicRegionSequence = [code("51185008", "Thorax", "SCT")]
    shared.FrameAnatomySequence = [anatomy]
    identical.RescaleIntercept, identical.RescaleSlope, identical.RescaleType = 0, 1, "US"
    shared.PixelValueTransformationSequence = [identical]
    shared.FrameVOILUTSequence = [_window(cam)]
    shared.RealWorldValueMappingSequence = [_mapping(cam)]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frame, content = Dataset(), Dataset()
    content.DimensionIndexValues, content.FrameLabel = [1], LABEL
    frame.FrameContentSequence = [content]
    frame.DerivationImageSequence = [_derivation(source)]
    dataset.PerFrameFunctionalGroupsSequence = [frame]


def _window(cam: NDArray[np.float32]) -> VOILUTTransformation:
    """Show what speaks for the class, from black at 0 on; a map without any shows black."""
    shown = max(float(cam.max()), 1e-6)
    centre, width = _short(shown / 2), _short(shown)
    return VOILUTTransformation(window_center=centre, window_width=width, voi_lut_function="LINEAR_EXACT")


def _mapping(cam: NDArray[np.float32]) -> RealWorldValueMapping:
    """Say that the stored values are the real ones, and of what (PS3.3 C.7.6.16.2.11)."""
    return RealWorldValueMapping(
        lut_label="GRADCAM",
        lut_explanation="Grad-CAM of PNEUMONIA before the ReLU",
        unit=codes.UCUM.NoUnits,
        value_range=(float(cam.min()), float(cam.max())),
        slope=1.0,
        intercept=0.0,
        quantity_definition=QUANTITY,
    )


def _derivation(source: Dataset) -> Dataset:
    """Name the source and what was done (PS3.3 C.7.6.16.2.6)."""
    image = source_image(source)
    image.SpatialLocationsPreserved = "NO"
    item = Dataset()
    item.SourceImageSequence = [image]
    item.DerivationCodeSequence = [code("113085", "Spatial resampling")]
    return item


def _short(number: float) -> float:
    """Round to what a decimal string holds (16 characters)."""
    return float(f"{number:.6g}") + 0.0  # no minus before a zero
