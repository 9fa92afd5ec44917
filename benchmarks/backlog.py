"""How much memory cxrd takes while a backlog grows: full-size radiographs come in, and their destination is down.

    .venv/bin/python -m benchmarks.backlog [--images 1000] [--steps 8]

Prints a Markdown table: the resident memory of each process (VmRSS) when so many images wait, and its greatest (VmHWM).
An image and its results take 14 MB of disk in the folder for temporary files.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.processes import cxrd
from modeltrain.model.card import shipped_model
from worker.database.connection import connect
from worker.demo.orthanc import free_port

ROLES = ("serve", "receive", "work", "deliver")
_AT_ONCE = 10
"""Files that are sent again and again, each time with new UIDs."""


class Backlog:
    """A worker whose destination is down."""

    def __init__(self, folder: Path) -> None:
        self._files = common.radiographs(folder / "images", _AT_ONCE).files
        self._process, self._port = cxrd(folder, free_port(), shipped_model())
        self._process.wait_until_it_answers(self._port)
        self._engine = connect(f"sqlite:///{folder / 'data' / 'ledger.sqlite'}", busy_timeout=30)

    def send(self) -> None:
        """Send each file once, as new images."""
        for file in self._files:
            common.refresh(file)
        command = [common.program("storescu", "dcmtk"), "-R", "-aec", "CXRD", "127.0.0.1", str(self._port)]
        subprocess.run([*command, *map(str, self._files)], check=True, capture_output=True)

    def count(self, state: str) -> int:
        """Return how many images have a state, or how many deliveries wait."""
        query = "SELECT count(*) FROM delivery WHERE state = 'pending'"
        if state != "waiting":
            query = f"SELECT count(*) FROM receipt WHERE state = '{state}'"  # noqa: S608 - our own word
        with self._engine.connect().execution_options(reading=True) as connection:
            return int(connection.exec_driver_sql(query).scalar_one())

    def settle(self, images: int) -> None:
        """Wait until so many images are analysed."""
        while self.count("analysed") < images:
            if not self._process.alive:
                raise common.Missing("cxrd has ended")
            time.sleep(1.0)

    def memory(self, field: str) -> dict[str, int]:
        """Return a field of memory of each process, megabytes."""
        sizes = {}
        for pid in self._process.family():
            role = _role(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"))
            kilobytes = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
            if role and kilobytes:
                sizes[role] = round(int(kilobytes.group(1)) / 1024)
        return sizes

    def stop(self) -> None:
        """End it."""
        self._engine.dispose()
        self._process.stop()


def _role(command: list[bytes]) -> str:
    return next((role for role in ROLES if role.encode() in command), "")


def line(cells: list[Any]) -> None:
    """Print a line of the table."""
    sys.stdout.write(f"| {' | '.join(map(str, cells))} |\n")
    sys.stdout.flush()


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=8, help="lines of the table")
    options = parser.parse_args()
    rounds = max(1, options.images // _AT_ONCE)
    looks = {round((step + 1) * rounds / options.steps) for step in range(options.steps)}
    with tempfile.TemporaryDirectory() as folder:
        backlog = Backlog(Path(folder))
        try:
            line(["images", "deliveries waiting", *(f"{role} MB" for role in ROLES)])
            line(["---"] * (len(ROLES) + 2))
            for number in range(1, rounds + 1):
                backlog.send()
                if number in looks:
                    backlog.settle(number * _AT_ONCE)
                    memory = backlog.memory("VmRSS")
                    line([number * _AT_ONCE, backlog.count("waiting"), *(memory.get(role, "-") for role in ROLES)])
            peak = backlog.memory("VmHWM")
            line(["peak", "", *(peak.get(role, "-") for role in ROLES)])
        finally:
            backlog.stop()


if __name__ == "__main__":
    common.run(main)
