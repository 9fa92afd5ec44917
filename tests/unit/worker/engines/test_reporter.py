"""Audit messages of the ledger's events: which, in which order, after an outage, and never twice without need."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from sqlalchemy import delete, text
from structlog.testing import capture_logs

from dicom_io.errors import OutOfResources
from tests.support.certificates import certificate
from tests.support.ledgers import record_finding
from tests.support.orthanc import free_port
from tests.support.peers import wait_for
from tests.support.syslog import Collector, Received, tls_collector, udp_collector
from tests.unit.worker.ledger.test_receipts import FINDING, NEW, RESULT
from worker import logs
from worker.engines.reporter import MSGID, Reporter
from worker.ledger import audit_events
from worker.ledger.audit_events import AuditEvents, begin
from worker.ledger.deliveries import Deliveries
from worker.ledger.receipts import Ledger
from worker.ledger.records import NewNotification
from worker.ledger.retention import Retention
from worker.queue.claim import Queue
from worker.queue.task import Kind
from worker.queue.task_row import TaskRow
from worker.settings import Settings

NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
DESTINATIONS = [
    {"name": "pacs", "host": "10.0.0.5", "port": 104, "ae_title": "PACS1"},
    {"name": "web", "url": "https://user:word@10.0.0.6/dicom-web?token=x"},
    {"name": "hook", "webhook": "https://10.0.0.7/secret-path"},
    {"name": "ris", "hl7": "10.0.0.8:2575"},
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate(tmp_path_factory.mktemp("server"))


@pytest.fixture
def collector(pair: tuple[Path, Path]) -> Iterator[Collector]:
    with tls_collector(pair) as there:
        yield there


def settings_for(url: str, pair: tuple[Path, Path] | None = None, **more: Any) -> Settings:
    syslog = {"url": url, "site": "St. Elsewhere"} | ({"ca_file": pair[0]} if pair else {})
    return Settings.model_validate({"audit": {"syslog": syslog}, "destinations": DESTINATIONS} | more)


def reporter_of(ledger: Ledger, settings: Settings) -> Reporter:
    return Reporter(settings, ledger, Queue(ledger))


def receive(ledger: Ledger, *names: str) -> list[int]:
    return [number for name in names if (number := ledger.receive(replace(NEW, sop_instance_uid=name)))]


def instances(message: Received) -> list[str]:
    return [each.get("UID") for each in message.audit.iter("Instance")]


def parties(message: Received) -> list[tuple[str, str | None]]:
    return [(each.get("UserID"), each.get("NetworkAccessPointID")) for each in message.audit.iter("ActiveParticipant")]


def outcome(message: Received) -> str:
    return str(message.audit.find("EventIdentification").get("EventOutcomeIndicator"))


def action(message: Received) -> str:
    return str(message.audit.find("EventIdentification").get("EventActionCode"))


def deliver(ledger: Ledger, destination: str, *, fails: bool = False) -> None:
    deliveries = Deliveries(ledger, Queue(ledger))
    for each in deliveries.claim(destination, NOON, 10):
        if fails:
            deliveries.mark_failed(each, 0xA900, "it takes no such class", NOON)
        else:
            deliveries.mark_sent(each, 0, NOON)


def test_each_event_makes_its_messages(ledger: Ledger, pair: tuple[Path, Path], collector: Collector) -> None:
    settings = settings_for(collector.url, pair)
    begin(ledger, NOON)
    ledger.record_event("started", NOON, {"role": "serve", "host": "reading-room", "pid": 1, "version": "1"})
    (number,) = receive(ledger, "1.2.3")
    assert receive(ledger, "1.2.3") == []
    results = [replace(RESULT, destinations=("pacs", "web"))]
    told = NewNotification("notification", "hook-1", "c" * 64, 5, destinations=("hook",))
    oru = NewNotification("oru", "oru-1", "d" * 64, 5, destinations=("ris",))
    record_finding(ledger, number, FINDING, results, NOON, notifications=[told, oru])
    deliver(ledger, "pacs")
    deliver(ledger, "web", fails=True)
    deliver(ledger, "hook")
    deliver(ledger, "ris", fails=True)
    with ledger.writing() as connection:
        connection.execute(delete(TaskRow).where(TaskRow.kind == Kind.COMMIT))
    assert Retention(ledger, "").mark([number], ["received"], NOON, "ordered", ordered=True)
    rejected = {"calling_ae": "WHO", "peer_address": "10.9.9.9", "reason": "not among scp.allowed_calling", "count": 3}
    ledger.record_event("association_rejected", NOON, rejected)
    refused = {"sop": "0123456789ab", "calling_ae": "CT1", "bytes": 77, "status": "0xC000", "reason": "is cut short"}
    ledger.record_event("refused", NOON, refused)
    ledger.record_event("destination_down", NOON, {"destination": "pacs", "reason": "cannot be reached"})
    ledger.record_event("destination_down", NOON, {"destination": "pacs", "reason": "has expired", "tls": False})
    ledger.record_event("stopped", NOON, {"role": "serve", "host": "reading-room", "pid": 1, "version": "1"})
    reporter_of(ledger, settings).look()
    by_name: dict[str, list[Received]] = {}
    for each in collector.messages:
        by_name.setdefault(each.event, []).append(each)
        assert (each.priority, each.kind, each.program) == (85, MSGID, "cxrd")
    assert collector.events == [
        "Application Activity",
        "DICOM Instances Transferred",
        "DICOM Instances Transferred",
        "Begin Transferring DICOM Instances",
        "Begin Transferring DICOM Instances",
        "DICOM Instances Transferred",
        "DICOM Instances Transferred",
        "Export",
        "Export",
        "DICOM Instances Accessed",
        "Security Alert",
        "DICOM Instances Transferred",
        "Security Alert",
        "Application Activity",
    ]
    came, again, to_pacs, to_web, not_taken = by_name["DICOM Instances Transferred"]
    assert (action(came), action(again)) == ("C", "R")
    assert parties(came) == [("PACS", "127.0.0.1"), ("CXRD", None)]
    assert instances(came) == instances(again) == ["1.2.3"]
    assert [parties(each) for each in by_name["Begin Transferring DICOM Instances"]] == [
        [("CXRD", None), ("PACS1", "10.0.0.5")],
        [("CXRD", None), ("web", "https://10.0.0.6")],
    ]
    assert (outcome(to_pacs), instances(to_pacs)) == ("0", [RESULT.uid])
    assert (outcome(to_web), to_web.audit.findtext(".//EventOutcomeDescription")) == ("8", "it takes no such class")
    assert (outcome(not_taken), not_taken.audit.findtext(".//EventOutcomeDescription")) == ("8", "is cut short")
    assert (parties(not_taken), instances(not_taken)) == ([("CT1", None), ("CXRD", None)], [])
    kept = {
        each.get("type"): base64.b64decode(each.get("value")).decode()
        for each in not_taken.audit.iter("ParticipantObjectDetail")
    }
    assert kept == {"sop": "0123456789ab", "status": "0xC000", "bytes": "77"}
    assert [parties(each)[1] for each in by_name["Export"]] == [("hook", "https://10.0.0.7"), ("ris", "10.0.0.8")]
    assert [outcome(each) for each in by_name["Export"]] == ["0", "8"]
    whole = "".join(each.words for each in collector.messages)
    assert not {"word", "token", "secret-path", "dicom-web"} & set(whole.replace('"', " ").replace("/", " ").split())
    patients = {
        each.get("ParticipantObjectID")
        for message in collector.messages
        for each in message.audit.findall("ParticipantObjectIdentification[@ParticipantObjectTypeCode='1']")
    }
    assert patients == {"k", "<none>"}  # of what is refused, nothing is told
    assert parties(by_name["Security Alert"][0]) == [("CXRD", None), ("WHO", "10.9.9.9")]
    assert parties(by_name["Security Alert"][1]) == [("CXRD", None), ("PACS1", "10.0.0.5")]
    assert parties(by_name["Application Activity"][0]) == [("CXRD", "reading-room")]


def test_another_content_of_an_instance_is_an_update(
    ledger: Ledger, pair: tuple[Path, Path], collector: Collector
) -> None:
    begin(ledger, NOON)
    receive(ledger, "1.2.3")
    assert ledger.receive(replace(NEW, sha256="e" * 64, content_sha256="e" * 64)) is not None
    reporter_of(ledger, settings_for(collector.url, pair)).look()
    assert [action(each) for each in collector.messages] == ["C", "U"]


def test_searches_are_told_with_the_patients_key(ledger: Ledger, pair: tuple[Path, Path], collector: Collector) -> None:
    begin(ledger, NOON)
    facts = {"dates": "20260101-", "accession_number": "A1", "study_instance_uid": "", "patient_key": "f" * 64}
    ledger.record_event("queried", NOON, facts | {"destination": "pacs", "how": "C-FIND"})
    ledger.record_event("queried", NOON, facts | {"destination": "web", "how": "QIDO-RS"})
    reporter_of(ledger, settings_for(collector.url, pair)).look()
    asked, searched = (
        base64.b64decode(each.audit.findtext(".//ParticipantObjectQuery")) for each in collector.messages
    )
    dataset = dcmread(BytesIO(asked), force=True)
    assert (dataset.QueryRetrieveLevel, dataset.PatientID, dataset.StudyDate) == ("STUDY", "f" * 64, "20260101-")
    assert searched == b"StudyDate=20260101-&PatientID=" + b"f" * 64 + b"&AccessionNumber=A1"


def test_nothing_is_told_of_what_was_before(ledger: Ledger, pair: tuple[Path, Path], collector: Collector) -> None:
    receive(ledger, "1.1")
    settings = settings_for(collector.url, pair)
    begin(ledger, NOON)
    reporter_of(ledger, settings).look()
    assert collector.raw == []
    receive(ledger, "1.2")
    begin(ledger, NOON)  # as at the next start
    reporter_of(ledger, settings).look()
    assert [instances(each) for each in collector.messages] == [["1.2"]]


def test_after_an_outage_everything_comes_in_order(
    ledger: Ledger, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit_events, "AT_ONCE", 7)
    logs.configure("info", "json")
    names = [f"1.2.{number}" for number in range(20)]
    begin(ledger, NOON)
    port, clock = free_port(), [NOON]
    reporter = Reporter(settings_for(f"tls://127.0.0.1:{port}", pair), ledger, Queue(ledger), lambda: clock[0])
    for name in names:
        receive(ledger, name)
        reporter.look()  # nobody is there; then it is put off
        clock[0] += dt.timedelta(seconds=5)
    assert reporter.waiting == 20
    with tls_collector(pair, port) as collector:
        clock[0] += dt.timedelta(seconds=audit_events.REPORT_MOST)
        reporter.look()
        assert [instances(each)[0] for each in collector.messages] == names
        assert collector.connections == 3
        assert reporter.waiting == 0
        receive(ledger, "1.3")
        reporter.look()
        assert instances(collector.messages[-1]) == ["1.3"]
        assert len(collector.raw) == 21
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(each["event"], each["level"]) for each in said] == [
        ("audit_messages_wait", "warning"),
        ("audit_messages_sent_again", "info"),
    ]


def test_what_was_told_and_not_entered_is_told_once_more(
    ledger: Ledger, pair: tuple[Path, Path], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, clock = settings_for(collector.url, pair), [NOON]
    begin(ledger, NOON)
    receive(ledger, "1.2.3")

    def die(*_: object) -> None:
        raise OutOfResources("the process dies")

    with monkeypatch.context() as dying:
        dying.setattr(AuditEvents, "enter", die)
        with pytest.raises(OutOfResources):
            Reporter(settings, ledger, Queue(ledger), lambda: clock[0]).look()
    survivor = Reporter(settings, ledger, Queue(ledger), lambda: clock[0])
    survivor.look()  # the other one may still have it in hand
    assert len(collector.raw) == 1
    clock[0] += dt.timedelta(minutes=1)
    survivor.look()
    assert [instances(each) for each in collector.messages] == [["1.2.3"], ["1.2.3"]]


def test_two_processes_tell_of_each_event_once(
    ledger: Ledger, pair: tuple[Path, Path], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_events, "AT_ONCE", 3)
    settings = settings_for(collector.url, pair)
    both = [reporter_of(ledger, settings), reporter_of(ledger, settings)]
    for each in both:
        each.start()
    names = [f"1.2.{number}" for number in range(30)]
    begin(ledger, NOON)
    try:
        for name in names:
            receive(ledger, name)
        wait_for(lambda: len(collector.raw) >= len(names))
    finally:
        for each in both:
            each.stop()
    assert [instances(each)[0] for each in collector.messages] == names


def test_a_ledger_that_was_restored_goes_on_from_there(
    ledger: Ledger, pair: tuple[Path, Path], collector: Collector, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("info", "json")
    begin(ledger, NOON)
    receive(ledger, "1.1", "1.2", "1.3")
    reporter = reporter_of(ledger, settings_for(collector.url, pair))
    reporter.look()
    with ledger.writing() as connection:
        connection.execute(text("DELETE FROM event WHERE id > 1"))
    reporter.look()
    assert "audit_messages_begin_anew" in capsys.readouterr().err
    (number,) = receive(ledger, "1.4")
    assert number
    reporter.look()
    assert instances(collector.messages[-1]) == ["1.4"]
    assert len(collector.raw) == 4


def test_an_event_that_cannot_be_told_of_holds_up_no_other(
    ledger: Ledger, pair: tuple[Path, Path], collector: Collector, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("info", "json")
    begin(ledger, NOON)
    ledger.record_event("association_rejected", NOON, {"of": "another version"})
    receive(ledger, "1.1")
    reporter_of(ledger, settings_for(collector.url, pair)).look()
    assert [instances(each) for each in collector.messages] == [["1.1"]]
    (line,) = [json.loads(each) for each in capsys.readouterr().err.splitlines()]
    assert (line["event"], line["level"]) == ("audit_message_left_out", "error")


def test_datagrams_and_the_last_look_at_the_end(ledger: Ledger) -> None:
    with udp_collector() as collector:
        reporter = reporter_of(ledger, settings_for(collector.url))
        begin(ledger, NOON)
        reporter.start()
        receive(ledger, "1.1")
        wait_for(lambda: collector.raw)
        ledger.record_event("stopped", NOON, {"role": "serve", "host": "h", "pid": 1, "version": "1"})
        reporter.stop()
        wait_for(lambda: len(collector.raw) == 2)
        assert collector.events == ["DICOM Instances Transferred", "Application Activity"]
        assert not reporter.is_alive()


def test_a_message_that_no_datagram_holds_is_left_out_and_holds_up_no_other(ledger: Ledger) -> None:
    facts = {"destination": "x", "how": "QIDO-RS", "dates": "", "patient_key": "", "study_instance_uid": ""}
    with udp_collector() as collector, capture_logs() as lines:
        reporter = reporter_of(ledger, settings_for(collector.url))
        begin(ledger, NOON)
        ledger.record_event("queried", NOON, facts | {"accession_number": "x" * 70_000})
        ledger.record_event("stopped", NOON, {"role": "serve", "host": "h", "pid": 1, "version": "1"})
        reporter.look()
        wait_for(lambda: collector.events == ["Application Activity"])
    assert [line["event"] for line in lines] == ["audit_message_left_out"]
    assert reporter.waiting == 0


def test_off_by_default(ledger: Ledger) -> None:
    reporter = Reporter(Settings(), ledger, Queue(ledger))
    assert not reporter.is_on
    reporter.start()
    reporter.join(10)
    with ledger.reading() as connection:
        assert connection.scalar(text("SELECT count(*) FROM task")) == 0
