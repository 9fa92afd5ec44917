"""Errors of the ledger's database in plain words: a full disk, a lock, or another cause."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_io.errors import OutOfResources

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.exc import DBAPIError

FULL = "the disk that holds the ledger is full"
READ_ONLY = "the ledger cannot be written: its folder or file is read-only"
LOCKED = "the ledger is locked by another process"
_LITTLE = 1_000_000
"""Free bytes below which an error that may have many causes has this one: SQLite needs some for a transaction's log."""


def outage(error: DBAPIError, engine: Engine, otherwise: str) -> OutOfResources:
    """Return what to raise for a database's error.

    Parameters
    ----------
    otherwise
        What to say where the cause is not known.
    """
    # https://sqlite.org/rescode.html; an extended code begins with its primary one.
    code = str(getattr(error.orig, "sqlite_errorname", ""))
    state = getattr(error.orig, "sqlstate", "")
    if code == "SQLITE_FULL" or state == "53100":  # PostgreSQL: disk_full
        return OutOfResources(FULL)
    if code.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")) and _full(engine):
        return OutOfResources(FULL)
    # PostgreSQL: lock_not_available, deadlock_detected
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or state in ("55P03", "40P01"):
        return OutOfResources(LOCKED)
    if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")) and _read_only(engine):
        return OutOfResources(READ_ONLY)
    return OutOfResources(otherwise)


def _full(engine: Engine) -> bool:
    """Return whether SQLite's file lies on a disk without room."""
    try:
        return shutil.disk_usage(_file(engine).parent).free < _LITTLE
    except OSError:
        return False


def _read_only(engine: Engine) -> bool:
    """Return whether SQLite's file, or the folder of the files that it needs beside it, cannot be written."""
    file = _file(engine)
    return not os.access(file.parent, os.W_OK) or (file.exists() and not os.access(file, os.W_OK))


def _file(engine: Engine) -> Path:
    return Path(engine.url.database or ".").resolve()
