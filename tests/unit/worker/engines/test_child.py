"""A process that is stuck ends by itself, and one that gives no sign of life is killed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from worker.engines import child
from worker.engines.supervisor import Child, Supervisor
from worker.settings import Settings


class Part:
    """Work that says of itself what it is told to say, look by look."""

    role = "work"

    def __init__(self, *looks: list[str]) -> None:
        self.looks = list(looks)
        self.seen = threading.Event()

    def stuck(self) -> list[str]:
        if not self.looks:
            self.seen.set()
            return []
        return self.looks.pop(0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "LOOK", 0.01)


def goes_on(part: Any, end: threading.Event, pipe: int | None = None) -> bool:
    return child._goes_on(part, end, pipe)


def test_work_that_is_stuck_twice_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert not goes_on(Part(["a thread has ended"], ["a thread has ended"]), threading.Event())
    assert "a thread has ended" in "".join(capsys.readouterr())


def test_work_that_was_stuck_once_goes_on_until_it_is_told_to_end() -> None:
    part, end = Part(["slow"], [], ["slow"], []), threading.Event()
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(goes_on(part, end)))
    thread.start()
    assert part.seen.wait(20)
    end.set()
    thread.join(20)
    assert answers == [True]


def test_it_gives_signs_of_life_and_the_supervisor_may_be_gone() -> None:
    ours, theirs = os.pipe()
    stuck = ["stuck"], ["stuck"]
    assert not goes_on(Part([], [], *stuck), threading.Event(), theirs)
    assert os.read(ours, 64) == b"...."
    os.close(ours)
    previous = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        assert not goes_on(Part(*stuck), threading.Event(), theirs)
    finally:
        signal.signal(signal.SIGPIPE, previous)
        os.close(theirs)


@pytest.mark.parametrize(("fault", "code"), [("OutOfResources", child.NOT_NOW), ("InvalidSettings", 2)])
def test_what_keeps_a_child_from_starting_now_does_not_end_all(supervisor: Supervisor, fault: str, code: int) -> None:
    """As a database that is away for a while does; settings that cannot be followed end all, and say so."""
    ours, theirs = os.pipe()
    lines = f"""
from dicom_io.errors import {fault}
from worker.cli import app
from worker.engines import receiver, child
class Part:
    def __init__(self, *_): raise {fault}("the ledger is locked")
receiver.Receiver = Part
app.main()
"""
    command = [sys.executable, "-c", lines, "receive", "--ready-fd", str(theirs)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[theirs]) as process:
        assert process.wait(60) == code
        starting = Child("receive", process, "receive-1", started_at=time.monotonic(), pipe=ours)
        os.close(theirs)
        assert supervisor._tend(starting) == (2 if code == 2 else 0)
    assert starting.deaths == 1


def test_a_machine_that_has_no_place_for_a_child_leaves_the_others(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("worker.engines.supervisor.subprocess.Popen", fail)
    before = len(list(Path("/proc/self/fd").iterdir()))
    missing = Child("work")
    assert supervisor._tend(missing) == 0
    assert supervisor._tend(missing) == 0
    assert (missing.process, missing.pipe, missing.failures) == (None, None, 1)
    assert missing.start_at > time.monotonic()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert "Cannot allocate memory" in capsys.readouterr().out


@pytest.fixture
def supervisor(tmp_path: Path) -> Any:
    storage = {"folder": tmp_path / "data", "min_free_mb": 0}
    made = Supervisor(Settings.model_validate({"storage": storage, "health": {"port": 0}}), None)
    yield made
    made._lock.close()


def test_a_child_that_is_silent_is_killed(supervisor: Supervisor, capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        process.send_signal(signal.SIGSTOP)
        stopped = Child("work", process, "work-1", ready=True, was_ready=True, heard_at=time.monotonic())
        assert supervisor._tend(stopped) == 0
        assert process.poll() is None
        stopped.heard_at -= 61
        assert supervisor._tend(stopped) == 0
        assert process.wait(20) == -signal.SIGKILL
        assert supervisor._tend(stopped) == 0
    assert (stopped.process, stopped.ready, stopped.deaths) == (None, False, 1)
    assert "child_silent" in "".join(capsys.readouterr())


def test_a_child_that_is_not_ready_yet_may_take_its_time_but_not_for_ever(supervisor: Supervisor) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        starting = Child("work", process, "work-1", started_at=time.monotonic() - 200)
        assert supervisor._tend(starting) == 0
        assert process.poll() is None
        starting.started_at -= 200
        assert supervisor._tend(starting) == 0
        assert process.wait(20) == -signal.SIGKILL


def test_a_child_that_is_to_start_anew_and_does_not_end_is_killed_and_starts_at_once(supervisor: Supervisor) -> None:
    with subprocess.Popen(["sh", "-c", "trap '' TERM; echo; exec sleep 60"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        ready = Child("work", process, "work-1", ready=True, was_ready=True, heard_at=time.monotonic())
        supervisor._pass_on(ready, process)
        assert supervisor._tend(ready) == 0
        assert process.poll() is None
        assert ready.ends_by is not None
        ready.ends_by -= 60
        assert supervisor._tend(ready) == 0
        assert process.wait(20) == -signal.SIGKILL
        assert supervisor._tend(ready) == 0
        assert ready.deaths == 1
    assert vars(ready)["process"] is None
    assert vars(ready)["ends_by"] is None


def test_the_receiver_is_told_of_new_settings_once_it_can_hear(supervisor: Supervisor) -> None:
    command = "trap 'exit 7' HUP; echo; while :; do sleep 0.1; done"
    with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        starting = Child("receive", process, "receive-1", started_at=time.monotonic())
        supervisor._pass_on(starting, process)
        assert supervisor._tend(starting) == 0
        assert process.poll() is None
        starting.ready, starting.heard_at = True, time.monotonic()
        assert supervisor._tend(starting) == 0
        assert process.wait(20) == 7


def test_the_first_sign_of_life_says_that_a_child_is_ready(supervisor: Supervisor) -> None:
    ours, theirs = os.pipe()
    starting = Child("work", pipe=ours)
    os.write(theirs, b".")
    supervisor._listen(starting, ours)
    assert starting.ready
    assert time.monotonic() - starting.heard_at < 20
    os.close(theirs)
    supervisor._listen(starting, ours)
    assert starting.pipe is None
