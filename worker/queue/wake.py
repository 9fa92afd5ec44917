"""Bells between processes on one storage folder: whoever has put work into the queue rings, and nobody looks in vain.

A bell is a named pipe (fifo(7)) that the process which is to be woken holds open. It saves waiting, and nothing depends
on it: everybody looks at the queue now and then as well.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from pathlib import Path

FOLDER = "bells"


class Bell:
    """One process's bell.

    Parameters
    ----------
    folder
        The storage folder.
    role
        What the process does; all bells of a role are rung together.
    """

    def __init__(self, folder: Path, role: str) -> None:
        self._path = folder / FOLDER / f"{role}-{os.getpid()}-{time.monotonic_ns():x}"
        self._handle: int | None = None
        with contextlib.suppress(OSError):  # a file system without pipes: then it is looked at the clock
            self._path.parent.mkdir(parents=True, exist_ok=True)
            unheld = self._path.with_name(f".{self._path.name}")  # under its name it is only once somebody holds it
            os.mkfifo(unheld, 0o600)
            self._handle = os.open(unheld, os.O_RDWR | os.O_NONBLOCK)
            unheld.rename(self._path)

    def wait(self, seconds: float) -> bool:
        """Wait until it is rung, but no longer; return whether it was."""
        if self._handle is None:
            time.sleep(seconds)
            return False
        ready, _, _ = select.select([self._handle], [], [], seconds)
        if ready:
            with contextlib.suppress(OSError):
                os.read(self._handle, 4096)
        return bool(ready)

    def ring(self) -> None:
        """Wake this process itself."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.write(self._handle, b"!")

    def close(self) -> None:
        """Take the bell away."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
            self._path.unlink(missing_ok=True)


def ring(folder: Path, role: str) -> None:
    """Wake the processes of a role. One that cannot be woken looks at the queue by itself."""
    for path in (folder / FOLDER).glob(f"{role}-*"):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nobody holds it: its process was killed
                with contextlib.suppress(OSError):
                    path.unlink()
            continue
        with contextlib.suppress(OSError):
            os.write(handle, b"!")
        os.close(handle)
