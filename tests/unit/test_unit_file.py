"""The unit for systemd: understood by it, hardened, and in agreement with the program."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from worker.settings import Settings

UNIT = Path(__file__).resolve().parents[2] / "docker" / "cxrd.service"


def service() -> configparser.SectionProxy:
    """Return the keys of [Service]; none stands there twice."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return parser["Service"]


def analyze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Ask systemd-analyze about the unit, with a program that is there."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    unit = folder / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/cxrd/.venv/bin/cxrd", sys.executable))
    return subprocess.run(
        [program, *arguments, "--no-pager", str(unit)], check=False, capture_output=True, text=True, timeout=60
    )


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    done = analyze(tmp_path, "verify", "--man=no")
    if "Failed to" in done.stderr:
        pytest.skip(f"systemd-analyze cannot look here: {done.stderr.strip().splitlines()[0]}")
    assert [line for line in done.stderr.splitlines() if UNIT.name in line] == []
    assert done.returncode == 0


def test_the_service_may_do_little(tmp_path: Path) -> None:
    # 0 is locked up, 10 may do everything; what is left is the network.
    done = analyze(tmp_path, "security", "--offline=true", "--threshold=20")
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze judges no unit that is not installed (before systemd 250)")
    assert done.returncode == 0, done.stdout[-300:]


def test_there_is_time_to_stop_and_to_start_again() -> None:
    keys, worker = service(), Settings().worker
    # The supervisor ends three processes one after the other, and kills each ten seconds after its time.
    assert int(keys["TimeoutStopSec"]) > 3 * (worker.stop_seconds + 10)
    # A receiver that dies again and again is started again after at most 30 seconds: nothing to kill all the rest for.
    assert int(keys["WatchdogSec"]) > 60


def test_what_the_program_counts_on_is_there() -> None:
    keys = service()
    assert (keys["Type"], keys["KillMode"], keys["Restart"]) == ("notify", "mixed", "on-failure")
    assert keys["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert keys["Environment"] == f"CXRD_STORAGE__FOLDER={keys['WorkingDirectory']}"
    assert keys["ReadWritePaths"] == keys["WorkingDirectory"] == f"/var/lib/{keys['StateDirectory']}"
