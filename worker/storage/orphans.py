"""Files in the store that nothing owns: objects whose row was never committed, and what dead processes left half made.

A file is removed only if it is older than a stated age, no row owns it, no process has it open, and nobody was ever
told that it is safe (`worker.storage.blobs.confirm`). An object that was acknowledged, and that no row owns, shows
that the ledger was restored from an older backup: it may be the only copy, and is reported and kept.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dicom_io.network.spool_file import is_open
from worker.storage.blobs import Blobs, confirm, is_confirmed

AGE = dt.timedelta(hours=24)
"""How old an orphan is at least: a file is placed just before its row is committed."""

_NAME = re.compile(r"[0-9a-f]{62}\.\w+")


@dataclass(frozen=True)
class Owner:
    """The row of an object.

    Attributes
    ----------
    received
        Whether it was sent to us, and acknowledged; not made by us.
    deleted_at
        When it was deleted; None where it is still kept.
    """

    received: bool
    deleted_at: dt.datetime | None = None


Owners = Callable[[str], Mapping[str, Owner]]
"""Returns those of the objects that the ledger knows whose digests begin so."""


@dataclass(frozen=True)
class Orphan:
    """A file that nothing owns.

    Attributes
    ----------
    sha256
        The digest of an object; empty for what is half made.
    """

    path: Path
    size_bytes: int
    sha256: str = ""


@dataclass(frozen=True)
class Search:
    """What was looked through.

    Attributes
    ----------
    acknowledged
        Objects whose senders were told that they are safe, and that the ledger does not know.
    """

    orphans: list[Orphan] = field(default_factory=list)
    acknowledged: list[Orphan] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """Bytes of the orphans."""
        return sum(each.size_bytes for each in self.orphans)


def find_orphans(blobs: Blobs, owners: Owners, now: dt.datetime, age: dt.timedelta = AGE) -> Search:
    """Look through the whole store; one folder of 256 at a time, so that few names are in memory at once.

    Raises
    ------
    OutOfResources
        The store is not there.
    """
    blobs.check_there()
    before = now - age
    search = Search()
    search.orphans.extend(_half_made(blobs, before))
    for folder in blobs.folders():
        rows = owners(folder.name)
        for path, status in _files(folder):
            sha256 = folder.name + path.name.split(".")[0]
            if _is_owned(rows, sha256, _changed(status)):
                if rows[sha256].received and not is_confirmed(status.st_mode):
                    with suppress(OSError):
                        confirm(path)
            elif _changed(status) < before:
                forgotten = sha256 not in rows and is_confirmed(status.st_mode)
                (search.acknowledged if forgotten else search.orphans).append(Orphan(path, status.st_size, sha256))
    return search


def remove_orphan(blobs: Blobs, orphan: Orphan, owners: Owners, now: dt.datetime, age: dt.timedelta = AGE) -> int:
    """Look once more, with nobody placing files meanwhile, and remove an orphan; return its bytes, or 0 if it is none.

    Raises
    ------
    OutOfResources
        It cannot be removed.
    """
    with blobs.alone():
        try:
            status = orphan.path.stat()
        except FileNotFoundError:
            return 0
        if _changed(status) >= now - age:  # placed again: its row is about to be committed
            return 0
        if orphan.sha256:
            rows = owners(orphan.sha256)
            forgotten = orphan.sha256 not in rows and is_confirmed(status.st_mode)
            if forgotten or _is_owned(rows, orphan.sha256, _changed(status)):
                return 0
        elif is_open(orphan.path):
            return 0
        return blobs.remove(orphan.path)


def _half_made(blobs: Blobs, before: dt.datetime) -> Iterator[Orphan]:
    for path in blobs.half_made():
        with suppress(FileNotFoundError):
            status = path.stat()
            if _changed(status) < before and not is_open(path):
                yield Orphan(path, status.st_size)


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in sorted(each for each in folder.iterdir() if _NAME.fullmatch(each.name)):
        with suppress(FileNotFoundError):
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                yield path, status


def _changed(status: os.stat_result) -> dt.datetime:
    return dt.datetime.fromtimestamp(status.st_mtime, dt.UTC)


def _is_owned(rows: Mapping[str, Owner], sha256: str, changed: dt.datetime) -> bool:
    """Tell whether a row owns a file: also one that was deleted, if the file was placed again since."""
    if sha256 not in rows:
        return False
    deleted_at = rows[sha256].deleted_at
    return deleted_at is None or changed > deleted_at
