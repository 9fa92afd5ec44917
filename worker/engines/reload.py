"""SIGHUP: what has changed in the settings, and which of it a running process can take up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from dicom_io.errors import InvalidSettings
from worker import logs
from worker.config_file import text_of
from worker.settings import Settings, load

_FIXED = ("scp", "audit", "health", "commitment.offered", "storage.min_free_mb")
"""The settings that only a new start of everything takes up."""
_GROUND = ("storage.folder", "ledger")
"""Those that all processes must have in common: none of them may take these up by itself."""


@dataclass(frozen=True)
class Change:
    """The settings as they are to be from now on.

    Attributes
    ----------
    names
        Of the parts that have changed and are taken up.
    fixed
        Of those that have changed and need a new start.
    text
        Of the settings file; None where there is none.
    """

    settings: Settings
    names: list[str]
    fixed: list[str]
    text: str | None = None


def settings_file(config: Path | None) -> Path | None:
    """Return the settings file to read again later: where none was named, the one that lies there now."""
    here = Path("config.yaml")
    return (config or here).resolve() if config or here.exists() else None


@contextmanager
def open_text(text: str) -> Iterator[int]:
    """Yield a descriptor that a child can read a text from; it lies in no folder, since it may hold passwords."""
    descriptor = os.memfd_create("settings")
    try:
        os.write(descriptor, text.encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def read_again(before: Settings, config: Path | None) -> Change:
    """Read the settings again, and let the log be as they say.

    Raises
    ------
    InvalidSettings
        They are faulty, the file is gone, or they name another storage folder or ledger; nothing is taken up.
    """
    text = text_of(config) if config else None
    after = load(config, text)
    ground = [name for name in _GROUND if _value(before, name) != _value(after, name)]
    if ground:
        raise InvalidSettings(f"{' and '.join(ground)} changed, which needs a new start; nothing was taken up")
    fixed = [name for name in _FIXED if _value(before, name) != _value(after, name)]
    names = [name for name in type(after).model_fields if getattr(after, name) != getattr(before, name)]
    changes = {name: getattr(after, name) for name in names if name not in fixed}
    logs.configure(after.logging.level, after.logging.format)
    return Change(before.model_copy(update=changes), sorted(changes), fixed, text)


def _value(settings: Settings, name: str) -> object:
    """Return a setting by its name with dots."""
    return reduce(getattr, name.split("."), settings)
