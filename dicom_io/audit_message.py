"""DICOM audit messages: what happened, who took part, and which study and patient it was about, as XML (PS3.15 A.5).

The schema is that of PS3.15 A.5.1. The functions of this module make the messages of A.5.3 that a node like ours has to
tell of; who asks for one hands over names and UIDs, and this module knows the codes (PS3.16 D, CIDs 400 to 405).
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_address
from xml.etree import ElementTree as ET

NOBODY = "<none>"
"""Stands where an identifier is demanded and there is none, as in IHE's ATNA."""


@dataclass(frozen=True)
class Code:
    """A coded value."""

    value: str
    meaning: str
    scheme: str = "DCM"


class Outcome(IntEnum):
    """How an event ended (PS3.15 A.5.1)."""

    SUCCESS = 0
    MINOR_FAILURE = 4  # what was attempted was prevented, or is tried again
    SERIOUS_FAILURE = 8  # what was to be done is not done
    MAJOR_FAILURE = 12  # security may have been breached


APPLICATION_START, APPLICATION_STOP = Code("110120", "Application Start"), Code("110121", "Application Stop")
NODE_AUTHENTICATION = Code("110126", "Node Authentication")
URI = Code("12", "URI", "RFC-3881")
NODE_ID = Code("110182", "Node ID")

_APPLICATION_ACTIVITY = Code("110100", "Application Activity")
_BEGIN_TRANSFERRING = Code("110102", "Begin Transferring DICOM Instances")
_INSTANCES_ACCESSED = Code("110103", "DICOM Instances Accessed")
_INSTANCES_TRANSFERRED = Code("110104", "DICOM Instances Transferred")
_EXPORT = Code("110106", "Export")
_QUERY = Code("110112", "Query")
_SECURITY_ALERT = Code("110113", "Security Alert")
_APPLICATION = Code("110150", "Application")
_DESTINATION = Code("110152", "Destination Role ID")
_SOURCE = Code("110153", "Source Role ID")
_MEDIA = Code("110154", "Destination Media")
_MEDIA_URI = Code("110037", "URI")
_STUDY_UID = Code("110180", "Study Instance UID")
_CLASS_UID = Code("110181", "SOP Class UID")
_PATIENT_NUMBER = Code("2", "Patient Number", "RFC-3881")


@dataclass(frozen=True)
class Party:
    """A node, a process or a server that takes part.

    Attributes
    ----------
    name
        Its AE title, or what else it is known by.
    ae_titles
        Those that it has; none if it speaks no DICOM.
    address
        Its IP address or host name, or nothing.
    """

    name: str
    ae_titles: tuple[str, ...] = ()
    address: str = ""


@dataclass(frozen=True)
class Instances:
    """SOP instances of one study of one patient.

    Attributes
    ----------
    patient
        What the audit calls the patient; empty if it names none.
    uids
        By SOP class, the instances.
    """

    study: str
    patient: str
    accession: str
    uids: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Origin:
    """What all messages of one source have in common: it, its site (or nothing), and when the event was."""

    source: str
    site: str
    at: dt.datetime


@dataclass(frozen=True)
class _Role:
    """A party with what it does in an event."""

    party: Party
    roles: tuple[Code, ...]
    is_requestor: bool = False
    media: Code | None = None


@dataclass(frozen=True)
class _Subject:
    """What an event is about: a participant object."""

    number: str
    kind: Code
    type_code: int  # 1 a person, 2 a system object
    role: int
    query: bytes | None = None
    details: Sequence[tuple[str, str]] = ()
    instances: Instances | None = None


@dataclass(frozen=True)
class AuditMessage:
    """One message; `xml` writes it."""

    origin: Origin
    event: Code
    action: str
    parties: Sequence[_Role]
    subjects: Sequence[_Subject] = ()
    types: Sequence[Code] = ()
    outcome: Outcome = Outcome.SUCCESS
    description: str = ""


# ---- the messages of PS3.15 A.5.3 ------------------------------------------------------------------------------------


def application_activity(origin: Origin, application: Party, *, starts: bool) -> AuditMessage:
    """Return the message that an application starts or stops (A.5.3.1)."""
    type_ = APPLICATION_START if starts else APPLICATION_STOP
    return AuditMessage(origin, _APPLICATION_ACTIVITY, "E", [_Role(application, (_APPLICATION,))], types=[type_])


def begin_transferring(origin: Origin, source: Party, destination: Party, instances: Instances) -> AuditMessage:
    """Return the message that instances are about to be sent (A.5.3.3)."""
    classes = sorted({sop_class for sop_class, _ in instances.uids})
    subjects = _about(instances, [("ContainsSOPClass", each) for each in classes])
    return AuditMessage(origin, _BEGIN_TRANSFERRING, "E", _between(source, destination), subjects)


def instances_transferred(
    origin: Origin,
    source: Party,
    destination: Party,
    instances: Instances,
    action: str,
    outcome: Outcome = Outcome.SUCCESS,
    description: str = "",
    details: Sequence[tuple[str, str]] = (),
) -> AuditMessage:
    """Return the message that instances were sent, or could not be (A.5.3.7).

    Parameters
    ----------
    action
        ``C`` if the receiver had none of them, ``R`` if it had them or the reporter cannot know, ``U`` if it had others
        that these replace.
    details
        Names and values, which are about the study as a whole.
    """
    about, parties = _about(instances, details), _between(source, destination)
    return AuditMessage(
        origin, _INSTANCES_TRANSFERRED, action, parties, about, outcome=outcome, description=description
    )


def instances_deleted(
    origin: Origin, by: Party, instances: Instances, details: Sequence[tuple[str, str]]
) -> AuditMessage:
    """Return the message that files of instances were deleted (A.5.3.6, DICOM Instances Accessed)."""
    return AuditMessage(
        origin, _INSTANCES_ACCESSED, "D", [_Role(by, (_APPLICATION,), True)], _about(instances, details)
    )


def export(
    origin: Origin, source: Party, receiver: Party, instances: Instances, outcome: Outcome, description: str = ""
) -> AuditMessage:
    """Return the message that findings left for a system that is no DICOM node (A.5.3.4)."""
    media = _Role(receiver, (_DESTINATION, _MEDIA), media=_MEDIA_URI)
    parties = [_Role(source, (_SOURCE,), True), media]
    return AuditMessage(origin, _EXPORT, "R", parties, _about(instances), outcome=outcome, description=description)


def query(
    origin: Origin, source: Party, destination: Party, what: bytes, sop_class: str = "", transfer_syntax: str = ""
) -> AuditMessage:
    """Return the message that a search was sent (A.5.3.10).

    Parameters
    ----------
    what
        The data set that was asked for, encoded in `transfer_syntax`; without a SOP class what else was sent.
    sop_class
        Of the query; empty where the search was no DICOM query, and `destination.address` is then the URI asked.
    """
    if sop_class:
        details = [("TransferSyntax", transfer_syntax)]
        subject = _Subject(sop_class, _CLASS_UID, 2, 3, query=what, details=details)
    else:
        subject = _Subject(destination.address or NOBODY, URI, 2, 24, query=what)
    return AuditMessage(origin, _QUERY, "E", _between(source, destination), [subject])


def security_alert(
    origin: Origin,
    reporter: Party,
    kind: Code,
    subject: tuple[Code, str],
    description: str,
    outcome: Outcome,
    performers: Iterable[Party] = (),
) -> AuditMessage:
    """Return an alert (A.5.3.11).

    Parameters
    ----------
    subject
        What it is about: the kind of its identifier (`NODE_ID`, `URI`), and this.
    """
    kind_of, number = subject
    about = _Subject(number or NOBODY, kind_of, 2, 13, details=[("Alert Description", description)])
    parties = [_Role(reporter, (_APPLICATION,), True), *(_Role(each, ()) for each in performers)]
    return AuditMessage(origin, _SECURITY_ALERT, "E", parties, [about], [kind], outcome, description)


def _between(source: Party, destination: Party) -> list[_Role]:
    return [_Role(source, (_SOURCE,), True), _Role(destination, (_DESTINATION,))]


def _about(instances: Instances, details: Sequence[tuple[str, str]] = ()) -> list[_Subject]:
    study = _Subject(instances.study or NOBODY, _STUDY_UID, 2, 3, details=details, instances=instances)
    return [study, _Subject(instances.patient or NOBODY, _PATIENT_NUMBER, 1, 1)]


# ---- XML -------------------------------------------------------------------------------------------------------------


def xml(message: AuditMessage) -> str:
    """Return a message as XML in ASCII: other characters are written as references, and those that XML forbids as `?`.

    An element that may hold a patient's name holds none: the audit knows none.
    """
    origin = message.origin
    root = ET.Element("AuditMessage")
    event = ET.SubElement(
        root,
        "EventIdentification",
        EventActionCode=message.action,
        EventDateTime=origin.at.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        EventOutcomeIndicator=str(int(message.outcome)),
    )
    _code(event, "EventID", message.event)
    for each in message.types:
        _code(event, "EventTypeCode", each)
    if message.description:
        ET.SubElement(event, "EventOutcomeDescription").text = _clean(message.description)
    for role in message.parties:
        _add_party(root, role)
    site = {"AuditEnterpriseSiteID": _clean(origin.site)} if origin.site else {}
    source = ET.SubElement(root, "AuditSourceIdentification", site | {"AuditSourceID": _clean(origin.source)})
    ET.SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})  # an application server
    for subject in message.subjects:
        _add_subject(root, subject)
    body: bytes = ET.tostring(root, encoding="us-ascii")
    return f'<?xml version="1.0" encoding="UTF-8"?>{body.decode("ascii")}'


def _add_party(root: ET.Element, role: _Role) -> None:
    party = role.party
    values = {"UserID": _clean(party.name) or NOBODY, "UserIsRequestor": str(role.is_requestor).lower()}
    if party.ae_titles:
        values["AlternativeUserID"] = f"AETITLES={';'.join(map(_clean, party.ae_titles))}"
    if party.address:
        values |= {"NetworkAccessPointID": _clean(party.address), "NetworkAccessPointTypeCode": _kind_of(party.address)}
    element = ET.SubElement(root, "ActiveParticipant", values)
    for each in role.roles:
        _code(element, "RoleIDCode", each)
    if role.media is not None:
        _code(ET.SubElement(element, "MediaIdentifier"), "MediaType", role.media)


def _kind_of(address: str) -> str:
    """Return whether an address is a host's name (1), an IP address (2) or a URI (5)."""
    if "://" in address:
        return "5"
    try:
        ip_address(address.partition("%")[0])
    except ValueError:
        return "1"
    return "2"


def _add_subject(root: ET.Element, subject: _Subject) -> None:
    values = {
        "ParticipantObjectID": _clean(subject.number),
        "ParticipantObjectTypeCode": str(subject.type_code),
        "ParticipantObjectTypeCodeRole": str(subject.role),
    }
    element = ET.SubElement(root, "ParticipantObjectIdentification", values)
    _code(element, "ParticipantObjectIDTypeCode", subject.kind)
    if subject.query is None:
        ET.SubElement(element, "ParticipantObjectName")  # the schema demands it, or a query
    else:
        ET.SubElement(element, "ParticipantObjectQuery").text = base64.b64encode(subject.query).decode()
    for name, value in subject.details:
        detail = {"type": name, "value": base64.b64encode(_clean(value).encode()).decode()}
        ET.SubElement(element, "ParticipantObjectDetail", detail)
    if subject.instances is not None:
        _describe(element, subject.instances)


def _describe(element: ET.Element, instances: Instances) -> None:
    description = ET.SubElement(element, "ParticipantObjectDescription")
    if instances.accession:
        ET.SubElement(description, "Accession", Number=_clean(instances.accession))
    by_class: dict[str, list[str]] = {}
    for sop_class, uid in instances.uids:
        by_class.setdefault(sop_class, []).append(uid)
    for sop_class, uids in by_class.items():
        values = {"NumberOfInstances": str(len(uids))} | ({"UID": _clean(sop_class)} if sop_class else {})
        of_class = ET.SubElement(description, "SOPClass", values)
        for uid in uids:
            ET.SubElement(of_class, "Instance", UID=_clean(uid))


def _code(parent: ET.Element, name: str, code: Code) -> None:
    values = {"csd-code": code.value, "codeSystemName": code.scheme, "originalText": code.meaning}
    ET.SubElement(parent, name, values)


def _clean(text: str) -> str:
    """Return a text without what XML 1.0 does not allow, or what would be another text after reading."""
    return "".join(each if each.isprintable() and each not in "\ufffe\uffff" else "?" for each in text)
