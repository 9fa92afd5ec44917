"""Who may read what cxrd keeps: its user alone, also in a folder that an earlier version made."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

UMASK = 0o077
"""Taken off the permissions of whatever a process of cxrd makes: files get 0600, folders 0700."""
_OTHERS = 0o077
_NAMES = (
    ".store",
    "anchor.key",
    "bells",
    "ledger.sqlite",
    "ledger.sqlite-shm",
    "ledger.sqlite-wal",
    "lock",
    "models",
    "objects",
    "pull.lock",
    "secret.key",
)
"""What cxrd makes in the storage folder. All else there, and the folder itself, may be somebody's on purpose."""


def open_to_others(folder: Path) -> list[Path]:
    """Return what others than the owner may read, or look into, of what cxrd made in a storage folder.

    In a folder that only its owner can enter that is nothing.
    """
    if _mode(folder) & _OTHERS == 0:
        return []
    return [path for path in (folder / name for name in _NAMES) if _mode(path) & _OTHERS]


def tighten(folder: Path) -> list[Path]:
    """Take from others what they might do with what cxrd made in a storage folder; return what could not be changed.

    A folder that is closed already is not looked through: nobody else comes to what is in it.
    """
    return [path for name in _NAMES for path in _tighten(folder / name)]


def _tighten(path: Path) -> Iterator[Path]:
    mode = _mode(path)
    if mode & _OTHERS == 0:
        return
    if stat.S_ISDIR(mode):  # first what is in it: whoever is interrupted begins anew
        with suppress(OSError):
            for each in os.scandir(path):
                yield from _tighten(Path(each.path))
    try:
        path.chmod(stat.S_IMODE(mode) & ~_OTHERS)
    except FileNotFoundError:  # SQLite's, which come and go
        return
    except OSError:  # another user's, or a file system without permissions
        yield path


def _mode(path: Path) -> int:
    """Return a file's mode; 0 where it is not there, or a link."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return 0
    return 0 if stat.S_ISLNK(mode) else mode
