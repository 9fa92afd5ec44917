"""The signal between processes on one storage folder that there is new work in the ledger."""

from __future__ import annotations

import contextlib
from pathlib import Path

NAME = "wake"


class WakeSignal:
    """A file: whoever has put work into the ledger touches it, and the daemon looks at its time of change.

    It saves waiting, and nothing depends on it: the sweep finds the work anyhow.

    Parameters
    ----------
    folder
        The storage folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._last = self._time()

    def send(self) -> None:
        """Tell the daemon that there is work. A disk that cannot take the signal is no error here."""
        with contextlib.suppress(OSError):
            self._path.touch()

    def arrived(self) -> bool:
        """Return whether a signal came since the last call, or since this object was made."""
        before, self._last = self._last, self._time()
        return self._last != before

    def _time(self) -> int:
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return 0
