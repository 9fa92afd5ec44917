"""The installed program tells a syslog server what happens: from its start to its end, through outages and kills."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.engine import make_url

from tests.acceptance.program import Service, children, invoke, kill
from tests.support.certificates import certificate
from tests.support.orthanc import free_port
from tests.support.peers import chest, receiving, send, wait_for
from tests.support.syslog import Collector, Received, tls_collector
from worker.settings import load


def transferred(collector: Collector, role: str) -> list[str]:
    """Return the SOP Instance UIDs that were told of, where we are the source (110153) or the destination (110152)."""
    found = []
    for each in collector.messages:
        ours = each.audit.find(f"ActiveParticipant[@UserID='CXRD']/RoleIDCode[@csd-code='{role}']")
        if each.event == "DICOM Instances Transferred" and ours is not None:
            found += [one.get("UID") for one in each.audit.iter("Instance")]
    return found


def test_everything_is_told_through_an_outage_and_kills(tmp_path: Path, serve: Callable[..., Service]) -> None:
    pair, ours = certificate(tmp_path / "server"), certificate(tmp_path / "ours")
    port = free_port()
    audit = {"url": f"tls://127.0.0.1:{port}", "ca_file": str(pair[0])}
    audit |= {"certificate": str(ours[0]), "key": str(ours[1])}
    images = [chest(f"told-{number}") for number in range(8)]
    uids = [str(each.SOPInstanceUID) for each in images]
    with receiving() as receiver:
        pacs = {"name": "pacs", "host": "127.0.0.1", "port": receiver.port, "ae_title": "RECEIVER"}
        service = serve(destinations=[pacs], audit={"syslog": audit})
        with tls_collector(pair, port, ours[0]) as first:
            service.start()
            assert send(service.port, images[:2]) == [0, 0]
            wait_for(lambda: len(transferred(first, "110153")) == 6)
            assert first.events[0] == "Application Activity"
            assert transferred(first, "110152") == uids[:2]
            for child in children(service.pid, "deliver"):  # which tells
                kill(child)
            assert send(service.port, images[2:4]) == [0, 0]
            wait_for(lambda: set(uids[2:4]) <= set(transferred(first, "110152")))
        # Nobody is there. Images are taken and answered all the same.
        assert send(service.port, images[4:6]) == [0, 0]
        wait_for(lambda: len(receiver.objects) == 18)
        wait_for(lambda: service.events("audit_messages_wait"))
        service.kill()
        service.start()
        assert send(service.port, images[6:]) == [0, 0]
        with tls_collector(pair, port, ours[0]) as again:
            wait_for(lambda: set(uids[6:]) <= set(transferred(again, "110152")), 120)
            wait_for(lambda: len({*transferred(first, "110153"), *transferred(again, "110153")}) == 24, 120)
            assert service.stop() == 0
            assert [each.audit.find(".//EventTypeCode").get("csd-code") for each in activities(again)][-1] == "110121"
        told = [*transferred(first, "110152"), *transferred(again, "110152")]
    assert list(dict.fromkeys(told)) == uids, "each, and in the order of receipt; some perhaps twice"
    waits = service.events("audit_messages_wait")
    assert len(waits) <= 2, "one line for each process that found nobody"


def activities(collector: Collector) -> list[Received]:
    return [each for each in collector.messages if each.event == "Application Activity"]


def test_an_audit_that_was_altered_is_an_alert(tmp_path: Path, serve: Callable[..., Service]) -> None:
    pair = certificate(tmp_path / "server")
    with tls_collector(pair) as collector:
        service = serve(audit={"syslog": {"url": collector.url, "ca_file": str(pair[0])}})
        service.start()
        assert send(service.port, [chest()]) == [0]
        wait_for(lambda: len(service.findings("--status", "analysed")) == 1)
        service.stop()
        assert invoke("audit", "verify", "-c", service.config).returncode == 0
        assert "Security Alert" not in collector.events
        database = make_url(load(service.config).ledger_url).database
        assert database is not None
        with sqlite3.connect(database) as connection:
            connection.execute("UPDATE receipt SET calling_ae = 'OTHER'")
        connection.close()
        assert invoke("audit", "verify", "-c", service.config).returncode == 2
        alert = collector.messages[-1]
    assert alert.event == "Security Alert"
    about = alert.audit.find("ParticipantObjectIdentification")
    assert about.get("ParticipantObjectID") == database
    assert alert.audit.find("EventIdentification").get("EventOutcomeIndicator") == "12"
    assert "receipt 1: its rows in receipt" in alert.audit.findtext("EventIdentification/EventOutcomeDescription")
    done = invoke("audit", "verify", "-c", service.config)
    assert done.returncode == 2
    assert "No security alert was sent: audit.syslog 127.0.0.1" in done.stdout
