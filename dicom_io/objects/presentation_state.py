"""Makes the presentation state: answer and regions drawn on the radiograph itself, in a layer that can be hidden."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from highdicom.color import CIELabColor
from highdicom.pr import GraphicLayer, GraphicObject, TextObject
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pydicom.valuerep import DSfloat

from dicom_io.header.attributes import is_valid, number, numbers, text
from dicom_io.objects.common import begin, plain_text, reference, require_place
from dicom_io.objects.kinds import PRESENTATION_STATE
from dicom_io.objects.structured_report import tracking_identifier, tracking_uid
from dicom_io.pixels.grayscale import Table, first_table, lut_words, window_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dicom_io.finding import Finding, ModelIdentity, Region
    from dicom_io.header.source_image import SourceImage
    from dicom_io.objects.common import Basis

KIND = PRESENTATION_STATE
LAYER = "CXRD FINDING"
LABEL = "CXRD ANSWER"  # CS: at most 16 capital letters, digits, spaces
_NOTICE = "cxrd. For research use. Not for diagnosis."
_AMBER = CIELabColor(l_star=78.0, a_star=15.0, b_star=70.0)


def presentation_state(
    basis: Basis, finding: Finding, aspect: float, window: tuple[float, float] | None = None
) -> Dataset:
    """Show a finding on the radiograph it was made from (Grayscale Softcopy Presentation State, PS3.3 A.33.1).

    Outline and box of each region and the answer as text, in a graphic layer of their own; modality LUT, window and
    polarity as the model saw the image; the whole image displayed, with the true shape of its pixels.

    Parameters
    ----------
    basis
        Source, model, time and series.
    finding
        What is written and drawn.
    aspect, window
        Of the radiograph as `pixels.render.render` showed it: row spacing / column spacing; centre and width where
        those were not the source's.

    Raises
    ------
    UnreadableObject
        The source lacks its study, SOP instance or SOP class UID.
    Unsuitable
        The source lacks its series or its size, without which a presentation state cannot refer to it.
    """
    source = basis.source
    require_place(source)
    state = begin(basis, KIND)
    _identify(state, source)
    _annotate(state, source, finding, basis.identity)
    _area(state, source, aspect)
    _grayscale(state, source.grayscale, window)
    return state


def _identify(state: Dataset, source: SourceImage) -> None:
    """Say what is presented (PS3.3 C.11.10, C.11.11)."""
    state.ContentLabel = LABEL
    state.ContentDescription = "Answer of the pneumonia classifier. Research only."
    state.PresentationCreationDate, state.PresentationCreationTime = state.ContentDate, state.ContentTime
    state.ContentCreatorName = None
    for keyword in ("ContentDate", "ContentTime"):  # of images and documents
        delattr(state, keyword)
    series = Dataset()
    series.SeriesInstanceUID = UID(source.series_uid)
    series.ReferencedImageSequence = [reference(source)]
    state.ReferencedSeriesSequence = [series]


def _annotate(state: Dataset, source: SourceImage, finding: Finding, identity: ModelIdentity) -> None:
    """Draw the regions and write the answer (PS3.3 C.10.5, C.10.7)."""
    layer = GraphicLayer(LAYER, order=1, description="cxrd pneumonia (research)", display_color=_AMBER)
    outlines = [
        GraphicObject(
            "POLYLINE",
            points,
            units="PIXEL",
            tracking_id=tracking_identifier(finding, region, number),
            tracking_uid=tracking_uid(source, identity, number),
        )
        for number, region in enumerate(finding.regions, start=1)
        for points in _outlines(region, source.rows, source.columns)
    ]
    words = "\r\n".join(plain_text(each) for each in (*finding.sentences, _NOTICE))
    line = TextObject(words, units="DISPLAY", bounding_box=(0.02, 0.8, 0.98, 0.98), text_justification="LEFT")
    # highdicom's own class reads a table of all attributes of all IODs, 63 MB, to ask whether there are many frames.
    annotation = Dataset()
    annotation.ReferencedImageSequence = [reference(source)]
    annotation.GraphicLayer = layer.GraphicLayer
    annotation.TextObjectSequence = [line]
    if outlines:
        annotation.GraphicObjectSequence = outlines
    state.GraphicAnnotationSequence = [annotation]
    state.GraphicLayerSequence = [layer]


def _outlines(region: Region, rows: int, columns: int) -> Iterator[NDArray[np.float64]]:
    """Yield closed outlines within the image, as (column, row) from the corner of its first pixel."""
    left, top, right, bottom = region.box
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    for outline in dict.fromkeys((region.outline, corners)):
        yield np.clip(np.array([*outline, outline[0]], dtype=np.float64), 0, (columns, rows))


def _area(state: Dataset, source: SourceImage, aspect: float) -> None:
    """Display all of the image, its pixels as tall as they are (PS3.3 C.10.4)."""
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [source.columns, source.rows]
    area.PresentationSizeMode = "SCALE TO FIT"
    ratio = Fraction(aspect).limit_denominator(1000)
    area.PresentationPixelAspectRatio = [ratio.numerator, ratio.denominator]
    state.DisplayedAreaSelectionSequence = [area]


def _grayscale(state: Dataset, grayscale: Dataset, window: tuple[float, float] | None) -> None:
    """Repeat the transformations that the model's input went through (PS3.3 C.11.1, C.11.8, C.11.6)."""
    modality = _table(grayscale, "ModalityLUTSequence")
    if modality is not None:
        kind = text(modality, "ModalityLUTType")
        modality.ModalityLUTType = kind if _is_usable(kind) else "US"
        state.ModalityLUTSequence = [modality]
    elif number(grayscale, "RescaleSlope") is not None or number(grayscale, "RescaleIntercept") is not None:
        slope, intercept = number(grayscale, "RescaleSlope"), number(grayscale, "RescaleIntercept")
        # A slope of 0 counts as absent, as it did for what was shown.
        state.RescaleSlope, state.RescaleIntercept = _decimal(slope or 1.0), _decimal(intercept or 0)
        state.RescaleType = "US"
    voi = _voi(grayscale, window)
    if voi is not None:
        state.SoftcopyVOILUTSequence = [voi]
    inverted = text(grayscale, "PhotometricInterpretation").upper() == "MONOCHROME1"
    state.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"


def _voi(grayscale: Dataset, window: tuple[float, float] | None) -> Dataset | None:
    """Return the first VOI LUT or window of the source, or the one that was used instead."""
    item = Dataset()
    if window is not None:
        item.WindowCenter, item.WindowWidth = (_decimal(round(value, 9)) for value in window)
        return item
    table = _table(grayscale, "VOILUTSequence")
    if table is not None:
        item.VOILUTSequence = [table]
        return item
    source_window = window_of(grayscale)
    if source_window is None:
        return None
    item.WindowCenter, item.WindowWidth = _decimal(source_window.centre), _decimal(source_window.width)
    if text(grayscale, "VOILUTFunction").upper() == source_window.function:
        item.VOILUTFunction = source_window.function
    return item


def _table(grayscale: Dataset, keyword: str) -> Dataset | None:
    """Return a copy of the source's first LUT with its data in our byte order; None where there is none.

    One whose data is not what its descriptor states, or a VOI LUT that leaves the highest of its bits unused, is
    written as it was shown: whole, with 16 bits, and a VOI LUT scaled by its highest entry. What only explains it is
    copied where it is valid, and otherwise left behind.
    """
    item, table = first_table(grayscale, keyword, signed=False)
    if item is None or table is None:
        return None
    copy = Dataset()
    scaled = keyword == "VOILUTSequence"
    if not _is_regular(item, table) or (scaled and table.entries.max() < (1 << table.bits) - 1):
        _write_table(copy, table, int(numbers(item, "LUTDescriptor")[1]), scaled=scaled)
    else:
        copy["LUTDescriptor"] = item["LUTDescriptor"]
        data = item["LUTData"]
        stored = lut_words(item).astype("<u2").tobytes() if isinstance(data.value, bytes) else data.value
        copy["LUTData"] = DataElement(data.tag, data.VR, stored)
    for name in ("LUTExplanation", "ModalityLUTType"):
        if name in item and _is_usable(words := text(item, name)):
            setattr(copy, name, words)
    return copy


def _is_regular(item: Dataset, table: Table) -> bool:
    """Tell whether a LUT's data is what its descriptor states, in the value representations that there are for both."""
    stated = int(numbers(item, "LUTDescriptor")[2])
    words = table.size if stated > 8 else (table.size + 1) // 2
    usual = item["LUTDescriptor"].VR in ("US", "SS") and item["LUTData"].VR in ("US", "OW")
    whole = lut_words(item).size == words and table.entries.size == table.size
    return usual and whole and 8 <= stated == table.bits


def _write_table(copy: Dataset, table: Table, first: int, *, scaled: bool) -> None:
    """Write a LUT whole, with entries of 16 bits."""
    entries = np.pad(table.entries, (0, table.size - table.entries.size), mode="edge")
    if scaled:
        entries = np.rint(entries * (0xFFFF / entries.max()))
    copy.add_new("LUTDescriptor", "SS" if first < 0 else "US", [table.size % 0x10000, first, 16])
    copy.add_new("LUTData", "OW", entries.astype("<u2").tobytes())


def _decimal(value: float) -> DSfloat:
    """Return a number as a decimal string: one of more than sixteen characters is none (PS3.5 6.2)."""
    return DSfloat(value, auto_format=True)


def _is_usable(words: str) -> bool:
    """Tell whether a long string is there and valid; what could not be decoded is not."""
    return bool(words) and is_valid("LO", words) and "\N{REPLACEMENT CHARACTER}" not in words
