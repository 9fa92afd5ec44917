"""Opens the ledger: folder, database, schema. It imports no model runtime, so that commands start quickly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_io.errors import OutOfResources
from worker.database.connection import Patience, connect
from worker.ledger import migrations
from worker.ledger.receipts import Ledger

if TYPE_CHECKING:
    from pathlib import Path

    from worker.settings import Settings


def open_ledger(settings: Settings) -> Ledger:
    """Connect to the database that the settings name, bring its schema up to date, and return the ledger.

    Raises
    ------
    InvalidSettings
        When the URL is not understood, or the schema is newer than this program.
    OutOfResources
        When the folder or the database cannot be opened.
    """
    make_folder(settings.storage.folder)
    limits = settings.ledger
    patience = Patience(limits.busy_timeout, limits.connect_timeout, limits.statement_timeout, limits.pool_size)
    engine = connect(settings.ledger_url, patience=patience)
    migrations.upgrade(engine)
    return Ledger(engine, patience.busy)


def make_folder(folder: Path) -> None:
    """Make the storage folder where it is absent."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutOfResources(f"storage.folder {folder}: {error.strerror}") from error
