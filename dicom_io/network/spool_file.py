"""The file that one object goes into while it arrives: hashed on the way, never raising at who writes it.

Its process holds a lock on it (flock) until it is closed: what nobody holds any more is a leftover of a dead process.
"""

from __future__ import annotations

import fcntl
import hashlib
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dicom_io.durable import sync_file
from dicom_io.errors import CxrdError, ObjectTooLarge
from dicom_io.network.content import ContentHash

_BUFFER = 1 << 16
"""Bytes that a file keeps in memory: as long as its object waits for its turn, too."""
LOOK_EVERY = 8 << 20
"""Bytes of an object between two looks at the free space."""


@dataclass(frozen=True)
class Limits:
    """What an arriving object may take.

    Attributes
    ----------
    max_mb
        Its size at most, in units of 1,000,000 bytes; None: any.
    check_space
        Raises OutOfResources where too little space is free.
    most_objects
        Objects on one association at most; None: any number.
    """

    max_mb: int | None = None
    check_space: Callable[[], None] = lambda: None
    most_objects: int | None = None


UNLIMITED = Limits()


class SpoolFile:
    """A write-only file that collects one incoming object. Offers what pynetdicom asks of a NamedTemporaryFile.

    After the first error the file is removed, so that its space is free while the peer still sends; what comes then is
    counted and dropped, and the error is kept for `flush_to_disk`.
    """

    def __init__(self, folder: Path, limits: Limits = UNLIMITED) -> None:
        self.path = folder / f"{uuid.uuid4().hex}.part"
        self.name = str(self.path)
        self.size = 0
        self.error: OSError | CxrdError | None = None
        self._limits = limits
        self._next_look = 0
        self._hash = hashlib.sha256()
        self._content = ContentHash()
        self._handle: IO[bytes] | None = None
        try:
            self._handle = self.path.open("wb", buffering=_BUFFER)
        except OSError as error:
            self.error = error
        else:
            with suppress(OSError):  # a file system without locks: its leftovers are then told by their age
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @property
    def file(self) -> SpoolFile:
        """The underlying file: pynetdicom flushes it after each fragment, which would cost a system call each."""
        return self

    @property
    def sha256(self) -> str:
        """SHA-256 of all bytes written so far, as 64 hexadecimal digits."""
        return self._hash.hexdigest()

    @property
    def content_sha256(self) -> str:
        """The same of the data set alone, without the File Meta Information."""
        return self._content.hexdigest()

    def write(self, data: bytes) -> int:
        """Append `data`; after the first error everything is swallowed and the error kept."""
        self.size += len(data)
        if self.error is None and self._handle is not None:
            try:
                self._check()
                self._handle.write(data)
                self._hash.update(data)
                self._content.update(data)
            except (OSError, CxrdError) as error:
                self.give_up(error)
        return len(data)

    def flush(self) -> None:
        """Do nothing: `seal` flushes once, at the end."""

    def seal(self) -> None:
        """Flush and fsync the file. It stays open, and so locked, until it is closed.

        Raises
        ------
        OSError, ObjectTooLarge, OutOfResources
            When any write, or the flush, failed.
        """
        self.flush_to_disk()
        if self._handle is not None:
            sync_file(self._handle)

    def flush_to_disk(self) -> None:
        """Hand everything to the operating system, so that the file can be read.

        Raises
        ------
        OSError, ObjectTooLarge, OutOfResources
            When any write, or the flush, failed.
        """
        if self.error is not None:
            raise self.error
        if self._handle is not None:
            self._handle.flush()

    def give_up(self, error: OSError | CxrdError) -> None:
        """Keep an error, and remove the file."""
        self.error = error
        self.discard()

    def close(self) -> None:
        """Release the handle; what could not be written is lost with the file, which its caller removes."""
        if self._handle is not None:
            try:
                self._handle.close()
            except OSError as error:
                self.error = self.error or error
            self._handle = None

    def discard(self) -> None:
        """Remove the file and close it."""
        with suppress(OSError):
            self.path.unlink()
        self.close()

    def _check(self) -> None:
        most = self._limits.max_mb
        if most is not None and self.size > most * 1_000_000:
            raise ObjectTooLarge(f"the object is larger than {most} MB (scp.max_object_mb)")
        if self.size > self._next_look:
            self._next_look = self.size + LOOK_EVERY
            self._limits.check_space()


def is_open(part: Path) -> bool:
    """Tell whether a living process has this file open as a `SpoolFile`."""
    try:
        with part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # gone, or on a file system without locks
        return False
    return False


def remove_leftovers(folder: Path) -> None:
    """Remove what dead processes left in a spool: none of it was ever acknowledged."""
    for part in folder.glob("*.part"):
        if not is_open(part):
            part.unlink(missing_ok=True)
