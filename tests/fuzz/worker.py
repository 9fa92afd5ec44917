"""The process that runs a harness's cases, one after the other, and looks after each whether it left anything behind.

Its parent, `campaign`, reads a line of JSON for each case on standard output. A case's bytes lie in a file before it
runs, so that they are there when it ends this process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.fuzz.campaign import Plan
from tests.fuzz.harness import Fault, Harness
from worker import logs

_ROOM = 8
"""Files and threads that libraries may keep open from some case on."""


def main() -> None:
    """Run what the parent asks for."""
    plan = Plan(**json.loads(sys.argv[1]))
    folder = Path(plan.folder)
    work = folder / "cwd"
    work.mkdir()
    (folder / "tmp").mkdir()
    os.chdir(work)
    os.environ["TMPDIR"] = str(folder / "tmp")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    logs.configure("info", "json")
    logs.tell_of_threads()
    faulthandler.enable()
    harness = plan.load()
    Cases(plan, harness, folder).run()
    harness.close()
    left = [each.name for each in folder.iterdir() if each.is_dir() and each.name not in ("cwd", "tmp")]
    print(json.dumps({"end": True, "faults": [f"left behind at the end: {', '.join(left)}"] if left else []}))


class Cases:
    """Runs cases, and looks what each one did to this process."""

    def __init__(self, plan: Plan, harness: Harness, folder: Path) -> None:
        self._plan, self._harness, self._folder = plan, harness, folder
        self._log = (folder / "stderr").open("rb")
        self._warm_up()
        self._before = _status("VmRSS")
        self._open_files, self._threads = _open_files(), threading.active_count()

    def run(self) -> None:
        """Run them, and print a line for each."""
        for number in self._plan.numbers:
            data = self._plan.data(self._harness, number)
            (self._folder / "case").write_bytes(data)
            print(json.dumps({"begin": number}))
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted anew
            begin = time.monotonic()
            end, faults = self._one(data)
            seconds = time.monotonic() - begin
            grown = _status("VmHWM") - self._before
            if grown > self._harness.bound_mb:
                faults.append(f"memory grew by {grown:.0f} MB, at most {self._harness.bound_mb:.0f} are allowed")
            if faults:  # the next case will lie in its place
                (self._folder / "case").rename(self._folder / f"case-{number}")
            line: dict[str, Any] = {"number": number, "end": end, "seconds": round(seconds, 3), "mb": round(grown, 1)}
            print(json.dumps(line | {"faults": faults}))

    def _one(self, data: bytes) -> tuple[str, list[str]]:
        faults = []
        try:
            end = self._harness.run(data)
        except Fault as error:
            end, faults = "fault", [str(error)]
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            end, faults = "fault", [logs.unexpected(error) + f": {error!r}"[:300]]
        return end, faults + self._left() + self._printed()

    def _warm_up(self) -> None:
        """Run a few cases that do not count, so that libraries are loaded and pools filled."""
        for number in range(-8, 0):
            self._one(self._plan.data(self._harness, number))

    def _left(self) -> list[str]:
        """Return what a case has left behind."""
        deadline = time.monotonic() + self._plan.patience
        while (left := self._leftovers()) and time.monotonic() < deadline:
            time.sleep(0.01)
            gc.collect()
        return left

    def _leftovers(self) -> list[str]:
        left = [f"left a file: {each}" for each in self._harness.leftovers()]
        left += [f"left a file: {each.name}" for name in ("cwd", "tmp") for each in (self._folder / name).iterdir()]
        if (count := _children()) > self._harness.children:
            left.append(f"left {count} processes")
        if hasattr(self, "_threads"):
            if threading.active_count() > self._threads + _ROOM:
                left.append(f"left {threading.active_count()} threads")
            if _open_files() > self._open_files + _ROOM:
                left.append(f"left {_open_files()} open files")
        return left

    def _printed(self) -> list[str]:
        """Return what should not stand in the log, or beside it, since the last case."""
        faults = []
        for line in self._log.read().decode("utf-8", "replace").splitlines():
            if not line.startswith("{"):
                faults.append(f"printed: {line[:300]}")
            elif "Traceback" in line or "unexpected" in line or '"thread_ended"' in line:
                faults.append(f"logged: {line[:500]}")
        return faults


def _children() -> int:
    """Return how many processes this one has, those included that have ended and were not waited for."""
    count = 0
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            count += len(path.read_text(encoding="ascii").split())
    return count


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _status(name: str) -> float:
    """Return a size of this process in megabytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / 1e6


if __name__ == "__main__":
    main()
