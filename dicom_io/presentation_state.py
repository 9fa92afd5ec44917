"""Makes the presentation state: the attended region drawn on the radiograph itself, in a layer that can be hidden."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from highdicom.color import CIELabColor
from highdicom.pr import GraphicAnnotation, GraphicLayer, GraphicObject, TextObject
from pydicom.dataset import Dataset
from pydicom.uid import UID, GrayscaleSoftcopyPresentationStateStorage
from pydicom.valuerep import DSfloat

from dicom_io.derived import begin, element_of, plain_item, plain_text, reference, stand_in
from dicom_io.grayscale import lut_item
from dicom_io.structured_report import tracking_uid
from dicom_io.values import number, text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from numpy.typing import NDArray

    from dicom_io.finding import Finding, ModelIdentity, Region

KIND = "presentation-state"
LAYER = "CXRD FINDING"
LABEL = "CXRD PNEUMONIA"  # CS: at most 16 capital letters, digits, spaces
_AMBER = CIELabColor(l_star=78.0, a_star=15.0, b_star=70.0)


def presentation_state(
    source: Dataset,
    *,
    finding: Finding,
    identity: ModelIdentity,
    aspect: float,
    window: tuple[float, float] | None,
    series_number: int,
    series_description: str,
    created: datetime,
) -> Dataset:
    """Show a finding on the radiograph it was made from (Grayscale Softcopy Presentation State, PS3.3 A.33.1).

    Outline and box of the attended region and one line of text, in a graphic layer of their own; modality LUT, window
    and polarity as the model saw the image; the whole image displayed, with the true shape of its pixels.

    Parameters
    ----------
    source
        The radiograph as received; its pixel data is not needed. It is not changed.
    finding, identity
        What is written and drawn.
    aspect, window
        Of the radiograph as `dicom_io.pixels.render` showed it: row spacing / column spacing; centre and width where
        those were not the source's.
    series_number, series_description
        Of the new series, the same for every study.
    created
        When the state was made, aware.

    Raises
    ------
    UnreadableObject
        The source lacks its study, SOP instance or SOP class UID.
    Unsuitable
        The source lacks its series or its size, without which a presentation state cannot refer to it.
    """
    stand = stand_in(source)
    state = begin(
        source,
        identity,
        kind=KIND,
        sop_class=GrayscaleSoftcopyPresentationStateStorage,
        modality="PR",
        series_number=series_number,
        series_description=series_description,
        created=created,
    )
    _identify(state, source)
    _annotate(state, stand, finding, tracking_uid(text(source, "SOPInstanceUID"), identity))
    _area(state, stand.Rows, stand.Columns, aspect)
    _grayscale(state, source, window)
    return state


def _identify(state: Dataset, source: Dataset) -> None:
    """Say what is presented (PS3.3 C.11.10, C.11.11)."""
    state.ContentLabel = LABEL
    state.ContentDescription = "Where the model looked. Research only."
    state.PresentationCreationDate, state.PresentationCreationTime = state.ContentDate, state.ContentTime
    state.ContentCreatorName = None
    for keyword in ("ContentDate", "ContentTime"):  # of images and documents
        delattr(state, keyword)
    series = Dataset()
    series.SeriesInstanceUID = UID(text(source, "SeriesInstanceUID"))
    series.ReferencedImageSequence = [reference(source)]
    state.ReferencedSeriesSequence = [series]


def _annotate(state: Dataset, stand: Dataset, finding: Finding, tracking: str) -> None:
    """Draw the region and write the line (PS3.3 C.10.5, C.10.7)."""
    layer = GraphicLayer(LAYER, order=1, description="cxrd pneumonia (research)", display_color=_AMBER)
    region = finding.region
    drawn = [
        GraphicObject("POLYLINE", points, units="PIXEL", tracking_id="cxrd pneumonia", tracking_uid=tracking)
        for points in (_outlines(region, stand.Rows, stand.Columns) if region else ())
    ]
    line = TextObject(_line(finding), units="DISPLAY", bounding_box=(0.02, 0.94, 0.98, 0.98), text_justification="LEFT")
    annotation = GraphicAnnotation([stand], layer, graphic_objects=drawn or None, text_objects=[line])
    state.GraphicAnnotationSequence = [annotation]
    state.GraphicLayerSequence = [layer]


def _outlines(region: Region, rows: int, columns: int) -> Iterator[NDArray[np.float64]]:
    """Yield closed outlines within the image, as (column, row) from the corner of its first pixel."""
    left, top, right, bottom = region.box
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    for outline in (region.contour, corners):
        if len(outline) > 2:
            yield np.clip(np.array([*outline, outline[0]], dtype=np.float64), 0, (columns, rows))


def _line(finding: Finding) -> str:
    sure = " not sure" if finding.certain is False else ""
    strange = " unlike the training images" if finding.out_of_distribution else ""
    return plain_text(
        f"cxrd {finding.decision} {finding.probability:.2f}{sure}{strange} (threshold {finding.threshold:.2f},"
        f" {finding.operating_point}). Research only, not for diagnosis."
    )


def _area(state: Dataset, rows: int, columns: int, aspect: float) -> None:
    """Display all of the image, its pixels as tall as they are (PS3.3 C.10.4)."""
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [columns, rows]
    area.PresentationSizeMode = "SCALE TO FIT"
    ratio = Fraction(aspect).limit_denominator(1000)
    area.PresentationPixelAspectRatio = [ratio.numerator, ratio.denominator]
    state.DisplayedAreaSelectionSequence = [area]


def _grayscale(state: Dataset, source: Dataset, window: tuple[float, float] | None) -> None:
    """Repeat the transformations that the model's input went through (PS3.3 C.11.1, C.11.8, C.11.6)."""
    modality = lut_item(source, "ModalityLUTSequence")
    if modality is not None:
        state.ModalityLUTSequence = [plain_item(modality)]
    elif number(source, "RescaleSlope") is not None or number(source, "RescaleIntercept") is not None:
        slope, intercept = number(source, "RescaleSlope"), number(source, "RescaleIntercept")
        state.RescaleSlope, state.RescaleIntercept = 1.0 if slope is None else slope, intercept or 0.0
        state.RescaleType = "US"
    voi = _voi(source, window)
    if voi is not None:
        state.SoftcopyVOILUTSequence = [voi]
    inverted = text(source, "PhotometricInterpretation").upper() == "MONOCHROME1"
    state.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"


def _voi(source: Dataset, window: tuple[float, float] | None) -> Dataset | None:
    """Return the first VOI LUT or window of the source, or the one that was used instead."""
    item = Dataset()
    if window is not None:
        centre, width = window
        item.WindowCenter, item.WindowWidth = round(centre, 3), round(width, 3)
        return item
    table = lut_item(source, "VOILUTSequence")
    if table is not None:
        item.VOILUTSequence = [plain_item(table)]
        return item
    given = number(source, "WindowCenter"), number(source, "WindowWidth")
    if given[0] is None or given[1] is None:
        return None
    # A number of more than sixteen characters is no decimal string (PS3.5 6.2).
    item.WindowCenter, item.WindowWidth = (DSfloat(value, auto_format=True) for value in (given[0], given[1]))
    function = element_of(source, "VOILUTFunction")
    if function is not None:
        item[function.tag] = function
    return item
