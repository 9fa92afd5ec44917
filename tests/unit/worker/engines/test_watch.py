"""The watch over a process: what its pages say from its start to its end, asked by HTTP."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client.core import Metric

from dicom_io.errors import OutOfResources
from tests.support import databases
from tests.support.orthanc import free_port
from tests.support.scrapes import get, scrape
from worker import metrics
from worker.engines import watch as module
from worker.engines.watch import PORTS, Watch
from worker.ledger.receipts import Ledger
from worker.settings import Settings


class Part:
    """A process that is as a test says."""

    role = "work"

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.halted: list[str] = []

    def stuck(self) -> list[str]:
        return self.halted

    def faults(self) -> list[str]:
        return self.reasons

    def gauges(self) -> Iterator[Metric]:
        yield metrics.gauge("cxrd_test", "A number of the part's own", 3)


@contextmanager
def watching(part: Part, *, started: bool = True, settings: Settings | None = None, **more: Any) -> Iterator[Watch]:
    """Watch over a part on a free port."""
    port = free_port() - PORTS[part.role]
    watch = Watch(part, settings or Settings(health={"port": port}), **more)
    watch.start()
    if started:
        watch.started()
    try:
        yield watch
    finally:
        watch.stop()


@pytest.fixture
def ledger(sqlite_url: str) -> Iterator[Ledger]:
    engine = databases.opened(sqlite_url)
    yield Ledger(engine)
    engine.dispose()


def test_a_process_starts_works_and_ends() -> None:
    with watching(Part(), started=False) as watch:
        assert get(watch.port, "/healthz") == (200, "starting\n")
        assert get(watch.port, "/readyz") == (503, "starting\n")
        assert scrape(watch.port)["cxrd_ready",] == 0
        watch.started()
        assert get(watch.port, "/healthz") == get(watch.port, "/readyz") == (200, "ok\n")
        series = scrape(watch.port)
        assert (series["cxrd_ready",], series["cxrd_test",]) == (1, 3)
        watch.ending()
        assert get(watch.port, "/healthz") == (200, "ending\n")
        assert get(watch.port, "/readyz") == (503, "ending\n")


def test_each_reason_has_a_line_and_steers_no_terminal() -> None:
    part = Part()
    part.reasons = ["no model is loaded", "the peer says \x1b[2J\nok"]
    with watching(part) as watch:
        assert get(watch.port, "/readyz") == (503, "no model is loaded\nthe peer says \\x1b[2J\\nok\n")
        assert get(watch.port, "/healthz") == (200, "ok\n")
        part.halted = ["thread worker-0 has not gone on for 301 s"]
        assert get(watch.port, "/healthz") == (503, "thread worker-0 has not gone on for 301 s\n")


def test_the_database_and_the_store_are_looked_at(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LASTS", 0.0)
    faults: list[Exception] = []

    def check() -> None:
        for fault in faults:
            raise fault

    settings = Settings(storage={"folder": tmp_path}, health={"port": free_port() - PORTS["work"]})
    with watching(Part(), settings=settings, ledger=ledger, check_store=check) as watch:
        assert get(watch.port, "/readyz") == (200, "ok\n")
        assert scrape(watch.port)["cxrd_database_up",] == 1
        faults.append(OutOfResources("less than 500 MB would be free in the storage folder"))
        assert get(watch.port, "/readyz") == (503, "less than 500 MB would be free in the storage folder\n")
        faults[0] = OSError(5, "Input/output error")
        assert get(watch.port, "/readyz") == (503, "the storage folder: Input/output error\n")
        faults.clear()

        def away() -> None:
            raise OutOfResources("the ledger is locked or cannot be reached")

        monkeypatch.setattr(ledger, "reading", away)
        assert get(watch.port, "/readyz") == (503, "the ledger is locked or cannot be reached\n")
        assert get(watch.port, "/healthz") == (200, "ok\n")


def test_a_port_that_is_taken_is_said_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AGAIN", 0.05)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = Settings(health={"port": port - PORTS["work"]})
        with structlog.testing.capture_logs() as log, watching(Part(), settings=settings) as watch:
            assert watch.port == 0
            taken.close()
            while not watch.port:
                pass
            assert get(port, "/healthz") == (200, "ok\n")
    lines = [line for line in log if line["event"] == "health_not_served"]
    assert [(line["port"], line["log_level"]) for line in lines] == [(port, "error")]


def test_none_listens_where_none_is_wanted() -> None:
    with watching(Part(), settings=Settings(health={"port": 0})) as watch:
        assert watch.port == 0
