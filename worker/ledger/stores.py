"""The store of a process: opened as the settings say, and as the ledger knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_io.durable import write_if_absent
from dicom_io.errors import OutOfResources
from worker.storage.blobs import MARK, Blobs
from worker.storage.pseudonym import KEY_FILE

if TYPE_CHECKING:
    from worker.ledger.receipts import Ledger
    from worker.settings import Settings


def open_blobs(settings: Settings, ledger: Ledger) -> Blobs:
    """Return the store of received and produced objects.

    A storage folder that has been worked in, and whose objects are not there, is one whose volume is not mounted. An
    empty folder beside a ledger in use is that of a further machine, and gets a store of its own. That it has been
    worked in is told by the store's mark, of which the folder holds a copy.

    Raises
    ------
    OutOfResources
        The folder cannot be written.
    """
    folder = settings.storage.folder
    try:
        copy = folder / MARK
        used = copy.exists() or ((folder / KEY_FILE).exists() and ledger.is_in_use())
        blobs = Blobs(folder / "objects", settings.storage.min_free_mb * 1_000_000, established=used)
        if blobs.store:
            write_if_absent(copy, f"{blobs.store}\n".encode())
    except OSError as error:
        raise OutOfResources(f"storage.folder {folder}: {error.strerror}") from error
    return blobs
