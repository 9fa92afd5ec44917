"""The installed program, watched: what systemd hears, what the pages of each process say, and `cxrd status`."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.acceptance.program import Service, children, invoke
from tests.support.peers import chest, receiving, send, wait_for
from tests.support.scrapes import free_ports, get, scrape
from worker.cli import status
from worker.engines.watch import PORTS


class Manager:
    """A service manager that only listens."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.01)
        self.messages: list[str] = []

    def heard(self, message: str) -> int:
        """Return how often it was told something."""
        try:
            while True:
                self.messages.append(self._socket.recv(4096).decode())
        except TimeoutError:
            pass
        return sum(message in each.splitlines() for each in self.messages)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    path = tmp_path / "notify"
    listening = Manager(path)
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    yield listening
    listening.close()


def test_a_service_is_watched_from_its_start_to_its_end(
    tmp_path: Path, serve: Callable[..., Service], manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = free_ports(len(PORTS))
    with receiving() as receiver:
        pacs = {"name": "pacs", "host": "127.0.0.1", "port": receiver.port, "ae_title": "RECEIVER"}
        service = serve(destinations=[pacs], health={"port": base}, worker={"threads": 1})
        service.start()
        wait_for(lambda: manager.heard("READY=1"), 300)
        watchdogs = manager.heard("WATCHDOG=1")
        for place in PORTS.values():
            assert get(base + place, "/healthz") == (200, "ok\n")
            assert get(base + place, "/readyz") == (200, "ok\n")
        # By default everything listens on the loopback address alone, which is one of this machine's.
        for port in (service.port, *(base + place for place in PORTS.values())):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.2", port), timeout=30)
        assert send(service.port, [chest("watched")], calling="MODALITY") == [0x0000]
        wait_for(lambda: scrape(base + PORTS["deliver"])["cxrd_deliveries_total", "pacs", "sent"] == 3, 120)
        assert scrape(base + PORTS["receive"])["cxrd_received_total", "MODALITY"] == 1
        work = scrape(base + PORTS["work"])
        assert sum(value for key, value in work.items() if key[0] == "cxrd_answered_total") == 1
        assert (work["cxrd_model_loaded",], work["cxrd_processes", "receive"]) == (1, 1)
        wait_for(lambda: manager.heard("WATCHDOG=1") > watchdogs, 30)
        well = invoke("status", "-c", service.config)
        assert (well.returncode, "all is well" in well.stdout) == (0, True), well.stdout
        # A process that is killed shows until it is back.
        (child,) = children(service.pid, "work")
        service.send(signal.SIGKILL, child)
        wait_for(lambda: get(base, "/readyz")[0] == 503, 60)
        wait_for(lambda: get(base, "/readyz")[0] == 200, 300)
        assert scrape(base)["cxrd_child_deaths_total", "work"] == 1
        service.send(signal.SIGHUP)
        wait_for(lambda: manager.heard("RELOADING=1"), 60)
        wait_for(lambda: manager.heard("READY=1") == 2, 60)
        assert service.stop() == 0
    assert manager.heard("STOPPING=1") == 1
    ended = invoke("status", "--json", "-c", service.config)
    report = json.loads(ended.stdout)
    assert ended.returncode == 1
    assert report["wrong"] == ["receive does not run", "work does not run", "deliver does not run"]
    assert report["today"] == {"analysed": 1}
    assert report["destinations"][0]["today"] == {"sent": 3}
    # --watch shows the same again and again, until Ctrl-C.
    looks: list[float] = []

    def interrupt(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(status, "time", SimpleNamespace(sleep=interrupt))
    live = invoke("status", "--watch", "--json", "-c", service.config)
    assert (live.returncode, looks) == (0, [status.EVERY] * 2)
    assert [json.loads(line)["wrong"] for line in live.stdout.splitlines()] == [report["wrong"]] * 2
    looks.clear()
    assert "3 things are wrong" in invoke("status", "--watch", "-c", service.config).stdout
