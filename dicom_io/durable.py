"""Files that are there whole or not at all and survive a power cut, and a file's SHA-256.

A file is written under another name, fsynced, renamed, and the folder fsynced: the rename is an entry of the folder.
All functions raise OSError; the caller knows which of its errors that is.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import IO

from dicom_io.fail_points import reached


def write_file(path: Path, data: bytes) -> None:
    """Write a file, or replace it. After an error the earlier file is untouched and nothing is left behind."""
    part = _part_of(path)
    write_part(part, data)
    try:
        place(part, path)
    except OSError:
        _remove(part)
        raise


def write_if_absent(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file unless there is one. Of two processes that do this at once the first one's file stays."""
    part = _part_of(path)
    write_part(part, data, mode)
    try:
        with suppress(FileExistsError):
            os.link(part, path)
    finally:
        _remove(part)
    sync(path.parent)


def write_part(part: Path, data: bytes, mode: int = 0o666) -> None:
    """Write and fsync a new file, whose name no other file has, for `place`. After an error it is removed.

    Parameters
    ----------
    mode
        Permissions, of which the umask is taken off.
    """
    try:
        with open(part, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data[: len(data) // 2])
            reached("blob half written")
            file.write(data[len(data) // 2 :])
            sync_file(file)
    except OSError:
        _remove(part)
        raise


def place(part: Path, path: Path) -> None:
    """Rename a file or folder whose bytes are on the disk, and fsync the folder that it comes to lie in."""
    reached("written not renamed")
    part.replace(path)
    sync(path.parent)


def place_folder(part: Path, path: Path) -> None:
    """Fsync a folder and the files in it, then `place` it."""
    for file in part.iterdir():
        sync(file)
    sync(part)
    place(part, path)


def sync(path: Path) -> None:
    """Fsync a file, or the entries of a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(file: IO[bytes]) -> None:
    """Flush and fsync an open file."""
    file.flush()
    os.fsync(file.fileno())


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _part_of(path: Path) -> Path:
    return path.with_name(f".{uuid.uuid4().hex}{path.suffix}")


def _remove(part: Path) -> None:
    with suppress(OSError):
        part.unlink()
