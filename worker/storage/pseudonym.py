"""The patient's key in the audit: a keyed hash of the Patient ID by default."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path
from typing import Literal

from dicom_io.durable import write_if_absent
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
            # Where another process is first, its key counts.
            write_if_absent(path, secrets.token_bytes(32), mode=0o600)
        return path.read_bytes()
    except OSError as error:
        raise OutOfResources(f"{path}: {error.strerror}") from error
