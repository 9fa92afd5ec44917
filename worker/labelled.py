"""Labelled radiographs as the command line names them: a folder, a CSV file, or the audit's confirmed findings."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_io.errors import InvalidData
from modeltrain.source import Judged, Source, csv_source, folder_source, judged_source
from worker.blobs import Blobs
from worker.database import open_ledger
from worker.feedback import confirmed_samples

if TYPE_CHECKING:
    from worker.settings import Settings

AUDIT = "AUDIT"


def training_data(loaded: Settings, data: str) -> Source:
    """Return what is to be learnt from.

    Raises
    ------
    InvalidData
        It cannot be used; see `modeltrain.source` and `worker.feedback.confirmed_samples`.
    """
    if data == AUDIT:
        return _audit(loaded)
    path = _there(data)
    return csv_source(path) if path.is_file() else folder_source(path)


def judged_data(loaded: Settings, data: str, *, beside: bool = True) -> Judged:
    """Return what models are to be judged on, and `beside` it what may be learnt from.

    Raises
    ------
    InvalidData
        As `training_data`.
    """
    return Judged(_audit(loaded)) if data == AUDIT else judged_source(_there(data), beside=beside)


def _there(data: str) -> Path:
    path = Path(data)
    if not path.exists():
        raise InvalidData(f"{data}: no such folder or file (AUDIT, in capitals, is the audit's confirmed findings)")
    return path


def _audit(loaded: Settings) -> Source:
    """Return the received images on which a reader has spoken."""
    samples = confirmed_samples(open_ledger(loaded), Blobs(loaded.storage.folder / "objects"))
    lines = sorted(f"{sample.path.name} {sample.label}" for sample in samples)  # objects are named by their digests
    return Source(
        "the audit's confirmed findings", tuple(samples), hashlib.sha256("\n".join(lines).encode()).hexdigest()
    )
