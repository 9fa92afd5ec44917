"""The lock of a storage folder: one cxrd on a machine supervises the work in it."""

from __future__ import annotations

import fcntl
import time
from contextlib import suppress
from pathlib import Path

from dicom_io.errors import InvalidSettings, OutOfResources

NAME = "lock"
_TRIES, _PAUSE = 5, 0.05  # seconds between two tries: `is_held` has the lock for a moment


class FolderLock:
    """Holds a storage folder for this process, until it is closed or the process ends.

    Raises
    ------
    InvalidSettings
        Another process has it.
    OutOfResources
        The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._handle = (folder / NAME).open("a")
        except OSError as error:
            raise OutOfResources(f"storage.folder {folder}: {error.strerror}") from error
        if not self._take():
            self._handle.close()
            raise InvalidSettings(f"another cxrd is running on {folder}")

    def _take(self) -> bool:
        for _ in range(_TRIES):
            with suppress(OSError):
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            time.sleep(_PAUSE)
        return False

    def close(self) -> None:
        """Let the folder go."""
        self._handle.close()


def is_held(folder: Path) -> bool:
    """Return whether a cxrd runs on the folder."""
    try:
        handle = (folder / NAME).open("r")
    except OSError:  # none has ever run here, or it is another user's
        return False
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


def was_held(folder: Path) -> bool:
    """Return whether a cxrd has run on the folder before, or runs now."""
    try:
        (folder / NAME).stat()
    except OSError:  # not there, or a folder of another user's
        return False
    return True
