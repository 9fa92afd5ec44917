"""The processes of `cxrd serve`: each by itself, none in the way of another."""

from __future__ import annotations

import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.acceptance.program import Service, children
from tests.support.certificates import certificate
from tests.support.orthanc import free_port
from tests.support.peers import chest, receiving, send, wait_for
from tests.unit.worker.ledger.test_receipts import received
from worker.engines.receiver import Receiver
from worker.engines.workers import Workers
from worker.ledger.database import open_ledger
from worker.settings import Settings

# pydicom itself imports the codecs that are installed; nothing is decoded with them here.
HEAVY = ("torch", "onnxruntime", "cv2", "highdicom", "matplotlib")


@pytest.mark.parametrize("role", ["receiver", "couriers", "supervisor"])
def test_what_reads_no_image_knows_no_model_and_no_codec(role: str) -> None:
    program = f"import sys, worker.engines.{role}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & set(HEAVY) == set()
    if role == "supervisor":  # a process that only minds others stays small
        assert set(done.stdout.split()) & {"numpy", "pydicom", "pynetdicom"} == set()


def test_a_process_that_dies_starts_again_and_its_work_is_done(tmp_path: Path, serve: Callable[..., Service]) -> None:
    with receiving() as receiver:
        pacs = {"name": "pacs", "host": "127.0.0.1", "port": receiver.port, "ae_title": "RECEIVER"}
        service = serve(destinations=[pacs])
        service.start()
        for role in ("work", "deliver", "receive"):
            wait_for(lambda: len(service.events("ready")) >= 2, 180)
            before = len(receiver.objects)
            (child,) = children(service.pid, role)
            if role == "receive":
                listening = len(service.events("listening"))
                service.send(signal.SIGKILL, child)
                wait_for(lambda: len(service.events("listening")) > listening, 60)  # noqa: B023 - called at once
                assert send(service.port, [chest(f"after-{role}")]) == [0x0000]
            else:
                assert send(service.port, [chest(f"before-{role}")]) == [0x0000]
                service.send(signal.SIGKILL, child)
            wait_for(lambda: len(receiver.objects) >= before + 3, 90)  # noqa: B023
            assert service.events("child_died")[-1]["role"] == role
        assert service.stop() == 0


def test_images_are_taken_in_while_no_model_loads(tmp_path: Path, serve: Callable[..., Service]) -> None:
    service = serve(model={"folder": str(tmp_path / "absent")})
    service.start()
    assert send(service.port, [chest("waiting")]) == [0x0000]
    wait_for(lambda: service.events("model_not_loaded"), 120)
    assert [row["status"] for row in service.findings()] == ["received"]
    settings = yaml.safe_load(service.config.read_text())
    settings["model"] = {"out_of_distribution": "warn"}
    service.config.write_text(yaml.safe_dump(settings))
    service.send(signal.SIGHUP)  # the worker takes up the settings, and receiving goes on
    wait_for(lambda: [row["status"] for row in service.findings()] == ["analysed"], 180)
    assert service.events("settings_taken_up")[-1]["changed"] == ["model"]
    assert service.stop() == 0


def test_faulty_settings_are_not_taken_up(tmp_path: Path, serve: Callable[..., Service]) -> None:
    service = serve()
    service.start()
    # Until then a child may still read the file, and would end all for what is in it.
    wait_for(lambda: any(line.get("role") == "serve" for line in service.events("ready")), 180)
    before = service.config.read_text()
    service.config.write_text("scp: {prt: 1}")
    service.send(signal.SIGHUP)
    wait_for(lambda: service.events("settings_not_taken_up"), 30)
    assert send(service.port, [chest("still there")]) == [0x0000]
    service.config.write_text(before)
    assert service.stop() == 0


def test_a_child_that_died_starts_with_the_settings_of_the_others(
    tmp_path: Path, serve: Callable[..., Service]
) -> None:
    """Whatever somebody has written into the file meanwhile: it counts when all take it up."""
    service = serve()
    service.start()
    wait_for(lambda: any(line.get("role") == "serve" for line in service.events("ready")), 180)
    before = service.config.read_text()
    settings = yaml.safe_load(before)
    settings["storage"]["folder"] = str(tmp_path / "elsewhere")
    service.config.write_text(yaml.safe_dump(settings))
    (child,) = children(service.pid, "work")
    service.send(signal.SIGKILL, child)
    wait_for(lambda: len([line for line in service.events("ready") if "model" in line]) == 2, 180)
    assert not (tmp_path / "elsewhere").exists()
    service.config.write_text(before)
    assert send(service.port, [chest("still one")]) == [0x0000]
    wait_for(lambda: [row["status"] for row in service.findings()] == ["analysed"], 120)
    assert service.stop() == 0


def test_a_process_that_runs_alone_starts_anew_with_new_settings(serve: Callable[..., Service]) -> None:
    service = serve()
    service.start("deliver", "delivering")
    settings = yaml.safe_load(service.config.read_text())
    settings["destinations"] = [{"name": "other", "host": "127.0.0.1", "port": 1, "ae_title": "OTHER"}]
    service.config.write_text(yaml.safe_dump(settings))
    service.send(signal.SIGHUP)
    wait_for(lambda: len(service.events("delivering")) == 2, 60)
    assert service.events("delivering")[-1]["destinations"] == ["other"]
    service.config.unlink()
    service.send(signal.SIGHUP)
    wait_for(lambda: service.events("settings_not_taken_up"), 60)
    assert service.stop() == 0


def test_a_long_backlog_does_not_delay_the_start(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"scp": {"port": 0}, "storage": {"folder": tmp_path / "data", "min_free_mb": 0}, "model": {"folder": "absent"}}
    )
    ledger = open_ledger(settings)
    received(ledger)
    with ledger.writing() as connection:
        for table, key in (("receipt", "sop_instance_uid"), ("task", "subject")):
            columns = connection.exec_driver_sql(f"PRAGMA table_info({table})")
            names = [name for (_, name, *_) in columns if name != "id"]
            values = ", ".join("n" if name == key else name for name in names)
            connection.exec_driver_sql(
                "WITH RECURSIVE c(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM c WHERE n < 100000)"
                f" INSERT INTO {table} ({', '.join(names)}) SELECT {values} FROM {table}, c WHERE id = 1"
            )
    begin = time.process_time()
    receiver, workers = Receiver(settings), Workers(settings)
    receiver.start()
    taken = time.process_time() - begin
    receiver.stop()
    workers.stop()
    assert taken < 2


def test_children_end_with_their_supervisor(serve: Callable[..., Service]) -> None:
    service = serve()
    service.start()
    pids = [pid for role in ("receive", "work", "deliver") for pid in children(service.pid, role)]
    assert len(pids) == 3
    service.kill()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 60)


def test_a_renewed_certificate_is_taken_up_on_sighup(tmp_path: Path, serve: Callable[..., Service]) -> None:
    """Nothing has changed in the settings: the receiver hears of it all the same."""
    (old, key), new, port = certificate(tmp_path / "ours"), certificate(tmp_path / "new"), free_port()
    tls = {"port": port, "certificate": str(old), "key": str(key), "clients": "none"}
    service = serve(scp={"tls": tls})
    service.start()
    first = ssl.get_server_certificate(("127.0.0.1", port))
    for source, target in zip(new, (old, key), strict=True):
        shutil.copyfile(source, target)
    service.send(signal.SIGHUP)
    wait_for(lambda: service.events("certificate_taken_up"), 120)
    assert first != ssl.get_server_certificate(("127.0.0.1", port)) == new[0].read_text()
    old.write_text("no certificate")
    service.send(signal.SIGHUP)
    wait_for(lambda: service.events("certificate_not_taken_up"), 60)
    assert ssl.get_server_certificate(("127.0.0.1", port)) == new[0].read_text()
    assert service.stop() == 0
