"""The installed program: as a process of its own, or its commands in this process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from tests.support.orthanc import free_port
from tests.support.peers import wait_for
from worker.cli.app import main

CXRD = Path(sys.executable).with_name("cxrd")


def run(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `cxrd` to its end."""
    return subprocess.run(
        [str(CXRD), *(str(argument) for argument in arguments)],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        cwd=cwd,
        env=os.environ | environment,
    )


def invoke(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `cxrd` to its end in this process, where its libraries are loaded already.

    For commands that neither listen nor change how this process takes signals.
    """
    argv = ["cxrd", *(str(argument) for argument in arguments)]
    mask = os.umask(0o022)
    try:
        return _invoke(argv, cwd, environment)
    finally:
        os.umask(mask)


def _invoke(argv: list[str], cwd: Path | None, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        contextlib.chdir(cwd or Path.cwd()),
        mock.patch.dict(os.environ, environment),
        mock.patch.object(sys, "argv", argv),
    ):
        code = _exit_code()
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


def _exit_code() -> int:
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


class Service:
    """`cxrd serve` with a folder and a port of its own, to be killed and started again."""

    def __init__(self, folder: Path, **parts: Any) -> None:
        self.folder = folder
        self.port = free_port()
        settings: dict[str, Any] = {
            "scp": {"port": self.port},
            "storage": {"folder": str(folder / "data"), "min_free_mb": 0},
            "outbox": {"retry_first": 0.2, "retry_max": 1.0},
            "logging": {"format": "json"},
            "health": {"port": 0},  # many run side by side
        }
        for name, part in parts.items():
            settings[name] = settings.get(name, {}) | part if isinstance(part, dict) else part
        self.config = folder / "config.yaml"
        self.config.write_text(yaml.safe_dump(settings))
        self.log = folder / "log.jsonl"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: str = "serve", begins: str = "listening") -> None:
        """Start the process and wait until it listens, or its log says that it begins."""
        before = len(self.events(begins))
        with self.log.open("ab") as log:
            process = subprocess.Popen([str(CXRD), command, "-c", str(self.config)], stdout=log, stderr=log)
        self._process = process
        wait_for(lambda: len(self.events(begins)) > before or process.poll() is not None, 180)
        assert process.poll() is None, self.log.read_text()[-2000:]

    @property
    def pid(self) -> int:
        """The number of the running process."""
        assert self._process is not None
        return self._process.pid

    def send(self, number: int, pid: int | None = None) -> None:
        """Send a signal, to a child where one is named."""
        os.kill(self.pid if pid is None else pid, number)

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(20)
            self._process = None

    def stop(self) -> int:
        """SIGTERM, and wait; return the exit code (0 where it is not running)."""
        if self._process is None:
            return 0
        self._process.terminate()
        code = self._process.wait(120)
        self._process = None
        return code

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log's lines with this event."""
        if not self.log.exists():
            return []
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def findings(self, *options: str) -> list[dict[str, Any]]:
        """Ask the audit by the command line."""
        listing = invoke("audit", "list", "--format", "json", "--limit", 10000, *options, "-c", self.config)
        assert listing.returncode == 0, listing.stderr
        return list(json.loads(listing.stdout))


def kill(pid: int) -> None:
    """SIGKILL a process; one that is gone already does not matter."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def children(parent: int, role: str) -> list[int]:
    """Return the processes that a supervisor has started for a role."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat, line = (folder / "stat").read_text(), (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(stat.rpartition(")")[2].split()[1]) == parent and role.encode() in line:
            found.append(int(folder.name))
    return found
