"""Labelled radiographs as the command line names them: a folder, a CSV file, or the audit's confirmed findings."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from dicom_io.errors import InvalidData
from modeltrain.data.csv_file import csv_source
from modeltrain.data.evaluation_set import EvaluationSet, evaluation_set
from modeltrain.data.samples import Sample
from modeltrain.data.sources import Source, folder_source
from modeltrain.model.outputs import AGENTS, CLASSES
from worker.ledger.database import open_ledger
from worker.ledger.feedback import takes_verdicts
from worker.ledger.tables import FeedbackRow, ReceiptRow
from worker.storage.blobs import Blobs

if TYPE_CHECKING:
    from worker.ledger.receipts import Ledger
    from worker.settings import Settings

AUDIT = "AUDIT"


def training_data(settings: Settings, data: str) -> Source:
    """Return the labelled radiographs to train on.

    Raises
    ------
    InvalidData
        It cannot be used; see `modeltrain.data.sources` and `confirmed_samples`.
    """
    if data == AUDIT:
        return _audit_source(settings)
    path = _existing(data)
    return csv_source(path) if path.is_file() else folder_source(path)


def evaluation_data(settings: Settings, data: str, *, beside: bool = True) -> EvaluationSet:
    """Return the labelled radiographs to judge a model on; with `beside`, also the training images next to them.

    Raises
    ------
    InvalidData
        As `training_data`.
    """
    return EvaluationSet(_audit_source(settings)) if data == AUDIT else evaluation_set(_existing(data), beside=beside)


def _existing(data: str) -> Path:
    path = Path(data)
    if not path.exists():
        raise InvalidData(f"{data}: no such folder or file; for received images with a reader's verdict write AUDIT")
    return path


def _audit_source(settings: Settings) -> Source:
    """Return the received images on which a reader has spoken."""
    samples = confirmed_samples(open_ledger(settings), Blobs(settings.storage.folder / "objects"))
    lines = sorted(f"{sample.path.name} {sample.label}" for sample in samples)  # objects are named by their digests
    return Source(
        "the audit's confirmed findings", tuple(samples), hashlib.sha256("\n".join(lines).encode()).hexdigest()
    )


def confirmed_samples(ledger: Ledger, blobs: Blobs) -> list[Sample]:
    """Return the received radiographs on which a reader has spoken, with the last verdict as label.

    Patients are those of the audit (a keyed hash by default); an image without one is a patient of its own.

    Raises
    ------
    InvalidData
        Nobody has spoken yet, or not on an image that is still kept.
    """
    last = select(func.max(FeedbackRow.id)).group_by(FeedbackRow.receipt_id)
    query = (
        select(
            ReceiptRow.sha256,
            ReceiptRow.patient_key,
            ReceiptRow.id,
            ReceiptRow.sop_instance_uid,
            FeedbackRow.verdict,
            FeedbackRow.agent,
        )
        .join(ReceiptRow, ReceiptRow.id == FeedbackRow.receipt_id)
        .where(FeedbackRow.id.in_(last), takes_verdicts(), ReceiptRow.deleted_at.is_(None))
        .order_by(ReceiptRow.id)
    )
    with ledger.reading() as connection:
        rows = connection.execute(query).all()
    if not rows:
        raise InvalidData(
            "the audit holds no reader's verdict yet on an image that is kept: enter them by `cxrd feedback`"
        )
    return [
        Sample(
            blobs.path(row.sha256),
            CLASSES.index(row.verdict),
            row.patient_key or f"receipt-{row.id}",
            AGENTS.index(row.agent) if row.agent else -1,
            f"SOP instance {row.sop_instance_uid}",
            row.sop_instance_uid,
            row.sha256,
        )
        for row in rows
    ]
