"""The lock of a storage folder: one cxrd on a machine supervises the work in it."""

from __future__ import annotations

import fcntl
from pathlib import Path

from dicom_io.errors import InvalidSettings, OutOfResources


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
            self._handle = (folder / "lock").open("a")
        except OSError as error:
            raise OutOfResources(f"storage.folder {folder}: {error.strerror}") from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._handle.close()
            raise InvalidSettings(f"another cxrd is running on {folder}") from error

    def close(self) -> None:
        """Let the folder go."""
        self._handle.close()
