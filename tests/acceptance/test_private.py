"""What cxrd writes tells nothing of a patient, gives no secret away, and is its user's alone."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE

from tests.acceptance.program import Service, invoke
from tests.support.orthanc import free_port
from tests.support.peers import chest, send, wait_for
from tests.support.syslog import Collector, udp_collector

MARKS = ("Zimtstern", "PID-4711-Q", "19330417", "1933-04-17", "Kaminfeger", "Quittenweg")
"""Name, id, birth date in both forms, physician and address of the patient."""
ACCESSION = "ACC-90210-Z"
"""Stands in the ledger's columns of that name, as documented, and nowhere else."""
SECRET = "Geheimnis7"  # noqa: S105 - of this test


def marked(seed: str) -> Dataset:
    """Return a radiograph of the marked patient."""
    dataset = chest(seed)
    dataset.PatientName = "Zimtstern^Kaminfeger"
    dataset.PatientID = "PID-4711-Q"
    dataset.PatientBirthDate = "19330417"
    dataset.AccessionNumber = ACCESSION
    dataset.ReferringPhysicianName = "Kaminfeger^A"
    dataset.PatientAddress = "Quittenweg 3"
    dataset.StudyDescription = "Zimtstern"
    dataset.PatientComments = "Zimtstern PID-4711-Q"
    return dataset


def spoilt() -> Iterator[tuple[str, Dataset]]:
    """Yield radiographs of the patient that end in each way: left out, failed, refused."""
    yield "analysed", marked("well")
    left_out = marked("left-out")
    left_out.Modality = "MR"
    yield "left out", left_out
    for name, value in (("Rows", 7), ("PhotometricInterpretation", "ZIMTSTERN"), ("BitsStored", 3)):
        failed = marked(f"failed-{name}")
        setattr(failed, name, value)
        yield f"failed by {name}", failed
    odd = marked("odd")
    odd.PatientAge = "Zimtstern"[:4]
    odd.PatientOrientation = ["Zimtstern", "PID-4711-Q"]
    odd.WindowCenter, odd.WindowWidth = "1", "1"
    yield "with odd values", odd
    cut = marked("cut")
    cut.PixelData = cut.PixelData[:100]
    yield "cut short", cut
    other = marked("well")
    other.PatientID = "PID-4711-Q2"
    yield "another version", other
    nameless = marked("nameless")
    nameless.StudyInstanceUID = ""
    yield "without a study", nameless


def written(service: Service) -> dict[str, str]:
    """Return all that the product wrote and that may not tell of a patient, by where it stands."""
    texts = {"log": service.log.read_text()}
    ledger = service.folder / "data" / "ledger.sqlite"
    with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in names:
            rows = connection.execute(f"SELECT * FROM {name}")
            columns = [each[0] for each in rows.description]
            for row in rows:
                for column, value in zip(columns, row, strict=True):
                    if (name, column) != ("receipt", "accession_number"):  # its place
                        texts[f"{name}.{column}"] = f"{texts.get(f'{name}.{column}', '')}\n{value}"
    connection.close()
    for command in ("status", "status --json", "audit refusals", "audit verify", "check"):
        done = invoke(*command.split(), CXRD_CONFIG=str(service.config))
        texts[command] = done.stdout + done.stderr
    return texts


def assert_clean(texts: dict[str, str]) -> None:
    for place, text in texts.items():
        for mark in (*MARKS, ACCESSION, SECRET):
            assert mark.casefold() not in text.casefold(), f"{mark} in {place}"
            assert mark.encode().hex() not in text, f"{mark} in {place}"


def pages(health: int) -> dict[str, str]:
    texts = {}
    for port in range(health, health + 4):
        for page in ("healthz", "readyz", "metrics"):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=10) as answer:
                    texts[f"{port}/{page}"] = answer.read().decode()
            except OSError:
                continue
    return texts


def test_a_marked_patient_leaves_no_trace(serve: Callable[..., Service]) -> None:
    health = free_port()
    gone = {"name": "gone", "host": "127.0.0.1", "port": free_port(), "ae_title": "GONE", "timeout": 1}
    hook = {"name": "hook", "webhook": f"http://u:{SECRET}@127.0.0.1:9/{SECRET}?{SECRET}", "secret": SECRET}
    web = {"name": "web", "url": f"http://127.0.0.1:9/{SECRET}", "username": "u", "password": SECRET, "timeout": 1}
    with udp_collector() as collector:
        _leave_no_trace(serve, health, [gone, hook, web], collector)
    events = collector.events
    assert {"Application Activity", "DICOM Instances Transferred", "Begin Transferring DICOM Instances"} <= set(events)
    told = "".join(each.words for each in collector.messages)
    assert not [mark for mark in (*MARKS, SECRET) if mark.casefold() in told.casefold()]


def _leave_no_trace(serve: Callable[..., Service], health: int, destinations: list[Any], collector: Collector) -> None:
    service = serve(
        logging={"level": "debug"},
        destinations=destinations,
        audit={"syslog": {"url": collector.url}},
        health={"port": health},
        results={"report_not_analysed": True},
    )
    mask = os.umask(0)
    try:
        service.start()
    finally:
        os.umask(mask)
    for _, dataset in spoilt():
        send(service.port, [dataset])
    _abort(service.port)
    wait_for(lambda: not [each for each in service.findings() if each["status"] == "received"], 120)
    ends = {each["status"] for each in service.findings()}
    assert {"analysed", "not_analysed", "failed"} <= ends
    texts = pages(health)
    assert any("metrics" in each for each in texts)
    # A worker that dies in the middle of an image, and a traceback of whatever it was at.
    send(service.port, [marked("in-hand")])
    for process in json.loads(invoke("status", "--json", "-c", service.config).stdout)["processes"]:
        if process["role"] == "work":
            os.kill(process["pid"], signal.SIGABRT)
    wait_for(lambda: not [each for each in service.findings() if each["status"] == "received"], 120)
    service.stop()
    assert_clean(texts | written(service))
    data = service.folder / "data"
    assert _open(data) == []
    assert not [path for path in service.folder.rglob("core*") if path.is_file()]


def _abort(port: int) -> None:
    """Send an object of the patient, and abort the association instead of releasing it."""
    dataset = marked("aborted")
    entity = AE("ABORTER")
    entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port, ae_title="CXRD")
    association.send_c_store(dataset)
    association.abort()


def _open(folder: Path) -> list[Path]:
    """Return what others than the owner may read, of a folder and all that is in it."""
    every = [folder, *folder.rglob("*")]
    return [path for path in every if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077]
