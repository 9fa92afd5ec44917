"""Makes the Parametric Map of the evidence: log-odds for each place, for those who compute with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from highdicom import VOILUTTransformation
from highdicom.pm import RealWorldValueMapping
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import UID

from dicom_io.errors import Unsuitable
from dicom_io.finding import STRONG_EVIDENCE
from dicom_io.header.copied import put
from dicom_io.objects.common import begin, code, plain_text, reference, require_place, source_reference
from dicom_io.objects.kinds import PARAMETRIC_MAP
from dicom_io.objects.secondary_capture import pass_on_loss
from dicom_io.uids import derived_uid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dicom_io.header.source_image import SourceImage
    from dicom_io.objects.common import Basis

KIND = PARAMETRIC_MAP
LABEL = "CXRD LOG ODDS"  # CS: at most 16 capital letters, digits, spaces
# The standard's nearest name: the gradient of the pooling weights each place. LUT Explanation says it exactly.
QUANTITY = codes.DCM.GradientWeightedClassActivation
# Where the letters of Patient Orientation point to in the patient-based coordinate system (PS3.3 C.7.6.2.1.1).
_AXES = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "H": (0, 0, 1), "F": (0, 0, -1)}
_TYPE = ("DERIVED", "PRIMARY", "STATIC", "QUANTITY")


def parametric_map(basis: Basis, evidence: NDArray[np.float32]) -> Dataset:
    """Store the evidence as it is (Parametric Map, PS3.3 A.75), one frame of Float Pixel Data.

    Real world values are the stored values: the log-odds of pneumonia if all lung looked like that place; 0 where these
    are below even, and outside the lungs. They have no units, and are not scaled to their own maximum.

    The IOD requires a Frame of Reference, which a projection radiograph seldom has. The map gets one derived from the
    source: its origin is the centre of the source's first pixel, in the plane of the detector, and its axes are the
    patient's by the source's Patient Orientation. In it the map lies where its cells lie on the source, from edge to
    edge. Nothing else shares it, so that nothing is placed in the patient by it. Spatial Locations Preserved is NO,
    since a cell of the map is many pixels of the source.

    Parameters
    ----------
    basis
        Source, model, time and series.
    evidence
        float32 [h,w] in log-odds, 0 and up, covering the whole field of view of the source.

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
    if evidence.dtype != np.float32 or evidence.ndim != 2 or not np.isfinite(evidence).all():
        raise ValueError("the map is not float32 [h,w] of finite numbers")
    source = basis.source
    require_place(source)
    dataset = begin(basis, KIND)
    plane = _plane(source, evidence)
    _image(dataset, evidence)
    dataset.DeviceSerialNumber = plain_text(basis.identity.digest)[:64]
    _relate(dataset, source, evidence)
    _group(dataset, source, plane, evidence)
    return dataset


@dataclass(frozen=True)
class _Plane:
    """Where the map lies: mm between the centres of its cells, of the first one, and directions of rows and columns."""

    spacing: tuple[float, float]
    position: NDArray[np.float64]
    directions: NDArray[np.float64]  # [2,3], unit vectors


def _plane(source: SourceImage, evidence: NDArray[np.float32]) -> _Plane:
    """Return where the map lies in the plane of its source's pixels (PS3.3 C.7.6.2.1.1, C.7.6.1.1.1)."""
    down, across = source.rows / evidence.shape[0], source.columns / evidence.shape[1]
    directions = np.array([_AXES.get(each[:1], (0, 0, 0)) for each in source.orientation], np.float64)
    if directions.shape != (2, 3) or not np.array_equal(directions @ directions.T, np.eye(2)):
        raise Unsuitable("the source lacks PatientOrientation")
    spacing = source.pixel_spacing
    if spacing is None:
        raise Unsuitable("the source lacks PixelSpacing and ImagerPixelSpacing")
    middle = np.array([(across - 1) / 2 * spacing[1], (down - 1) / 2 * spacing[0]])
    return _Plane((spacing[0] * down, spacing[1] * across), middle @ directions, directions)


def _image(dataset: Dataset, evidence: NDArray[np.float32]) -> None:
    """Set the numbers and what describes them (PS3.3 C.7.6.24, C.8.32.2)."""
    dataset.ImageType = list(_TYPE)
    dataset.ContentLabel, dataset.ContentDescription = LABEL, "Log-odds of pneumonia at each place. Research only."
    dataset.ContentCreatorName = None
    dataset.PixelPresentation, dataset.PresentationLUTShape = "MONOCHROME", "IDENTITY"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.BitsAllocated = 1, "MONOCHROME2", 32
    dataset.NumberOfFrames = 1
    dataset.Rows, dataset.Columns = evidence.shape
    dataset.BurnedInAnnotation, dataset.RecognizableVisualFeatures = "NO", "NO"
    dataset.LossyImageCompression = "00"
    dataset.AcquisitionContextSequence = []
    dataset.FloatPixelData = np.ascontiguousarray(evidence, "<f4").tobytes()


def _relate(dataset: Dataset, source: SourceImage, evidence: NDArray[np.float32]) -> None:
    """Relate the map to its source: frame of reference, orientation, derivation (PS3.3 C.7.4.1, C.7.6.1, C.12.2)."""
    # Of the source alone: the maps of all models lie in one frame of reference.
    dataset.FrameOfReferenceUID = derived_uid(source.uid_seed, "", "frame-of-reference")
    dataset.PositionReferenceIndicator = None
    if source.orientation_element is not None:
        put(dataset, [source.orientation_element])
    cells, pixels = f"{evidence.shape[0]} x {evidence.shape[1]}", f"{source.rows} x {source.columns}"
    dataset.DerivationDescription = (
        f"Log-odds of pneumonia at each place, {cells} cells from edge to edge of the source's {pixels} pixels."
        " For research use. Not for diagnosis."
    )
    series = Dataset()
    series.SeriesInstanceUID = UID(source.series_uid)
    series.ReferencedInstanceSequence = [reference(source)]
    dataset.ReferencedSeriesSequence = [series]
    pass_on_loss(dataset, source)


def _group(dataset: Dataset, source: SourceImage, plane: _Plane, evidence: NDArray[np.float32]) -> None:
    """Set the functional groups of the one frame, and the one dimension (PS3.3 A.75.5, C.7.6.16, C.7.6.17)."""
    organization = derived_uid(source.sop_instance_uid, dataset.SOPInstanceUID, "dimension-organization")
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
    shared.FrameVOILUTSequence = [_window()]
    shared.RealWorldValueMappingSequence = [_mapping(evidence)]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frame, content = Dataset(), Dataset()
    content.DimensionIndexValues, content.FrameLabel = [1], LABEL
    frame.FrameContentSequence = [content]
    frame.DerivationImageSequence = [_derivation(source)]
    dataset.PerFrameFunctionalGroupsSequence = [frame]


def _window() -> VOILUTTransformation:
    """Show evidence as the pictures do, black at 0 and full at `STRONG_EVIDENCE`: a weak map looks weak."""
    centre, width = _short(STRONG_EVIDENCE / 2), _short(STRONG_EVIDENCE)
    return VOILUTTransformation(window_center=centre, window_width=width, voi_lut_function="LINEAR_EXACT")


def _mapping(evidence: NDArray[np.float32]) -> RealWorldValueMapping:
    """Say that the stored values are the real ones, and of what (PS3.3 C.7.6.16.2.11)."""
    return RealWorldValueMapping(
        lut_label="LOG-ODDS",
        lut_explanation="Log-odds of pneumonia, natural logarithm",
        unit=codes.UCUM.NoUnits,
        value_range=(float(evidence.min()), float(evidence.max())),
        slope=1.0,
        intercept=0.0,
        quantity_definition=QUANTITY,
    )


def _derivation(source: SourceImage) -> Dataset:
    """Name the source and what was done (PS3.3 C.7.6.16.2.6)."""
    image = source_reference(source)
    image.SpatialLocationsPreserved = "NO"
    item = Dataset()
    item.SourceImageSequence = [image]
    item.DerivationCodeSequence = [code("113085", "Spatial resampling")]
    return item


def _short(number: float) -> float:
    """Round to what a decimal string holds (16 characters)."""
    return float(f"{number:.6g}") + 0.0  # no minus before a zero
