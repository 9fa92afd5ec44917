"""Where a C-STORE's data set goes while it arrives: straight to disk, hashed on the way, never raising at the network.

pynetdicom can stream a data set to a temporary file (``_config.STORE_RECV_CHUNKED_DATASET``), but it makes that file in
the system's temporary folder and lets a full disk raise inside its reactor thread, which ends the association without a
status. The spool takes the place of that temporary file: it lies on the same file system as the store (so that the
last step can be a rename), and it keeps an error for the handler, which then answers 0xA700 or 0xC000.

Each file belongs to an association until a handler takes it, and its process holds a lock on it (flock): what has no
owner any more is removed at once, at the end of the association, or when a node starts.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any
from weakref import WeakKeyDictionary

import pynetdicom.dimse_messages
from pynetdicom import _config

from dicom_io.durable import sync_file
from dicom_io.errors import CxrdError, ObjectTooLarge
from dicom_io.network.content import ContentHash

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
    """

    max_mb: int | None = None
    check_space: Callable[[], None] = lambda: None


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
            self._handle = self.path.open("wb", buffering=1 << 20)
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


# ---- which files belong to whom ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Spool:
    """Where the objects of a port go."""

    folder: Path
    limits: Limits


_spools: dict[int, _Spool] = {}
_arriving: WeakKeyDictionary[Any, set[SpoolFile]] = WeakKeyDictionary()
"""By association: the files that no handler has taken yet."""
_lock = threading.Lock()


def use(port: int, folder: Path, limits: Limits = UNLIMITED) -> None:
    """Stream the objects that arrive at `port` into `folder`.

    pynetdicom has one switch for the whole process and hands its temporary file no association; the reactor thread
    that opens the file is the association's own, and tells the port. A process with several nodes (the demo, the
    tests) therefore gives each its folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _lock:
        _spools[port] = _Spool(folder, limits)
        _config.STORE_RECV_CHUNKED_DATASET = True
        setattr(pynetdicom.dimse_messages, "NamedTemporaryFile", _open)  # noqa: B010 - not one of its public names


def leave(port: int, folder: Path) -> None:
    """Forget what `use` was told, so that another node of this process may come to listen at that port."""
    with _lock:
        if port in _spools and _spools[port].folder == folder:
            del _spools[port]


@contextmanager
def using(port: int, folder: Path, limits: Limits = UNLIMITED) -> Iterator[None]:
    """Stream what arrives on associations that we opened with a peer at `port` into `folder`, within a block.

    A process that listens at a port of that number itself cannot do this at the same time.
    """
    with _lock:
        before = _spools.get(port)
    use(port, folder, limits)
    try:
        yield
    finally:
        with _lock:
            if before is None:
                del _spools[port]
            else:
                _spools[port] = before


def take(event: Any) -> SpoolFile:
    """Return the file of a C-STORE request; from now on its handler removes it, and nobody else."""
    file: SpoolFile = event.request._dataset_file  # noqa: SLF001 - pynetdicom offers the file under this name only
    with _lock:
        _arriving.get(event.assoc, set()).discard(file)
    return file


def drop(association: Any, file: SpoolFile) -> None:
    """Remove one finished object that no handler will take."""
    with _lock:
        _arriving.get(association, set()).discard(file)
    file.discard()


def drop_unfinished(event: Any) -> None:
    """Remove what a peer sent and no handler has taken; a handler for the closing of a connection.

    That is an object that was never finished, and one that waits for its turn: its sender never hears of it.
    """
    drop_unfinished_of(event.assoc)


def drop_unfinished_of(association: Any) -> None:
    """Do as `drop_unfinished`, for an association."""
    with _lock:
        files = _arriving.pop(association, set())
    for file in files:
        file.give_up(OSError(errno.ECONNABORTED, "the sender has gone"))


class OutOfTurn(ValueError):
    """A command begins where it may not."""


def check_turn(message: Any, primitive: Any) -> None:
    """Raise OutOfTurn where a command begins while the data set of a C-STORE is still arriving.

    pynetdicom would forget the object, and its file with it. A message is its command and then its data set (PS3.7
    6.3.1); bit 0 tells which a fragment belongs to (PS3.8 E.2).
    """
    inside = getattr(message, "_data_set_file", None) is not None
    if inside and any(data[0] & 1 for _, data in primitive.presentation_data_value_list):
        raise OutOfTurn("a command inside an object")


def _open(**options: Any) -> Any:
    """Stand in for NamedTemporaryFile; a node that is none of ours gets what it would have got."""
    reactor: Any = threading.current_thread()
    association = reactor.assoc
    spool = _spools.get(int(association.acceptor.port))
    if spool is None:
        return NamedTemporaryFile(**options)
    if getattr(association.dimse.message, "_data_set_file", None) is not None:  # both commands came in one PDU
        raise OutOfTurn("a command inside an object")
    file = SpoolFile(spool.folder, spool.limits)
    with _lock:
        _arriving.setdefault(association, set()).add(file)
    return file


# ---- what dead processes left --------------------------------------------------------------------------------------


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
