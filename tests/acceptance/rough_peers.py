"""The peers of a torture: a sender that does not give up, and a destination that does not always behave."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.peers import RESULT_CLASSES, Receiver
from tests.support.tools import tool

_LONG = 8.0  # seconds after which a silent destination answers at last: longer than its timeout


class Sender(threading.Thread):
    """Sends files with DCMTK's storescu, again and again, until each was answered with success."""

    def __init__(self, files: dict[str, Path], port: int, folder: Path) -> None:
        super().__init__(daemon=True)
        self.waiting = dict(files)
        self.accepted: set[str] = set()
        self._port = port
        self._folder = folder
        self.ending = threading.Event()

    def run(self) -> None:
        names = {str(path): uid for uid, path in self.waiting.items()}
        while self.waiting and not self.ending.is_set():
            some = [str(path) for path in list(self.waiting.values())[:10]]
            command = [tool("storescu"), "-v", "-to", "20", "-ta", "20", "-td", "20", "-aec", "CXRD", "127.0.0.1"]
            done = subprocess.run(
                [*command, str(self._port), *some], capture_output=True, text=True, check=False, timeout=300
            )
            current = ""
            for line in (done.stdout + done.stderr).splitlines():
                sending = re.search(r"Sending file: (\S+)", line)
                current = sending[1] if sending else current
                if "Received Store Response (Success)" in line and current:
                    self.accepted.add(names[current])
                    self.waiting.pop(names[current], None)
            if done.returncode:
                time.sleep(0.3)


class Rough(Receiver):
    """A destination that does not always behave: what it does next stands in `moods`."""

    def __init__(self) -> None:
        super().__init__(RESULT_CLASSES)
        self.moods: list[str] = []
        self.used: Counter[str] = Counter()

    def _store(self, event: Any) -> int:
        with self._lock:
            mood = self.moods.pop(0) if self.moods else ""
            self.used[mood] += 1
        if mood == "aborts":
            event.assoc.abort()
            return 0x0110
        if mood in ("slow", "silent"):
            time.sleep(_LONG if mood == "silent" else 1.0)
        return super()._store(event)
