"""What systemd is told, and that a manager that does not read holds up nobody."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.engines.systemd import notify


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


def test_it_is_told(manager: socket.socket) -> None:
    assert notify("RELOADING=1", monotonic=True)
    first, second = manager.recv(1000).decode().splitlines()
    assert (first, second.partition("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")


@pytest.mark.usefixtures("manager")
def test_a_manager_that_does_not_read_holds_up_nobody() -> None:
    begin = time.monotonic()
    assert not all(notify("WATCHDOG=1", wait=0) for _ in range(1000))
    assert not notify("READY=1", wait=0.01)
    assert time.monotonic() - begin < 20


def test_without_a_manager_there_is_nobody_to_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not notify("READY=1")
