"""The patient's key in the audit: a keyed hash of the Patient ID by default."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from dicom_io.durable import write_if_absent
from dicom_io.errors import InvalidSettings, OutOfResources

KEY_FILE = "secret.key"
"""The file in the storage folder that holds the key of the hashes."""
Keeping = Literal["hash", "plain", "none"]

LENGTH = 32
"""Bytes of a secret: as many as SHA-256 gives, below which HMAC is weaker than its hash (RFC 2104, 3)."""
_STALE = 3600.0
"""Seconds after which a half-made secret belongs to no process that is still making it."""


class PatientKey:
    """Turns a Patient ID into what may stand in the audit.

    Parameters
    ----------
    folder
        Where the secret lies (``secret.key``, mode 0600), made at the first start.
    keeping
        ``hash``: HMAC-SHA-256 (RFC 2104) under that secret; ``plain``: the id itself; ``none``: nothing.
    holds_keys
        Tells whether the audit holds keys made with a secret; asked only if there is no secret.

    Raises
    ------
    InvalidSettings
        The secret is too short to be one, or it is gone although the audit holds keys that were made with it.
    OutOfResources
        It cannot be read or written.
    """

    def __init__(self, folder: Path, keeping: Keeping, holds_keys: Callable[[], bool] = lambda: False) -> None:
        self._keeping = keeping
        self._secret = _secret(folder / KEY_FILE, holds_keys) if keeping == "hash" else b""

    def of(self, patient_id: str) -> str:
        """Return what stands for this patient; empty for an empty id."""
        if not patient_id or self._keeping == "none":
            return ""
        if self._keeping == "plain":
            return patient_id[:128]
        return hmac.new(self._secret, patient_id.encode(), hashlib.sha256).hexdigest()


def _secret(path: Path, holds_keys: Callable[[], bool]) -> bytes:
    """Read the secret; make it where there is none and none is missed."""
    try:
        _remove_half_made(path)
        if fault := secret_fault(path.parent, holds_keys):
            raise InvalidSettings(fault)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Where another process is first, its key counts.
            write_if_absent(path, secrets.token_bytes(LENGTH), mode=0o600)
        secret = path.read_bytes()
    except OSError as error:
        raise OutOfResources(f"{path}: {error.strerror}") from error
    return secret


def secret_fault(folder: Path, holds_keys: Callable[[], bool]) -> str:
    """Return what is wrong with a folder's secret; empty where nothing is, or none was made yet.

    Raises
    ------
    OutOfResources
        It cannot be read.
    """
    path = folder / KEY_FILE
    anew = f"restore it from the backup, or make a new one: (umask 077; head -c {LENGTH} /dev/urandom > {path})"
    try:
        size = path.stat().st_size
        path.open("rb").close()
    except FileNotFoundError:
        # With another secret each known patient would get a second key, and nobody would notice.
        return f"{path} is missing, but the audit holds patient keys made with it: {anew}" if holds_keys() else ""
    except OSError as error:
        raise OutOfResources(f"{path}: {error.strerror}") from error
    return f"{path} holds {size} bytes, and a key has {LENGTH}: {anew}" if size < LENGTH else ""


def _remove_half_made(path: Path) -> None:
    """Remove what processes left that died while they made the secret; `write_if_absent` gives it such names."""
    for leftover in path.parent.glob(f".{'[0-9a-f]' * 32}{path.suffix}"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _STALE:
                leftover.unlink()
