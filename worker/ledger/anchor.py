"""The head of the audit's chain, kept where who can change the database cannot: one signed line each time.

A line is a time, the number of an event, its digest, and the HMAC-SHA-256 (RFC 2104) of these under a key of its own.
Whoever rewrites the end of the chain, or cuts it off, changes or removes an event that a line names.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from sqlalchemy import Connection, select

from dicom_io.durable import write_if_absent
from dicom_io.errors import InvalidSettings, OutOfResources
from worker.ledger.tables import EventRow

KEY_FILE = "anchor.key"
"""The file in the storage folder that holds the key, unless the settings name another one."""
LENGTH = 32
"""Bytes of the key: as many as SHA-256 gives."""
_LINE = re.compile(r"(?P<signed>(?P<at>\S+) (?P<event>[0-9]{1,18}) (?P<digest>[0-9a-f]{64})) (?P<mac>[0-9a-f]{64})")


def anchor_key(path: Path, *, make: bool = False) -> bytes:
    """Return the key; `make` makes it where there is none.

    Raises
    ------
    InvalidSettings
        There is none, or it is too short to be one.
    OutOfResources
        It cannot be read or made.
    """
    try:
        if make and not path.exists():
            write_if_absent(path, secrets.token_bytes(LENGTH), mode=0o600)
        key = path.read_bytes()
    except FileNotFoundError as error:
        raise InvalidSettings(f"{path}: no such file: it is the key that anchors are signed with") from error
    except OSError as error:
        raise OutOfResources(f"{path}: {error.strerror}") from error
    if len(key) < LENGTH:
        raise InvalidSettings(f"{path} holds {len(key)} bytes, and a key has {LENGTH}")
    return key


def head(connection: Connection) -> tuple[int, str] | None:
    """Return number and digest of the newest event; None where there is none."""
    row = connection.execute(select(EventRow.id, EventRow.digest).order_by(EventRow.id.desc()).limit(1)).one_or_none()
    return None if row is None else (row.id, row.digest)


def line(at: dt.datetime, event: int, digest: str, key: bytes) -> str:
    """Return the line that anchors an event; `at` is aware."""
    signed = f"{at.astimezone(dt.UTC).isoformat(timespec='seconds')} {event} {digest}"
    return f"{signed} {_mac(signed, key)}"


def problems(
    opening: Callable[[], AbstractContextManager[Connection]], lines: Iterable[str], key: bytes
) -> Iterator[str]:
    """Yield what does not fit between lines and the chain as it is now; empty lines are passed over.

    That of syslog may stand before a line. Where there is no line at all, that is a problem too: nothing was proved.
    """
    is_empty = True
    for number, words in enumerate(lines, start=1):
        if not words.strip():
            continue
        is_empty = False
        anchored = _LINE.search(words)
        if anchored is None:
            yield f"anchor, line {number}: is none"
        elif not hmac.compare_digest(anchored["mac"], _mac(anchored["signed"], key)):
            yield f"anchor, line {number}: was altered, or signed with another key"
        else:
            with opening() as connection:
                digest = connection.scalar(select(EventRow.digest).where(EventRow.id == int(anchored["event"])))
            if digest is None:
                yield f"event {anchored['event']}: was removed after {anchored['at']}"
            elif digest != anchored["digest"]:
                yield f"event {anchored['event']}: it, or one before it, was rewritten after {anchored['at']}"
    if is_empty:
        yield "anchor: the file holds no line, and so proves nothing"


def _mac(signed: str, key: bytes) -> str:
    return hmac.new(key, signed.encode(), hashlib.sha256).hexdigest()
