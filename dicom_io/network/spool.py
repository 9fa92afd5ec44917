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
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from weakref import WeakKeyDictionary

import pynetdicom.dimse_messages
from pynetdicom import _config

from dicom_io.network.spool_file import UNLIMITED, Limits, SpoolFile


@dataclass(frozen=True)
class _Spool:
    """Where the objects of a port go."""

    folder: Path
    limits: Limits


_spools: dict[int, _Spool] = {}
_arriving: WeakKeyDictionary[Any, set[SpoolFile]] = WeakKeyDictionary()
"""By association: the files that no handler has taken yet."""
_begun: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""By association: the objects that have begun to arrive on it."""
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
    """A command, or an object, begins where it may not."""


class TooManyObjects(ValueError):
    """One more object begins than there may be on one association."""


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
    if spool is None and association.is_requestor:
        raise OutOfTurn("an object that nobody asked for")
    if spool is None:
        return NamedTemporaryFile(**options)
    if getattr(association.dimse.message, "_data_set_file", None) is not None:  # both commands came in one PDU
        raise OutOfTurn("a command inside an object")
    _count_object(association, spool.limits.most_objects)
    file = SpoolFile(spool.folder, spool.limits)
    with _lock:
        _arriving.setdefault(association, set()).add(file)
    return file


def _count_object(association: Any, most: int | None) -> None:
    """Count an object that begins. Raises TooManyObjects."""
    with _lock:
        count = _begun[association] = _begun.get(association, 0) + 1
    if most is not None and count > most:
        raise TooManyObjects(f"more than {most} objects on one association (scp.max_objects): open another one")
