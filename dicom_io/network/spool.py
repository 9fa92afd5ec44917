"""Where a C-STORE's data set goes while it arrives: straight to disk, hashed on the way, never raising at the network.

pynetdicom can stream a data set to a temporary file (``_config.STORE_RECV_CHUNKED_DATASET``), but it makes that file in
the system's temporary folder and lets a full disk raise inside its reactor thread, which ends the association without a
status. The spool takes the place of that temporary file: it lies on the same file system as the store (so that the
last step can be a rename), and it keeps an error for the handler, which then answers 0xA700.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

import pynetdicom.dimse_messages
from pynetdicom import _config

from dicom_io.durable import sync_file

_folders: dict[int, Path] = {}
_lock = threading.Lock()


class SpoolFile:
    """A write-only file that collects one incoming object. Offers what pynetdicom asks of a NamedTemporaryFile."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{uuid.uuid4().hex}.part"
        self.name = str(self.path)
        self.size = 0
        self.error: OSError | None = None
        self._hash = hashlib.sha256()
        self._handle: IO[bytes] | None = None
        try:
            self._handle = self.path.open("wb", buffering=1 << 20)
        except OSError as error:
            self.error = error

    @property
    def file(self) -> SpoolFile:
        """The underlying file: pynetdicom flushes it after each fragment, which would cost a system call each."""
        return self

    @property
    def sha256(self) -> str:
        """SHA-256 of all bytes written so far, as 64 hexadecimal digits."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> int:
        """Append `data`; after the first error everything is swallowed and the error kept."""
        if self.error is None and self._handle is not None:
            try:
                self._handle.write(data)
            except OSError as error:
                self.error = error
            self._hash.update(data)
            self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: `seal` flushes once, at the end."""

    def seal(self) -> None:
        """Flush and fsync the file.

        Raises
        ------
        OSError
            When any write, or the flush, failed.
        """
        self.flush_to_disk()
        if self._handle is not None:
            sync_file(self._handle)
            self._handle.close()
            self._handle = None

    def flush_to_disk(self) -> None:
        """Hand everything to the operating system, so that the file can be read.

        Raises
        ------
        OSError
            When any write, or the flush, failed.
        """
        if self.error is not None:
            raise self.error
        if self._handle is not None:
            self._handle.flush()

    def close(self) -> None:
        """Release the handle; what could not be written is lost with the file, which its caller removes."""
        if self._handle is not None:
            try:
                self._handle.close()
            except OSError as error:
                self.error = error
            self._handle = None

    def discard(self) -> None:
        """Close and remove the file."""
        self.close()
        self.path.unlink(missing_ok=True)


def use(port: int, folder: Path) -> None:
    """Stream the objects that arrive at `port` into `folder`.

    pynetdicom has one switch for the whole process and hands its temporary file no association; the reactor thread
    that opens the file is the association's own, and tells the port. A process with several nodes (the demo, the
    tests) therefore gives each its folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _lock:
        _folders[port] = folder
        _config.STORE_RECV_CHUNKED_DATASET = True
        setattr(pynetdicom.dimse_messages, "NamedTemporaryFile", _open)  # noqa: B010 - not one of its public names


def leave(port: int, folder: Path) -> None:
    """Forget what `use` was told, so that another node of this process may come to listen at that port."""
    with _lock:
        if _folders.get(port) == folder:
            del _folders[port]


@contextmanager
def using(port: int, folder: Path) -> Iterator[None]:
    """Stream what arrives on associations that we opened with a peer at `port` into `folder`, within a block.

    A process that listens at a port of that number itself cannot do this at the same time.
    """
    with _lock:
        before = _folders.get(port)
    use(port, folder)
    try:
        yield
    finally:
        with _lock:
            if before is None:
                del _folders[port]
            else:
                _folders[port] = before


def drop_unfinished(event: Any) -> None:
    """Remove what a peer began to send and never finished; a handler for the closing of a connection."""
    file = getattr(event.assoc.dimse.message, "_data_set_file", None)
    if isinstance(file, SpoolFile):
        file.discard()


def _open(**options: Any) -> Any:
    """Stand in for NamedTemporaryFile; a node that is none of ours gets what it would have got."""
    reactor: Any = threading.current_thread()
    folder = _folders.get(int(reactor.assoc.acceptor.port))
    return NamedTemporaryFile(**options) if folder is None else SpoolFile(folder)
