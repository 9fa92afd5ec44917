"""What results take over from a header: valid, and each text in the bytes and the character set that it came in."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any, get_args

import pydicom
import pytest
from pydicom import Dataset
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import Tag

from dicom_io.header.copied import COPIED, UNDECLARED
from dicom_io.header.eligibility import judge
from dicom_io.header.rules import Rules
from dicom_io.header.source_image import source_image
from dicom_io.objects.radiograph import radiograph
from tests.unit.worker.results.test_result_set import PIXELS, answered
from worker.destination_settings import Kind

REQUESTS = Tag("RequestAttributesSequence")
DESCRIPTION = 0x00321060  # Requested Procedure Description
ORDER = 0x00401001  # Requested Procedure ID
KATAKANA = b"\xb7\xae\xb3\xcc\xde"


def element(tag: int, vr: str, value: bytes, form: str = "explicit") -> bytes:
    """Return an element as it stands in a file: explicit or implicit little endian, or explicit big endian."""
    order = ">" if form == "big" else "<"
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if form == "implicit":
        return head + struct.pack("<L", len(value)) + value
    if vr in ("SQ", "UN", "OB", "UT"):
        return head + vr.encode() + struct.pack(f"{order}HL", 0, len(value)) + value
    return head + vr.encode() + struct.pack(f"{order}H", len(value)) + value


def item(*elements: bytes, undefined: bool = False, form: str = "explicit") -> bytes:
    order = ">" if form == "big" else "<"
    body = b"".join(elements)
    if undefined:
        end = struct.pack(f"{order}HHL", 0xFFFE, 0xE00D, 0)
        return struct.pack(f"{order}HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + body + end
    return struct.pack(f"{order}HHL", 0xFFFE, 0xE000, len(body)) + body


def source(
    *items: bytes, tag: int = REQUESTS, form: str = "explicit", vr: str = "SQ", **texts: bytes | None
) -> Dataset:
    """Return a radiograph whose sequence and texts are these bytes, as they would be after reading a file."""
    made = pydicom.dcmread(BytesIO(_file(radiograph(PIXELS, uid_seed="copied", modality="CR"))))
    if items or tag != REQUESTS:
        value = b"".join(items)
        made[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, form == "implicit", form != "big")
    for keyword, text in texts.items():
        if text is None:
            made.pop(keyword, None)
        elif keyword == "SpecificCharacterSet":
            made.SpecificCharacterSet = text.decode().split("\\")
            made.set_original_encoding(False, True, made._character_set)
        else:
            each = Tag(keyword)
            made[each] = RawDataElement(each, "LO", len(text), text, 0, False, True)
    return made


def _file(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def copied(original: Dataset) -> Dataset:
    """Return what is taken over, written and read again."""
    again = source_image(original).patient_and_study()
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, again, implicit_vr=False, little_endian=True)
    buffer.seek(0)
    return pydicom.dcmread(buffer, force=True)


def bytes_of(dataset: Dataset, tag: int) -> bytes | None:
    raw = dataset.get_item(tag)
    return None if raw is None else bytes(raw.value or b"").rstrip(b" \0")


SETS = [
    (None, b"T\xf3rax"),
    (None, "Tórax".encode()),
    (b"ISO_IR 100", b"T\xf3rax"),
    (b"ISO_IR 100", "Tórax – côté".encode()),
    (b"ISO_IR 192", b"T\xf3rax"),
    (b"ISO_IR 192", "Tórax – côté".encode()),
    (b"ISO_IR 13", KATAKANA),
    (b"ISO_IR 144", b"\xb3\xe0\xe3\xd4\xec"),
    (b"ISO_IR 6", b"T\xf3rax"),
    (b"GB18030", "胸部正位".encode("gb18030")),
    (b"GBK", "胸部正位".encode("gbk")),
    (b"\\ISO 2022 IR 87", b"\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),
    (b"\\ISO 2022 IR 149", b"\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7"),
    (b"ISO 2022 IR 6\\ISO 2022 IR 58", b"\x1b$)A\xcd\xf5^\xd0\xa1\xb6\xab"),
    (b"ISO_IR100", b"T\xf3rax"),
    (b"ISO IR 192", "Tórax".encode()),
    (b"FOOBAR", b"T\xf3rax"),
    (b"ISO_IR 100\\ISO_IR 192", b"T\xf3rax"),
    (b"ISO_IR 192", b"\x80\x81\xfe\xff"),
    (b"ISO_IR 100", b" led and trailed  by blanks "),
]


@pytest.mark.parametrize("form", ["explicit", "implicit", "big"])
@pytest.mark.parametrize(("character_set", "text"), SETS)
@pytest.mark.filterwarnings("ignore")  # pydicom's, about sets that it does not know
def test_texts_keep_their_bytes_and_their_character_set(character_set: bytes | None, text: bytes, form: str) -> None:
    text += b" " * (len(text) % 2)
    code = item(
        element(0x00080100, "SH", b"X1", form),
        element(0x00080102, "SH", b"99", form),
        element(0x00080104, "LO", text, form),
        form=form,
    )
    nested = item(
        element(DESCRIPTION, "LO", text, form),
        element(0x00321064, "SQ", code, form),
        element(0x00400007, "LO", text, form),
        form=form,
    )
    original = source(nested, form=form, SpecificCharacterSet=character_set, StudyDescription=text, PatientName=text)
    judge(original, Rules())  # looks at the header first
    made = copied(original)
    assert made.get("SpecificCharacterSet") == original.get("SpecificCharacterSet")
    assert bytes_of(made, 0x00100010) == bytes_of(made, 0x00081030) == text.rstrip()
    (request,) = made.RequestAttributesSequence
    assert bytes_of(request, DESCRIPTION) == bytes_of(request, 0x00400007) == text.rstrip()
    assert bytes_of(request.RequestedProcedureCodeSequence[0], 0x00080104) == text.rstrip()


@pytest.mark.parametrize(("character_set", "text"), SETS)
@pytest.mark.filterwarnings("ignore")
def test_every_result_has_them(character_set: bytes | None, text: bytes) -> None:
    text += b" " * (len(text) % 2)
    nested = item(element(DESCRIPTION, "LO", text), element(ORDER, "SH", b"RP"))
    original = source(nested, SpecificCharacterSet=character_set, StudyDescription=text, PatientName=text)
    made = answered(original, kinds=get_args(Kind))
    assert made.left_out == {}
    for result in made.results:
        again = pydicom.dcmread(BytesIO(result.data))
        assert again.get("SpecificCharacterSet") == original.get("SpecificCharacterSet")
        assert bytes_of(again, 0x00100010) == bytes_of(again, 0x00081030) == text.rstrip()
        (request,) = again.get("RequestAttributesSequence") or again.ReferencedRequestSequence
        assert bytes_of(request, DESCRIPTION) == text.rstrip()


@pytest.mark.filterwarnings("ignore")
def test_a_second_look_at_the_header_finds_the_same_bytes() -> None:
    """Failed images are looked at again, for the report that says so."""
    code = item(
        element(0x00080100, "SH", b"X1"), element(0x00080102, "SH", b"99"), element(0x00080104, "LO", b"T\xf3rax ")
    )
    original = source(code, tag=Tag("ProcedureCodeSequence"), SpecificCharacterSet=b"ISO_IR 192")
    source_image(original)
    assert bytes_of(copied(original).ProcedureCodeSequence[0], 0x00080104) == b"T\xf3rax"


def test_an_item_s_own_character_set_stays_with_it() -> None:
    nested = item(element(0x00080005, "CS", b"ISO_IR 192"), element(DESCRIPTION, "LO", "Tórax".encode()))
    request = copied(source(nested, SpecificCharacterSet=b"ISO_IR 100")).RequestAttributesSequence[0]
    assert request.SpecificCharacterSet == "ISO_IR 192"
    assert request.RequestedProcedureDescription == "Tórax"


def test_and_in_documents_too() -> None:
    nested = item(element(0x00080005, "CS", b"ISO_IR 192"), element(DESCRIPTION, "LO", "Tórax €".encode()))
    other = item(element(DESCRIPTION, "LO", b"T\xf3rax "))
    for character_set in (b"ISO_IR 100", b"ISO_IR 6"):
        made = answered(source(nested, other, SpecificCharacterSet=character_set), kinds=get_args(Kind))
        assert made.left_out == {}
        for result in made.results:
            again = pydicom.dcmread(BytesIO(result.data))
            requests = again.get("RequestAttributesSequence") or again.ReferencedRequestSequence
            assert [bytes_of(each, DESCRIPTION) for each in requests] == ["Tórax €".encode(), b"T\xf3rax"]
            assert [each.get("SpecificCharacterSet") for each in requests] == ["ISO_IR 192", None]


@pytest.mark.parametrize("outer", [None, b"ISO_IR 6"])
def test_what_an_item_declares_is_declared(outer: bytes | None) -> None:
    def remarks(own: bytes) -> tuple[str, ...]:
        nested = item(element(0x00080005, "CS", own), element(DESCRIPTION, "LO", b"T\xf3rax "))
        return source_image(source(nested, SpecificCharacterSet=outer)).remarks

    assert remarks(b"ISO_IR 100") == ()
    assert remarks(b"ISO_IR 192") == (UNDECLARED,)


@pytest.mark.parametrize(
    "name", [b"iso_ir 100", b"UTF-8", b"ISO-8859-1", b"latin1", b"windows-1252", b"ISO_IR 100 (Latin)"]
)
@pytest.mark.filterwarnings("ignore")
def test_a_character_set_that_is_no_code_keeps_no_result_back(name: bytes) -> None:
    original = source(item(element(DESCRIPTION, "LO", b"T\xf3rax ")), SpecificCharacterSet=name)
    made = answered(original, kinds=get_args(Kind))
    assert made.left_out == {}
    for result in made.results:
        again = pydicom.dcmread(BytesIO(result.data))
        assert again.SpecificCharacterSet == name.decode()
    assert source_image(original).remarks == (UNDECLARED,)


UNFIT = {
    "PregnancyStatus": ("US", [b"\1\0\2\0", b"\1", b"\1\0\2"]),
    "BodyPartExamined": ("CS", [b"CHEST\\LUNG", b"chest "]),
    "PatientWeight": ("DS", [b"70\\71 ", b"70kg"]),
    "PatientAge": ("AS", [b"003Y\\004Y ", b"3"]),
}


@pytest.mark.parametrize(("keyword", "value"), [(each, value) for each in UNFIT for value in UNFIT[each][1]])
def test_a_single_value_that_is_none_stays_behind(keyword: str, value: bytes) -> None:
    original = source()
    tag = Tag(keyword)
    original[tag] = RawDataElement(tag, UNFIT[keyword][0], len(value), value, 0, False, True)
    assert keyword not in copied(original)


UNDECLARED_TEXTS = [
    (None, b"T\xf3rax ", True),
    (None, b"Thorax", False),
    (b"", b"T\xf3rax ", True),
    (b"ISO_IR 6", b"T\xf3rax ", True),
    (b"ISO_IR 100", b"T\xf3rax ", False),
    (b"ISO_IR 192", b"T\xf3rax ", True),
    (b"ISO_IR 192", "Tórax".encode(), False),
    (b"GB18030", "胸部正位".encode("gb18030"), False),
    (b"FOOBAR", b"T\xf3rax ", True),
    (b"FOOBAR", b"Thorax", False),
    (None, b"\x1b$B;3ED\x1b(B", True),
    (b"\\ISO 2022 IR 87", b"\x1b$B;3ED\x1b(B", False),
]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("character_set", "text", "expected"), UNDECLARED_TEXTS)
@pytest.mark.filterwarnings("ignore")
def test_a_character_set_that_is_not_declared_is_remarked(
    character_set: bytes | None, text: bytes, expected: bool, nested: bool
) -> None:
    items = [item(element(DESCRIPTION, "LO", text))] if nested else []
    original = source(*items, SpecificCharacterSet=character_set, StudyDescription=b"" if nested else text)
    remarks = source_image(original).remarks
    assert remarks == ((UNDECLARED,) if expected else ())


RP = element(ORDER, "SH", b"RP")
FILLER: list[tuple[str, list[bytes]]] = [
    ("group 0002", [item(element(0x00020010, "UI", b"1.2.840.10008.1.2\0"), RP)]),
    ("group 0000", [item(element(0x00000002, "UI", b"1.2.3\0"), RP)]),
    ("group 0006", [item(element(0x00060010, "LO", b"xx"), RP)]),
    ("group lengths", [item(element(0x00400000, "UL", struct.pack("<L", 8)), RP)]),
    ("private", [item(element(0x00090010, "LO", b"DRAWN "), element(0x00091001, "UN", b"xx"), RP)]),
    ("unknown", [item(element(0x00081FFE, "LO", b"xx"), RP)]),
    ("an empty item", [item(), item(RP), item()]),
    ("a hollow item", [item(element(ORDER, "SH", b"")), item(RP), item(element(ORDER, "SH", b"  "))]),
    ("an item of another group alone", [item(element(0x00020010, "UI", b"1.2.3\0")), item(RP)]),
    ("a character set alone", [item(element(0x00080005, "CS", b"ISO_IR 100")), item(RP)]),
    ("an empty sequence", [item(element(0x00321064, "SQ", b""), RP)]),
    ("a hollow sequence", [item(element(0x00321064, "SQ", item()), RP)]),
    ("a code without meaning", [item(element(0x00321064, "SQ", item(element(0x00080100, "SH", b"X1"))), RP)]),
    ("no number", [item(element(0x00400400, "LT", b""), element(0x00080060, "CS", b"not a code"), RP)]),
    ("two values of one", [item(element(0x00080060, "CS", b"CR\\DX "), RP)]),
    ("a sequence that is text", [item(element(0x00321064, "LO", b"text"), RP)]),
    ("items of undefined length", [item(RP, undefined=True), item(undefined=True)]),
]


@pytest.mark.parametrize(("name", "items"), FILLER, ids=[name for name, _ in FILLER])
def test_what_is_not_valid_stays_behind(name: str, items: list[bytes]) -> None:
    (request,) = copied(source(*items)).RequestAttributesSequence
    allowed = {ORDER, 0x00400400} if name == "no number" else {ORDER}
    assert set(request.keys()) <= allowed
    assert request.RequestedProcedureID == "RP"


NOTHING: list[list[bytes]] = [
    [item()],
    [item(), item()],
    [item(element(0x00020010, "UI", b"1.2.3\0"))],
    [item(element(0x00321064, "SQ", item()))],
    [item(element(ORDER, "SH", b""))],
]


@pytest.mark.parametrize("keyword", [each for each in COPIED if each.endswith("Sequence") and "Breed" not in each])
@pytest.mark.parametrize("items", [*NOTHING, []], ids=str)
def test_a_sequence_without_content_stays_behind(keyword: str, items: list[bytes]) -> None:
    assert keyword not in copied(source(*items, tag=Tag(keyword)))


@pytest.mark.parametrize("keyword", [each for each in COPIED if each.endswith("Sequence") and "Breed" not in each])
@pytest.mark.parametrize("vr", ["LO", "UT", "OB", "UN", "US"])
@pytest.mark.filterwarnings("ignore")
def test_a_sequence_that_is_none_stays_behind(keyword: str, vr: str) -> None:
    assert keyword not in copied(source(b"Drawn Header Anonymizer ", tag=Tag(keyword), vr=vr))


def test_of_an_animal_what_may_be_empty_is() -> None:
    assert len(copied(source(tag=Tag("PatientBreedCodeSequence"))).PatientBreedCodeSequence) == 0


@pytest.mark.parametrize(
    ("number", "expected"),
    [(1, 1), (4, 4), (0x0102, 0x0102)],
)
def test_numbers_have_our_byte_order(number: int, expected: int) -> None:
    original = source()
    tag = Tag("PregnancyStatus")
    original[tag] = RawDataElement(tag, "US", 2, struct.pack(">H", number), 0, False, False)
    assert copied(original).PregnancyStatus == expected


def test_an_odd_length_is_filled_up() -> None:
    original = source(item(element(ORDER, "SH", b"RP1"), element(0x00400009, "SH", b"S")), PatientID=b"odd")
    image = source_image(original).patient_and_study()
    assert all(len(each.value or b"") % 2 == 0 for each in image.elements() if isinstance(each, RawDataElement))
    assert copied(original).RequestAttributesSequence[0].RequestedProcedureID == "RP1"


def test_items_that_pydicom_has_decoded_are_encoded_again() -> None:
    request = Dataset()
    request.RequestedProcedureDescription, request.ScheduledProcedureStepID = "Thorax prüfen", "S1"
    request.RequestedProcedureCodeSequence = [Dataset()]
    request.RequestedProcedureCodeSequence[0].CodeMeaning = "no value"
    original = source(SpecificCharacterSet=b"ISO_IR 192")
    original[REQUESTS] = DataElement(REQUESTS, "SQ", [request, Dataset()])
    (made,) = copied(original).RequestAttributesSequence
    assert made.RequestedProcedureDescription == "Thorax prüfen"
    assert set(made.keys()) == {0x00321060, 0x00400009}


def hostile() -> list[Any]:
    return [b"\xfe\xff\x00\xe0\xff\xff\xff\x7f", b"\xfe\xff", b"\0" * 9, item(b"\x40\x00\x01"), item(RP)[:-1]]


@pytest.mark.parametrize("value", hostile())
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_parsed_raises_nothing(value: bytes) -> None:
    image = source_image(source(value))
    assert image.remarks == ()
    assert "StudyInstanceUID" in image.patient_and_study()
