"""The bells between processes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.queue.wake import FOLDER, Bell, ring


@pytest.fixture
def bell(tmp_path: Path) -> Iterator[Bell]:
    made = Bell(tmp_path, "work")
    yield made
    made.close()


def test_a_ring_is_heard_once_and_by_all_of_a_role(bell: Bell, tmp_path: Path) -> None:
    second, other = Bell(tmp_path, "work"), Bell(tmp_path, "deliver")
    assert not bell.wait(0)
    for _ in range(2):
        ring(tmp_path, "work")
        ring(tmp_path, "work")
        for each in (bell, second):
            assert each.wait(0)
            assert not each.wait(0)
        assert not other.wait(0)
    second.close()
    ring(tmp_path, "work")
    assert bell.wait(0)
    other.close()
    assert len(list((tmp_path / FOLDER).iterdir())) == 1


def test_a_ring_wakes_who_waits(bell: Bell, tmp_path: Path) -> None:
    heard: list[bool] = []
    waiter = threading.Thread(target=lambda: heard.append(bell.wait(600)))
    waiter.start()
    ring(tmp_path, "work")
    waiter.join(60)
    assert heard == [True]


def test_what_cannot_be_rung_harms_nobody(bell: Bell, tmp_path: Path) -> None:
    ring(tmp_path / "absent", "work")
    left = tmp_path / FOLDER / "work-1-dead"  # by a process that was killed
    os.mkfifo(left)
    ring(tmp_path, "work")
    assert not left.exists()
    assert bell.wait(0)
    (pipe,) = (tmp_path / FOLDER).iterdir()
    handle = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):  # nobody has listened for long, and it is full
        while True:
            os.write(handle, bytes(4096))
    os.close(handle)
    ring(tmp_path, "work")
    assert bell.wait(0)


def test_where_there_are_no_pipes_it_is_looked_at_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "mkfifo", refuse)
    bell = Bell(tmp_path, "work")
    ring(tmp_path, "work")
    assert not bell.wait(0)
    bell.close()
