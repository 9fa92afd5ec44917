"""A demo that is told to end leaves no process behind, at whatever moment it is told."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.acceptance.program import CXRD
from tests.support.peers import wait_for
from tests.support.tools import tool
from worker.demo.orthanc import LocalOrthanc


def running(folder: Path) -> list[int]:
    """Return the processes whose command line names this folder."""
    found = []
    for each in Path("/proc").iterdir():
        try:
            line = (each / "cmdline").read_bytes()
            state = (each / "stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            continue
        if each.name.isdigit() and str(folder).encode() in line and state != "Z":
            found.append(int(each.name))
    return found


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    """What passes for a built viewer: nobody looks at it here."""
    folder = tmp_path / "dist"
    folder.mkdir()
    (folder / "index.html").write_text("<html></html>")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("written", signal.SIGTERM),
        ("started", signal.SIGTERM),
        ("started", signal.SIGINT),
        ("sending", signal.SIGTERM),
    ],
)
def test_a_demo_ended_early_leaves_no_orthanc(tmp_path: Path, dist: Path, moment: str, number: signal.Signals) -> None:
    tool("Orthanc")
    out = tmp_path / "demo"
    command = [str(CXRD), "demo", "--out", str(out), "--viewer", str(dist)]
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
    try:
        signs = {
            "written": (out / "orthanc" / "orthanc.json").exists,
            "started": lambda: len(running(out / "orthanc")) > 0,
            "sending": (out / "sent").exists,
        }
        wait_for(lambda: signs[moment]() or process.poll() is not None, 120)
        assert process.poll() is None, (tmp_path / "said").read_text()
        os.kill(process.pid, number)
        assert process.wait(60) == 128 + number
        wait_for(lambda: not running(out), 1)
        assert "viewer:" not in (tmp_path / "said").read_text()  # it was early indeed
    finally:
        if process.poll() is None:
            process.kill()
        for pid in running(out):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a log that nobody came to close
@pytest.mark.parametrize("delay", [0.001, 0.003, 0.006, 0.01, 0.02])
def test_a_start_interrupted_by_a_signal_s_exception_ends_what_it_started(tmp_path: Path, delay: float) -> None:
    """The exception comes while the process is being made, before anyone has noted it."""
    tool("Orthanc")

    class Interrupted(BaseException):
        pass

    def interrupt(_number: int, _frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    config = tmp_path / "orthanc" / "orthanc.json"
    try:
        with pytest.raises(Interrupted):
            _start_and_interrupt(tmp_path / "orthanc", config, delay)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    time.sleep(0.1)
    assert running(config) == []


def _start_and_interrupt(folder: Path, config: Path, delay: float) -> None:
    class Armed(LocalOrthanc):
        def _start(self, command: list[str], log: Path) -> None:
            signal.setitimer(signal.ITIMER_REAL, max(delay, 1e-6))
            super()._start(command, log)

    Armed(folder)
    assert not config.exists()
