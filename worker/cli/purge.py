"""`cxrd purge`: delete files of images by order of a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dicom_io.errors import CxrdError
from worker.cli import options, output

if TYPE_CHECKING:
    import datetime as dt

    from worker.ledger.retention import Order
    from worker.settings import Settings

_AT_ONCE = 50


def purge(
    study: Annotated[str | None, typer.Option(help="Study Instance UID")] = None,
    patient: Annotated[str | None, typer.Option(help="Patient ID, as it stands in the images")] = None,
    before: options.Before = None,
    confirmed: Annotated[bool, typer.Option("--yes", help="Delete; without this, only say what would be")] = False,
    config: options.Config = None,
) -> None:
    """Delete the files of images: what was received and what was made of it. The audit stays.

    What waits for an answer or a delivery stays too. Without --yes nothing is deleted.
    """
    from worker.clock import now
    from worker.engines.housekeeper import BOTH, remove
    from worker.ledger.database import open_ledger
    from worker.ledger.retention import Retention
    from worker.ledger.stores import open_blobs

    if study is None and patient is None and before is None:
        raise CxrdError("name the images by --study, --patient or --before")
    settings = options.load(config)
    ledger = open_ledger(settings)
    blobs = open_blobs(settings, ledger)
    blobs.check_there()
    retention = Retention(ledger, blobs.store)
    chosen = retention.choose(_order(settings, study, patient, before))
    images, size = len(chosen.receipt_ids), chosen.size_bytes
    if confirmed:
        images = size = 0
        for start in range(0, len(chosen.receipt_ids), _AT_ONCE):
            some = chosen.receipt_ids[start : start + _AT_ONCE]
            deletions = retention.mark(some, BOTH, now(), "ordered", ordered=True)
            size += remove(blobs, retention, deletions, now())
            images += len(deletions)
    output.counts(
        [
            ("Images deleted" if confirmed else "Images to delete", images),
            ("Megabytes", f"{size / 1e6:.1f}"),
            ("Not done with, they stay", chosen.unfinished),
            ("In another store, run this there", chosen.elsewhere),
            ("Deleted before", chosen.gone),
        ]
    )
    if not confirmed and images:
        output.note("nothing was deleted; add --yes to delete")


def _order(settings: Settings, study: str | None, patient: str | None, before: dt.datetime | None) -> Order:
    """Return the order in the ledger's words: it may know a patient by a key only."""
    from worker.ledger.retention import Order
    from worker.storage.pseudonym import PatientKey

    key = None
    if patient is not None:
        if settings.audit.patient_id == "none":
            raise CxrdError("--patient: the audit holds no patients (audit.patient_id is none); name the study")
        # A new secret would fit no patient: where there is none, the message says so.
        key = PatientKey(settings.storage.folder, settings.audit.patient_id, lambda: True).of(patient)
        if not key:
            raise CxrdError("--patient: is empty")
    return Order(study, key, before)
