"""Errors of the ledger's database in plain words: a full disk, a lock, or another cause."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.exc import ProgrammingError

from dicom_io.errors import OutOfResources

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.exc import DBAPIError

FULL = "the disk that holds the ledger is full"
READ_ONLY = "the ledger cannot be written: its folder or file is read-only"
STANDBY = "the ledger cannot be written: its database takes no changes (a standby, or set to read-only)"
NO_RIGHTS = "the ledger cannot be used: its database does not give us the right to"
DAMAGED = "the ledger's file is damaged: stop cxrd, and restore it from the backup"
LOCKED = "the ledger is locked by another process"
_STATES = {
    "53100": FULL,
    "55P03": LOCKED,
    "40P01": LOCKED,
    "25006": STANDBY,
    "42501": NO_RIGHTS,
    "28000": NO_RIGHTS,
    "28P01": NO_RIGHTS,
}
"""Causes by PostgreSQL's SQLSTATE: disk_full, lock_not_available, deadlock_detected, read_only_sql_transaction,
insufficient_privilege, invalid_authorization_specification, invalid_password."""
_LITTLE = 1_000_000
"""Free bytes below which an error that may have many causes has this one: SQLite needs some for a transaction's log."""


def outage(error: DBAPIError, engine: Engine, otherwise: str) -> OutOfResources:
    """Return what to raise for a database's error.

    Parameters
    ----------
    otherwise
        What to say where the cause is not known.
    """
    state = str(getattr(error.orig, "sqlstate", None) or "")
    words = _STATES.get(state) or _of_sqlite(error, engine)
    if not words and isinstance(error, ProgrammingError):  # a table that is gone, say
        words = f"the ledger's database refuses ({type(error.orig).__name__})"
    return OutOfResources(words or otherwise)


def _of_sqlite(error: DBAPIError, engine: Engine) -> str:
    """Return the cause of an error of SQLite's; empty where it is not known, or not SQLite's."""
    # https://sqlite.org/rescode.html; an extended code begins with its primary one.
    code = str(getattr(error.orig, "sqlite_errorname", ""))
    if code == "SQLITE_FULL" or (code.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")) and _full(engine)):
        return FULL
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return DAMAGED
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return LOCKED
    if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")) and _read_only(engine):
        return READ_ONLY
    return ""


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
