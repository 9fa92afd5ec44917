"""Files for a person's folder, there whole or not at all; and how much room there is."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from dicom_io.durable import write_file
from dicom_io.errors import OutOfResources

if TYPE_CHECKING:
    from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, or replace it.

    Raises
    ------
    OutOfResources
        The disk is full or the folder cannot be written; nothing is left behind, and the message names the file.
    """
    try:
        write_file(path, data)
    except OSError as error:
        raise OutOfResources(f"{path}: cannot be written ({error.strerror})") from error


def free_bytes(folder: Path) -> int | None:
    """Return the free bytes of a folder's disk; None where it cannot be told."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
