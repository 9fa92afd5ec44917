"""Files for a person's folder: there whole, or not at all."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

from dicom_io.errors import OutOfResources

if TYPE_CHECKING:
    from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under another name beside its place, and rename it when its bytes are on the disk.

    Raises
    ------
    OutOfResources
        The disk is full or the folder cannot be written; nothing is left behind, and the message names the file.
    """
    part = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise OutOfResources(f"{path}: cannot be written ({error.strerror})") from error
