"""A bell between processes on one storage folder: whoever has put work into the ledger rings, and the daemon looks."""

from __future__ import annotations

import contextlib
from pathlib import Path

NAME = "bell"


class Bell:
    """A file whose time of change is the ring.

    It saves waiting, and nothing depends on it: the sweep finds the work anyhow.

    Parameters
    ----------
    folder
        The storage folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._last = self._time()

    def ring(self) -> None:
        """Tell the daemon that there is work; a disk that takes no ring will be noticed by others."""
        with contextlib.suppress(OSError):
            self._path.touch()

    def heard(self) -> bool:
        """Tell whether anyone has rung since the last call, or since this object was made."""
        before, self._last = self._last, self._time()
        return self._last != before

    def _time(self) -> int:
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return 0
