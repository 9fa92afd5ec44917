"""DICOM audit messages: each holds to the schema of PS3.15 A.5.1 and to its table in A.5.3."""

from __future__ import annotations

import base64
import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from dicom_io import audit_message as message
from dicom_io.audit_message import (
    NODE_AUTHENTICATION,
    NODE_ID,
    URI,
    AuditMessage,
    Instances,
    Origin,
    Outcome,
    Party,
    xml,
)
from tests.support.syslog import schema

NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.timezone(dt.timedelta(hours=1)))
ORIGIN = Origin("host", "St. Elsewhere", NOON)
US, PACS = Party("CXRD", ("CXRD",), "host"), Party("PACS", ("PACS", "OLD"), "10.0.0.1")
TWO = Instances("1.2", "key", "A1", [("1.2.3", "1.2.3.1"), ("1.2.4", "1.2.4.1"), ("1.2.3", "1.2.3.2")])
ALERT = message.security_alert(
    ORIGIN, US, NODE_AUTHENTICATION, (NODE_ID, "10.0.0.1"), "no", Outcome.MINOR_FAILURE, [PACS]
)
ABOUT = (NODE_ID, "10.0.0.1")
EVERY = {
    "start": message.application_activity(ORIGIN, US, starts=True),
    "stop": message.application_activity(ORIGIN, US, starts=False),
    "begin": message.begin_transferring(ORIGIN, US, PACS, TWO),
    "transferred": message.instances_transferred(ORIGIN, PACS, US, TWO, "C"),
    "deleted": message.instances_deleted(ORIGIN, US, TWO, [("why", "age")]),
    "export": message.export(ORIGIN, US, Party("ris", (), "10.0.0.2"), TWO, Outcome.SERIOUS_FAILURE, "down"),
    "query": message.query(ORIGIN, US, PACS, b"\x00\x01", "1.2.5", "1.2.840.10008.1.2"),
    "search": message.query(ORIGIN, US, Party("web", (), "https://pacs/dicom-web"), b"PatientID=x"),
    "alert": message.security_alert(ORIGIN, US, NODE_AUTHENTICATION, ABOUT, "no", Outcome.MINOR_FAILURE, [PACS]),
}


def tree(each: AuditMessage) -> Any:
    root = etree.fromstring(xml(each).encode("ascii"))
    schema().assertValid(root)
    return root


def codes(root: Any, path: str) -> list[str]:
    return [each.get("csd-code") for each in root.findall(path)]


@pytest.mark.parametrize(
    ("name", "event", "action", "outcome", "types", "roles"),
    [
        ("start", "110100", "E", "0", ["110120"], [["110150"]]),
        ("stop", "110100", "E", "0", ["110121"], [["110150"]]),
        ("begin", "110102", "E", "0", [], [["110153"], ["110152"]]),
        ("transferred", "110104", "C", "0", [], [["110153"], ["110152"]]),
        ("deleted", "110103", "D", "0", [], [["110150"]]),
        ("export", "110106", "R", "8", [], [["110153"], ["110152", "110154"]]),
        ("query", "110112", "E", "0", [], [["110153"], ["110152"]]),
        ("search", "110112", "E", "0", [], [["110153"], ["110152"]]),
        ("alert", "110113", "E", "4", ["110126"], [["110150"], []]),
    ],
)
def test_each_message_has_the_codes_of_its_table(
    name: str, event: str, action: str, outcome: str, types: list[str], roles: list[list[str]]
) -> None:
    root = tree(EVERY[name])
    head = root.find("EventIdentification")
    assert codes(head, "EventID") == [event]
    assert codes(head, "EventTypeCode") == types
    assert (head.get("EventActionCode"), head.get("EventOutcomeIndicator")) == (action, outcome)
    assert head.get("EventDateTime") == "2026-01-31T11:00:00.000Z"
    parties = root.findall("ActiveParticipant")
    assert [codes(each, "RoleIDCode") for each in parties] == roles
    assert sum(each.get("UserIsRequestor") == "true" for each in parties) <= 1  # PS3.15 A.5.2
    source = root.find("AuditSourceIdentification")
    assert (source.get("AuditSourceID"), source.get("AuditEnterpriseSiteID")) == ("host", "St. Elsewhere")


def test_instances_stand_in_their_study_and_the_patient_beside_it() -> None:
    study, patient = tree(EVERY["begin"]).findall("ParticipantObjectIdentification")
    assert codes(study, "ParticipantObjectIDTypeCode") == ["110180"]
    assert (study.get("ParticipantObjectID"), study.get("ParticipantObjectTypeCodeRole")) == ("1.2", "3")
    details = study.findall("ParticipantObjectDetail")
    assert [(each.get("type"), base64.b64decode(each.get("value"))) for each in details] == [
        ("ContainsSOPClass", b"1.2.3"),
        ("ContainsSOPClass", b"1.2.4"),
    ]
    described = study.find("ParticipantObjectDescription")
    assert described.find("Accession").get("Number") == "A1"
    assert {
        each.get("UID"): [one.get("UID") for one in each.findall("Instance")] for each in described.findall("SOPClass")
    } == {"1.2.3": ["1.2.3.1", "1.2.3.2"], "1.2.4": ["1.2.4.1"]}
    assert [each.get("NumberOfInstances") for each in described.findall("SOPClass")] == ["2", "1"]
    assert codes(patient, "ParticipantObjectIDTypeCode") == ["2"]
    assert (patient.get("ParticipantObjectID"), patient.get("ParticipantObjectTypeCode")) == ("key", "1")
    assert not patient.findtext("ParticipantObjectName")


def test_queries_are_told_as_they_were_asked() -> None:
    (asked,) = tree(EVERY["query"]).findall("ParticipantObjectIdentification")
    assert (codes(asked, "ParticipantObjectIDTypeCode"), asked.get("ParticipantObjectID")) == (["110181"], "1.2.5")
    assert base64.b64decode(asked.findtext("ParticipantObjectQuery")) == b"\x00\x01"
    assert asked.find("ParticipantObjectDetail").get("type") == "TransferSyntax"
    (searched,) = tree(EVERY["search"]).findall("ParticipantObjectIdentification")
    assert searched.get("ParticipantObjectID") == "https://pacs/dicom-web"


@pytest.mark.parametrize(
    ("address", "kind"), [("10.0.0.1", "2"), ("fe80::1%eth0", "2"), ("pacs.example", "1"), ("https://x/y", "5")]
)
def test_addresses_are_told_apart(address: str, kind: str) -> None:
    party = tree(message.application_activity(ORIGIN, Party("X", (), address), starts=True)).find("ActiveParticipant")
    assert (party.get("NetworkAccessPointID"), party.get("NetworkAccessPointTypeCode")) == (address, kind)


def test_what_is_not_known_is_said_so() -> None:
    nothing = Instances("", "", "", [("", "")])
    study, patient = tree(message.instances_transferred(ORIGIN, Party(""), US, nothing, "R")).findall(
        "ParticipantObjectIdentification"
    )
    assert study.get("ParticipantObjectID") == patient.get("ParticipantObjectID") == "<none>"
    assert "AuditEnterpriseSiteID" not in xml(message.application_activity(Origin("h", "", NOON), US, starts=True))


@given(st.text())
def test_whatever_a_peer_calls_itself_the_message_holds(text: str) -> None:
    party, instances = Party(text, (text,), text), Instances(text, text, text, [(text, text)])
    for each in (
        message.instances_transferred(ORIGIN, party, US, instances, "C", Outcome.SERIOUS_FAILURE, text),
        message.security_alert(ORIGIN, US, NODE_AUTHENTICATION, (URI, text), text, Outcome.MAJOR_FAILURE, [party]),
        message.query(ORIGIN, US, party, text.encode("utf-8", "replace")),
    ):
        written = xml(each)
        assert written.isascii()
        assert written.isprintable()
        tree(each)


def test_printable_text_is_read_as_it_was_written() -> None:
    name = "Müller & <Söhne> \"'"
    root = tree(message.application_activity(ORIGIN, Party(name, (), ""), starts=True))
    assert root.find("ActiveParticipant").get("UserID") == name
