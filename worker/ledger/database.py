"""Opens the ledger: folder, database, schema. It imports no model runtime, so that commands start quickly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url

from dicom_io.errors import CxrdError, InvalidSettings, OutOfResources
from worker.clock import now
from worker.database.connection import Patience, connect
from worker.ledger import migrations, processes
from worker.ledger.receipts import Ledger
from worker.storage import lock

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from worker.settings import Settings


@dataclass(frozen=True, slots=True)
class Schema:
    """A database, its revision (None where it is empty), and the one that this program needs."""

    database: str
    revision: str | None
    needed: str = migrations.NEEDED


def open_ledger(settings: Settings) -> Ledger:
    """Connect to the database that the settings name and return the ledger; an empty one gets its schema.

    Raises
    ------
    InvalidSettings
        When the URL is not understood, or the schema is of an older or a newer program.
    OutOfResources
        When the folder or the database cannot be opened.
    """
    make_folder(settings.storage.folder)
    _require_not_lost(settings)
    engine = _connect(settings)
    try:
        migrations.require_current(engine)
    except CxrdError:
        engine.dispose()
        raise
    return Ledger(engine, settings.ledger.busy_timeout)


def open_existing(settings: Settings) -> Ledger:
    """Open the ledger of an installation that has been started before; raises as `open_ledger`, and makes nothing."""
    if _is_absent(settings):
        raise InvalidSettings(
            f"{_shown(settings)}: no such file: cxrd was never started here, or the command is given in another folder"
        )
    return open_ledger(settings)


def schema(settings: Settings) -> Schema:
    """Return the state of the database's schema; makes neither folder nor database.

    Raises
    ------
    InvalidSettings, OutOfResources
        As `open_ledger`, but for the revision.
    """
    if _is_absent(settings):
        return Schema(_shown(settings), None)
    engine = _connect(settings)
    try:
        return Schema(_shown(settings), migrations.revision(engine))
    finally:
        engine.dispose()


def migrate(settings: Settings) -> Schema:
    """Bring the schema up to date, in one transaction; return what it was before.

    Raises
    ------
    InvalidSettings
        When the schema is of a newer program, or a daemon is running.
    OutOfResources
        As `open_ledger`.
    """
    before = schema(settings)
    if before.revision == before.needed:
        return before
    make_folder(settings.storage.folder)
    engine = _connect(settings)
    try:
        _require_stopped(settings.storage.folder, engine)
        migrations.upgrade(engine)
    finally:
        engine.dispose()
    return before


def make_folder(folder: Path) -> None:
    """Make the storage folder where it is absent."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OutOfResources(f"storage.folder {folder}: {error.strerror}") from error


def _require_stopped(folder: Path, engine: Engine) -> None:
    """Refuse to change a schema that somebody works with: on this machine, or with the same database on another."""
    places = [str(folder)] if lock.is_held(folder) else processes.busy_hosts(engine, now())
    if places:
        raise InvalidSettings(f"a daemon is running on {', '.join(places)}: stop it, copy the database, then migrate")


def _connect(settings: Settings) -> Engine:
    limits = settings.ledger
    patience = Patience(limits.busy_timeout, limits.connect_timeout, limits.statement_timeout, limits.pool_size)
    return connect(settings.ledger_url, patience=patience)


def _is_absent(settings: Settings) -> bool:
    """Return whether the database is a file of SQLite's that is not there: connecting would make it."""
    path = _sqlite_file(settings)
    return path is not None and not path.exists()


def _require_not_lost(settings: Settings) -> None:
    """Refuse to begin a new ledger beside objects that an earlier one knew: nobody would know of them any more."""
    path = _sqlite_file(settings)
    objects = settings.storage.folder / "objects"
    if path is None or (path.exists() and path.stat().st_size):
        return
    if any(objects.glob("[0-9a-f][0-9a-f]/*.dcm")):
        what = "is empty" if path.exists() else "is missing"
        raise InvalidSettings(f"{path} {what}, but {objects} holds images: restore it from the backup, or move these")


def _sqlite_file(settings: Settings) -> Path | None:
    try:
        url = make_url(settings.ledger_url)
    except Exception:  # noqa: BLE001 - `connect` says in one line what is wrong with it
        return None
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def _shown(settings: Settings) -> str:
    """Return how a database is called: its file, or its URL without password and options, which may hold one too."""
    path = _sqlite_file(settings)
    return str(path) if path else make_url(settings.ledger_url).set(query={}).render_as_string(hide_password=True)
