"""The HL7 v2 message that tells of a flagged image: ORU^R01, version 2.5.1, so that a worklist can be re-ordered.

hl7apy (the extra `hl7`) knows the message's structure. Texts are escaped here: it leaves alone what looks escaped.
"""

from __future__ import annotations

import hashlib
import unicodedata
from typing import TYPE_CHECKING, Any

from pydicom.valuerep import PersonName

from dicom_io.errors import InvalidSettings, Unsuitable
from dicom_io.finding import Answer, bounded, readable
from dicom_io.header.attributes import text, values
from dicom_io.objects.common import device_uid
from dicom_io.uids import derived_uid

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from pydicom.dataset import Dataset

    from dicom_io.finding import Finding, ModelIdentity
    from dicom_io.header.source_image import SourceImage
    from worker.ledger.records import Replaced

KIND = "oru"
SUFFIX = ".hl7"
"""Of a message's file in the store."""
NOTICE = "For research use. Not for diagnosis."
_REPLACES = "This answer replaces an earlier one, which was: {}."
_REPLACED = "That one was of study {}, accession number {}."
_VERSION = "2.5.1"
_LOCAL = "99CXRD"
_ABNORMAL = {Answer.FLAGGED: "A", Answer.NOT_FLAGGED: "N"}  # HL7 table 0078, which has no word for the other two
_ESCAPES = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}  # HL7 2.5.1, 2.7.1


def require() -> None:
    """Raise InvalidSettings where hl7apy is not installed."""
    try:
        import hl7apy  # noqa: F401
    except ModuleNotFoundError as error:
        raise InvalidSettings(f"an HL7 destination needs {error.name}: pip install 'cxrd[hl7]'") from error


def control_id(uid: str) -> str:
    """Return the Message Control ID (MSH-10, 20 characters) of the message with this UID: the same each time."""
    return hashlib.sha256(uid.encode()).hexdigest()[:20].upper()


def message(
    source: SourceImage,
    finding: Finding,
    identity: ModelIdentity,
    *,
    created: datetime,
    sender: str,
    processing: str = "P",
    earlier_answer: Answer | None = None,
    replaced: Replaced | None = None,
) -> tuple[str, bytes]:
    """Return a finding's message: its UID, and its bytes in UTF-8, both the same each time.

    MSH, PID, OBR, NTE and one OBX for each thing observed (HL7 2.5.1, 7.3.1). Unlike the webhook's notification it
    names the patient: that is how a receiver finds the order.

    Parameters
    ----------
    source
        The radiograph; patient, accession number and study come from it.
    created
        Message time (MSH-7), aware.
    sender
        Sending application (MSH-3).
    processing
        MSH-11: P for production, T for a test.
    earlier_answer
        What was answered before: a comment says that this answer replaces it.
    replaced
        The earlier version of the image that was so answered: a comment names it.

    Raises
    ------
    Unsuitable
        The source holds something that does not fit into the message.
    """
    from hl7apy.consts import VALIDATION_LEVEL
    from hl7apy.core import Message
    from hl7apy.exceptions import HL7apyException

    uid = derived_uid(source.uid_seed, str(identity), KIND)
    header = source.patient_and_study()
    moment = created.strftime("%Y%m%d%H%M%S%z")
    try:
        # Tolerant: a patient's name may be longer than HL7 foresees, and is better told than left out.
        oru = Message("ORU_R01", version=_VERSION, validation_level=VALIDATION_LEVEL.TOLERANT)
        _header(oru.msh, sender=sender, moment=moment, control=control_id(uid), processing=processing)
        result = oru.add_group("ORU_R01_PATIENT_RESULT")
        _patient(result.add_group("ORU_R01_PATIENT").add_segment("PID"), header)
        order = result.add_group("ORU_R01_ORDER_OBSERVATION")
        _order(order.add_segment("OBR"), source, header, moment)
        comments = [NOTICE] if earlier_answer is None else [NOTICE, _REPLACES.format(earlier_answer.value)]
        if replaced is not None:
            comments += [source.replacement, _REPLACED.format(replaced.study_instance_uid, replaced.accession_number)]
        _fill(order.add_segment("NTE"), {1: "1", 2: "L", 3: [escaped(each) for each in comments]})
        device = _composite(identity.label, "cxrd", device_uid(identity), "ISO")
        for number, fields in enumerate(_observations(source, finding), start=1):
            observation = order.add_group("ORU_R01_OBSERVATION").add_segment("OBX")
            _fill(observation, {1: str(number), **fields, 11: "P", 14: moment, 18: device})
        encoded = oru.to_er7()
    except HL7apyException as error:
        raise Unsuitable(f"no HL7 message can be made of it ({type(error).__name__})") from error
    return uid, (encoded.rstrip("\r") + "\r").encode("utf-8", "replace")


def escaped(value: str) -> str:
    """Return a text as it may stand in a field: separators escaped, control characters left out."""
    plain = (each for each in value if unicodedata.category(each) != "Cc")
    return "".join(_ESCAPES.get(each, each) for each in plain)


def person_names(header: Dataset) -> list[str]:
    """Return the patient's name as XPN, once for each way of writing it: alphabetic, ideographic, phonetic.

    DICOM's order is family, given, middle, prefix, suffix (PS3.5 6.2); HL7's has the suffix before the prefix (2.A.88).
    """
    stated = values(header, "PatientName")
    if not stated or not isinstance(stated[0], PersonName):
        return []
    groups = (stated[0].alphabetic, stated[0].ideographic, stated[0].phonetic)
    names = []
    for group, representation in zip(groups, "AIP", strict=True):
        family, first, middle, prefix, suffix = (str(group or "").strip().split("^") + [""] * 5)[:5]
        if any((family, first, middle, prefix, suffix)):
            names.append(_composite(family, first, middle, suffix, prefix, "", "L", representation))
    return names


def _composite(*components: str) -> str:
    return "^".join(escaped(each.strip()) for each in components).rstrip("^")


def _fill(segment: Any, fields: dict[int, str | list[str]]) -> None:
    """Set fields by their numbers; a list repeats the field."""
    for number, value in fields.items():
        for each in [value] if isinstance(value, str) else value:
            if each:
                segment.add_field(f"{segment.name}_{number}".lower()).value = each


def _header(header: Any, *, sender: str, moment: str, control: str, processing: str) -> None:
    header.msh_3, header.msh_7, header.msh_9 = escaped(sender), moment, "ORU^R01^ORU_R01"
    header.msh_10, header.msh_11, header.msh_12, header.msh_18 = control, processing, _VERSION, "UNICODE UTF-8"


def _patient(segment: Any, header: Dataset) -> None:
    sex = text(header, "PatientSex").upper()
    birth = text(header, "PatientBirthDate")
    identifier = text(header, "PatientID")
    _fill(
        segment,
        {
            1: "1",
            3: _composite(identifier, "", "", text(header, "IssuerOfPatientID"), "PI") if identifier else "",
            5: person_names(header),
            7: birth if birth.isdigit() and len(birth) == 8 else "",
            8: sex if sex in ("M", "F", "O") else "U",
        },
    )


def _order(segment: Any, source: SourceImage, header: Dataset, moment: str) -> None:
    """Fill OBR: the accession number as filler's number and, as radiology has it (IHE RAD-28), as placer field 1."""
    from dicom_io.objects.structured_report import procedure

    accession = escaped(text(header, "AccessionNumber"))
    study_time = text(header, "StudyDate") + text(header, "StudyTime").partition(".")[0]
    code = procedure(source)
    _fill(
        segment,
        {
            1: "1",
            2: escaped(source.placer_order),
            3: accession,
            4: _composite(code.value, code.meaning, code.scheme_designator),
            7: study_time if study_time.isdigit() and len(study_time) in (8, 12, 14) else "",
            18: accession,
            19: escaped(source.requested_procedure),
            22: moment,
            24: "RAD",
            25: "P",
        },
    )


def _observations(source: SourceImage, finding: Finding) -> Iterator[dict[int, str | list[str]]]:
    """Yield OBX-2, 3, 5 and what belongs to them; the first three are the finding, the others what it is about."""
    from dicom_io.objects.structured_report import PNEUMONIA, PROBABILITY, presence

    answer, present = finding.answer, presence(finding)
    abnormal = _ABNORMAL.get(answer, "")
    yield {
        2: "CWE",
        3: _composite(PNEUMONIA.value, PNEUMONIA.meaning, "SCT"),
        5: _composite(present.value, present.meaning, "SCT"),
        8: abnormal,
    }
    yield {
        2: "CWE",
        3: _composite("answer", "Answer", _LOCAL),
        5: _composite(answer.name.lower().replace("_", "-"), answer.sentence, _LOCAL),
        8: abnormal,
    }
    if finding.answered:
        kind, number = _probability(finding.probability)
        yield {
            2: kind,
            3: _composite(PROBABILITY.value, PROBABILITY.meaning, "DCM"),
            5: number,
            6: _composite("1", "no units", "UCUM"),
            7: f"<{bounded(finding.threshold):.4f}",
            8: "H" if answer is Answer.FLAGGED else "",
        }
    details = {
        ("110180", "Study Instance UID", "DCM"): source.study_uid,
        ("SOPInstanceUID", "SOP Instance UID", _LOCAL): source.sop_instance_uid,
        ("caution", "Caution", _LOCAL): finding.caution,
        ("regions", "Regions, the strongest first", _LOCAL): finding.places,
    }
    if finding.answered:
        details["operating-point", "Operating point", _LOCAL] = finding.operating_point
    if finding.answered and finding.prediction_set is not None:
        details["prediction-set", "Conformal prediction set", _LOCAL] = " ".join(finding.prediction_set) or "empty"
    if finding.out_of_distribution is not None:
        details["out-of-distribution", "Out of distribution", _LOCAL] = "yes" if finding.out_of_distribution else "no"
    for code, value in details.items():
        if value:
            yield {2: "ST", 3: _composite(*code), 5: escaped(value)}


def _probability(probability: float) -> tuple[str, str]:
    """Return OBX-2 and OBX-5: a number, or "more than" and "less than" (SN, HL7 2.5.1, 2.A.70) near to 1 and 0."""
    sign, _, number = readable(probability, 4).rpartition(" ")
    return ("SN", _composite(sign, number)) if sign else ("NM", number)
