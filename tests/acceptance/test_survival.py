"""The installed program, killed with work in hand: each accepted image has exactly one result."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.presentation import build_context

from dicom_io.errors import CxrdError
from dicom_io.header.reading import read_header
from tests.acceptance.program import Service, invoke, run
from tests.support.peers import chest, receiving, send, wait_for


def store_until_dead(port: int, datasets: list[pydicom.Dataset], accepted: set[str]) -> None:
    """Send objects on one association as long as it lasts; keep the UIDs of those that were acknowledged."""
    association = AE("SENDER").associate(
        "127.0.0.1", port, contexts=[build_context(datasets[0].SOPClassUID, "1.2.840.10008.1.2.1")]
    )
    if not association.is_established:
        return
    for dataset in datasets:
        try:
            answer = association.send_c_store(dataset)
        except (RuntimeError, ValueError):
            break
        if "Status" not in answer:
            break
        if answer.Status == 0x0000:
            accepted.add(str(dataset.SOPInstanceUID))
    if association.is_established:
        association.release()


def test_nothing_is_lost_and_nothing_is_answered_twice(tmp_path: Path, serve: Callable[..., Service]) -> None:
    datasets = [chest(f"survival-{number}", rows=500, cols=420) for number in range(30)]
    pick = random.Random(4)
    with receiving() as receiver:
        pacs = {"name": "pacs", "host": "127.0.0.1", "port": receiver.port, "ae_title": "RECEIVER"}
        service = serve(destinations=[pacs])
        accepted: set[str] = set()
        waiting = list(datasets)
        kills = 0
        while waiting:
            service.start()
            sender = threading.Thread(target=store_until_dead, args=(service.port, waiting[:12], accepted))
            sender.start()
            if kills < 4:
                time.sleep(pick.uniform(0.3, 1.2))
                service.kill()
                kills += 1
                sender.join()
            else:
                sender.join()
                assert service.stop() == 0
            waiting = [each for each in waiting if str(each.SOPInstanceUID) not in accepted]
        service.start()
        try:
            wait_for(lambda: len(delivered(tmp_path)) == 3 * len(accepted), 90)
        finally:
            assert service.stop() == 0
        assert len(accepted) == len(datasets)
        rows = service.findings()
        assert Counter(row["status"] for row in rows) == {"analysed": len(datasets)}
        assert {row["sop_instance_uid"] for row in rows} == accepted
        # One set for each image, whatever was done twice: a result sent again is the same object to the last byte.
        objects: dict[UID, str] = {}
        for each in receiver.objects:
            known = objects.setdefault(each.SOPInstanceUID, each.to_json())
            assert known == each.to_json()
        answered = Counter(source_of(each) for each in distinct(receiver.objects))
        assert answered == dict.fromkeys(accepted, 3)
        assert invoke("audit", "verify", "-c", service.config).returncode == 0


def source_of(result: pydicom.Dataset) -> str:
    """Return the SOP Instance UID of the radiograph that a capture, a report or a presentation state is about."""
    if "SourceImageSequence" in result:
        return str(result.SourceImageSequence[0].ReferencedSOPInstanceUID)
    if "ReferencedSeriesSequence" in result:
        return str(result.ReferencedSeriesSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID)
    # The report names the radiograph first, then the other results.
    series = result.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    return str(series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)


def distinct(datasets: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    return list({str(each.SOPInstanceUID): each for each in datasets}.values())


def delivered(folder: Path) -> list[str]:
    """Ask the database as a person would, with plain SQL."""
    with sqlite3.connect(f"file:{folder / 'data' / 'ledger.sqlite'}?mode=ro", uri=True) as connection:
        rows = connection.execute("SELECT sop_instance_uid FROM deliveries WHERE state = 'sent'").fetchall()
    connection.close()
    return [row[0] for row in rows]


def test_the_outbox_survives(serve: Callable[..., Service]) -> None:
    """Results wait for a destination that is down, across a kill, and are delivered when it is back."""
    with receiving() as receiver:
        port = receiver.port
    pacs = {"name": "pacs", "host": "127.0.0.1", "port": port, "ae_title": "RECEIVER"}
    service = serve(destinations=[pacs])
    service.start()
    assert send(service.port, [chest("outbox")]) == [0x0000]
    wait_for(lambda: service.events("peer_unavailable"), 30)
    service.kill()
    receiver.start(port)
    service.start()
    wait_for(lambda: len(receiver.objects) == 3, 30)
    assert service.stop() == 0
    receiver.stop()
    assert service.findings()[0]["delivered"] == 3


def test_the_log_knows_no_patient(tmp_path: Path, serve: Callable[..., Service]) -> None:
    service = serve(logging={"level": "debug", "format": "json"})
    service.start()
    secret: dict[str, Any] = {
        "PatientName": "Geheimnis^Gerda",
        "PatientID": "SECRET-471100815",
        "PatientBirthDate": "19330214",
        "ReferringPhysicianName": "Dr^Verborgen",
    }
    good = chest("log", **secret)
    bad = chest("log-bad", **secret)
    bad.PixelData = bytes(len(bad.PixelData))  # it shows nothing
    worse = chest("log-worse", **secret)
    worse.BitsStored = 77
    lateral = chest("log-lateral", **secret)
    lateral.ViewPosition = "Geheimnis"
    send(service.port, [good, bad, worse, lateral])
    wait_for(lambda: len(service.events("processed")) == 4, 30)
    service.stop()
    text = service.log.read_text() + invoke("audit", "list", "-c", service.config).stdout
    for word in ("Geheimnis", "Gerda", "SECRET", "471100815", "19330214", "Verborgen", str(good.SOPInstanceUID)):
        assert word not in service.log.read_text()
    assert "Gerda" not in text
    database = (tmp_path / "data" / "ledger.sqlite").read_bytes()
    for hidden in (b"Gerda", b"SECRET-471100815", b"19330214", b"Verborgen"):
        assert hidden not in database


def test_a_second_daemon_on_the_same_folder_is_refused(tmp_path: Path, serve: Callable[..., Service]) -> None:
    service = serve()
    service.start()
    second = run("serve", "-c", service.config)
    assert second.returncode == 2
    assert second.stderr.strip() == f"cxrd: another cxrd is running on {tmp_path / 'data'}"
    assert service.stop() == 0


def test_without_a_destination_the_results_stay_on_disk(tmp_path: Path, serve: Callable[..., Service]) -> None:
    service = serve()
    service.start()
    assert send(service.port, [chest("alone")]) == [0x0000]
    wait_for(lambda: service.events("processed"), 30)
    service.stop()
    (row,) = service.findings()
    found = []
    for path in (tmp_path / "data" / "objects").rglob("*.dcm"):
        try:
            found.append(str(read_header(path).SOPInstanceUID))
        except CxrdError:  # pragma: no cover - a half-written file would be a failure of the next line
            continue
    assert sorted(found) == sorted([row["sop_instance_uid"], *row["result_uids"].split(" ")])
