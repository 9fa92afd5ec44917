"""What the audit keeps of a patient: a keyed hash by default."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Literal

from dicom_io.errors import OutOfResources

Keeping = Literal["hash", "plain", "none"]


class PatientKey:
    """Turns a Patient ID into what may stand in the audit.

    Parameters
    ----------
    folder
        Where the secret lies (``secret.key``, mode 0600), made at the first start.
    keeping
        ``hash``: HMAC-SHA-256 (RFC 2104) under that secret; ``plain``: the id itself; ``none``: nothing.
    """

    def __init__(self, folder: Path, keeping: Keeping) -> None:
        self._keeping = keeping
        self._secret = _secret(folder / "secret.key") if keeping == "hash" else b""

    def of(self, patient_id: str) -> str:
        """Return what stands for this patient; empty for an empty id."""
        if not patient_id or self._keeping == "none":
            return ""
        if self._keeping == "plain":
            return patient_id[:128]
        return hmac.new(self._secret, patient_id.encode(), hashlib.sha256).hexdigest()


def _secret(path: Path) -> bytes:
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}")
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(part, path)  # fails where another process was first: its key counts
            except FileExistsError:
                pass
            finally:
                part.unlink()
        return path.read_bytes()
    except OSError as error:
        raise OutOfResources(f"{path}: {error.strerror}") from error
