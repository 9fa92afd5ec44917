"""The radiograph that results are made from: its header, read and checked once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from dicom_io.header.attributes import UNPARSED, integer, is_valid, items, number, numbers, text, values
from dicom_io.header.copied import UNDECLARED, Element, copied_elements, element_of, put
from dicom_io.header.version import FIRST, ImageVersion

# Transfer syntaxes that never are lossless, and the method they stand for (PS3.3 C.7.6.1.1.5.1).
_LOSSY = {"1.2.840.10008.1.2.4.50": "ISO_10918_1", "1.2.840.10008.1.2.4.51": "ISO_10918_1"}
REQUEST = (
    "AccessionNumber",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
)
"""What is passed on of an order, as it came."""
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_GRAYSCALE = (
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "VOILUTSequence", "WindowCenter", "WindowWidth"),
    *("VOILUTFunction", "PhotometricInterpretation"),
)
SLOPE_0 = "Rescale Slope 0 is taken as 1"
"""For the audit."""


class Code(NamedTuple):
    """A coded concept in characters that every character set has (PS3.3 8.8)."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class SopInstance:
    """What a SOP instance is found by; a UID that is absent or cannot be read is empty."""

    study_uid: str
    series_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Request:
    """An order that the image answers: elements as they came, empty where unknown, and codes of what was ordered."""

    elements: tuple[Element, ...]
    procedures: tuple[Code, ...]


@dataclass(frozen=True)
class SourceImage(SopInstance):
    """What results need of a radiograph's header. What is absent or malformed is empty, 0 or None.

    Parameters
    ----------
    rows, columns
        Size in pixels.
    modality
        In capital letters.
    orientation
        Values of Patient Orientation.
    pixel_spacing, imager_spacing
        Between rows and between columns, mm, each above 0. The first is the best that the header has.
    time_zone
        Timezone Offset From UTC, such as ``+0100``.
    burned_in
        NO only where the header says NO: whoever removes identities must look at everything else.
    lossy
        Lossy Image Compression: ``01`` also where the transfer syntax says so.
    procedure
        The first code of what was done.
    placer_order, requested_procedure
        Order number and ID in the image itself, outside of its requests.
    requests
        The orders that it answers.
    grayscale
        The elements of modality LUT, VOI LUT, window and polarity.
    copied
        The elements that every result takes over, see `patient_and_study`.
    loss, orientation_element
        Further elements that some results take over: ratio and method of lossy compression; Patient Orientation.
    remarks
        What was read otherwise than the header says it, in words for log and audit.
    version
        Which of the contents it is that came under its UID.
    """

    rows: int
    columns: int
    modality: str
    orientation: tuple[str, ...]
    pixel_spacing: tuple[float, float] | None
    imager_spacing: tuple[float, float] | None
    time_zone: str
    burned_in: str
    lossy: str
    procedure: Code | None
    placer_order: str
    requested_procedure: str
    requests: tuple[Request, ...]
    grayscale: Dataset
    copied: tuple[Element, ...]
    loss: tuple[Element, ...]
    orientation_element: Element | None
    remarks: tuple[str, ...]
    version: ImageVersion = FIRST

    @property
    def uid_seed(self) -> str:
        """What the UIDs of results are derived from: a later version's are others than the first one's."""
        uid = self.sop_instance_uid
        return uid if self.version.number == 1 else f"{uid}/{self.version.content}"

    @property
    def replacement(self) -> str:
        """What a later version says of itself in words; empty of the first one."""
        number = self.version.number
        return f"This is version {number} of the image; it replaces version {number - 1}." if number > 1 else ""

    def patient_and_study(self) -> Dataset:
        """Return a new data set of patient, study and request, with texts in the bytes that they came in."""
        dataset = Dataset()
        put(dataset, self.copied)
        # With this, pydicom writes elements that it has not decoded as they are.
        character_set = dataset.get("SpecificCharacterSet")
        encodings = convert_encodings(character_set) if character_set else default_encoding
        dataset.set_original_encoding(is_implicit_vr=False, is_little_endian=True, character_encoding=encodings)
        return dataset


def sop_instance(dataset: Dataset) -> SopInstance:
    """Return what a data set is found by."""
    return SopInstance(*_uids(dataset))


def source_image(header: Dataset, version: ImageVersion = FIRST) -> SourceImage:
    """Read what results need of a radiograph's header; it is not changed, and nothing is raised.

    Parameters
    ----------
    header
        The radiograph as received; its pixel data is not needed.
    version
        Which of the contents it is that came under its UID.
    """
    # Elements first: once a value has been decoded, its bytes are gone.
    copied, undeclared = copied_elements(header)
    orientation = element_of(header, "PatientOrientation")
    lossy, loss = _loss(header)
    spacings = [_spacing(header, keyword) for keyword in _SPACINGS]
    zone = text(header, "TimezoneOffsetFromUTC")
    return SourceImage(
        *_uids(header),
        rows=integer(header, "Rows") or 0,
        columns=integer(header, "Columns") or 0,
        modality=text(header, "Modality").upper(),
        orientation=tuple(str(each).strip() for each in values(header, "PatientOrientation")),
        pixel_spacing=next((each for each in spacings if each), None),
        imager_spacing=spacings[1],
        time_zone=zone if re.fullmatch(r"[+-](0\d|1[0-4])[0-5]\d", zone) else "",
        burned_in="NO" if text(header, "BurnedInAnnotation").upper() == "NO" else "YES",
        lossy=lossy,
        procedure=next(iter(_codes(_dataset(copied), "ProcedureCodeSequence")), None),
        placer_order=text(header, "PlacerOrderNumberImagingServiceRequest"),
        requested_procedure=text(header, "RequestedProcedureID"),
        requests=_requests(copied),
        grayscale=_grayscale(header),
        copied=copied,
        loss=loss,
        orientation_element=orientation,
        remarks=_remarks(header, undeclared=undeclared),
        version=version,
    )


def _remarks(header: Dataset, *, undeclared: bool) -> tuple[str, ...]:
    """Return what is read otherwise than the header says it."""
    flat = number(header, "RescaleSlope") == 0.0
    return (*([UNDECLARED] if undeclared else []), *([SLOPE_0] if flat else []))


def _uids(dataset: Dataset) -> tuple[str, str, str, str]:
    study, series = text(dataset, "StudyInstanceUID"), text(dataset, "SeriesInstanceUID")
    return study, series, text(dataset, "SOPClassUID"), text(dataset, "SOPInstanceUID")


def _spacing(header: Dataset, keyword: str) -> tuple[float, float] | None:
    spacing = numbers(header, keyword)
    return (spacing[0], spacing[1]) if len(spacing) == 2 and min(spacing) > 0 else None


def _loss(header: Dataset) -> tuple[str, tuple[Element, ...]]:
    """Return Lossy Image Compression, and what else says how the image was compressed (PS3.3 C.7.6.1.1.5)."""
    syntax = text(getattr(header, "file_meta", None) or Dataset(), "TransferSyntaxUID")
    lossy = text(header, "LossyImageCompression")
    if lossy != "01" and syntax not in _LOSSY:
        return ("00" if lossy == "00" else "", ())
    ratio, method = (element_of(header, f"LossyImageCompression{each}") for each in ("Ratio", "Method"))
    if method is None and syntax in _LOSSY:
        method = DataElement("LossyImageCompressionMethod", "CS", _LOSSY[syntax])
    return "01", tuple(each for each in (ratio, method) if each is not None)


def _codes(dataset: Dataset, keyword: str) -> list[Code]:
    """Return the codes of a sequence that every character set can carry: results' texts are in the source's."""
    keywords = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
    codes = (Code(*(text(item, each) for each in keywords)) for item in items(dataset, keyword))
    return [code for code in codes if _is_plain(code)]


def _is_plain(code: Code) -> bool:
    """Tell whether a code is whole, no longer than DICOM allows, and of plain characters."""
    return all(
        each and len(each) <= longest and each.isascii() and "\\" not in each
        for each, longest in zip(code, (16, 16, 64), strict=True)
    )


def _dataset(copied: tuple[Element, ...]) -> Dataset:
    """Return copies of elements to read from: what is decoded in them stays undecoded where they came from."""
    dataset = Dataset()
    put(dataset, copied)
    return dataset


def _requests(copied: tuple[Element, ...]) -> tuple[Request, ...]:
    """Return the orders that an image answers."""
    dataset = _dataset(copied)
    return tuple(_request(dataset, item) for item in items(dataset, "RequestAttributesSequence"))


def _request(dataset: Dataset, item: Dataset) -> Request:
    """Return one order: what is not known, or no value of its kind, is empty."""
    elements = tuple(_of_order(dataset, item, keyword) for keyword in REQUEST)
    own = element_of(item, "SpecificCharacterSet")  # which its texts are written in
    return Request(
        (*elements, own) if own is not None else elements, tuple(_codes(item, "RequestedProcedureCodeSequence"))
    )


def _of_order(dataset: Dataset, item: Dataset, keyword: str) -> Element:
    """Return one element of an order, taken before anything decodes it; empty where it is no value of its kind."""
    vr, element = dictionary_VR(keyword), element_of(item, keyword)
    holder = item
    if keyword == "AccessionNumber" and (element is None or not element.value):
        element, holder = element_of(dataset, keyword), dataset
    usable = element is not None and is_valid(vr, text(holder, keyword))
    return element if element is not None and usable else DataElement(keyword, vr, "")


def _grayscale(header: Dataset) -> Dataset:
    """Return the elements that say how stored values become grey, those that can be read."""
    dataset = Dataset()
    for keyword in _GRAYSCALE:
        if keyword in header:
            try:
                dataset[keyword] = header[keyword]
            except UNPARSED:
                continue  # counts as absent
    return dataset
