"""The ledger's schema, version by version (Alembic). Only `cxrd db migrate` changes the schema of a database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DBAPIError

from dicom_io.errors import InvalidSettings
from worker.clock import now
from worker.database.outage import outage

if TYPE_CHECKING:
    from alembic.config import Config

REVISIONS = tuple(path.name[:4] for path in sorted((Path(__file__).parent / "versions").glob("[0-9]*.py")))
"""The revisions that this program knows, the oldest first; the file names begin with them."""
NEEDED = REVISIONS[-1]
"""The revision that this program works with."""
_LOCKED = "the ledger's database cannot be opened, or is locked"


def revision(engine: Engine) -> str | None:
    """Return the database's revision; None where it is empty.

    Raises
    ------
    OutOfResources
        When it cannot be opened or is locked.
    """
    try:
        return _revision(engine)
    except DBAPIError as error:
        raise outage(error, engine, _LOCKED) from error


def require_current(engine: Engine) -> None:
    """Make the schema where the database is empty; refuse a database of any other revision than ours.

    Raises
    ------
    InvalidSettings
        When the database was made by an older or a newer program; the message says what to do.
    OutOfResources
        When it cannot be opened or is locked.
    """
    current = revision(engine)
    if current is None:
        upgrade(engine)
    elif current not in REVISIONS:
        raise InvalidSettings(_newer(current))
    elif current != NEEDED:
        raise InvalidSettings(
            f"the database is at revision {current}, this version of cxrd needs {NEEDED}: "
            "stop cxrd, copy the database, run `cxrd db migrate`"
        )


def upgrade(engine: Engine) -> None:
    """Bring the schema up to date in one transaction; does nothing when it is.

    Of two processes that do this at once the second one waits, and finds nothing left to do.

    Raises
    ------
    InvalidSettings
        When the database was made by a newer program.
    OutOfResources
        When it cannot be opened or is locked.
    """
    try:
        current = _revision(engine)
        if current is not None and current not in REVISIONS:
            raise InvalidSettings(_newer(current))
        if current != NEEDED:
            _run(engine)
    except DBAPIError as error:
        raise outage(error, engine, _LOCKED) from error


def _revision(engine: Engine) -> str | None:
    with engine.connect().execution_options(reading=True) as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        current = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return None if current is None else str(current)


def _newer(current: str) -> str:
    return (
        f"the database is at revision {current}, which this version of cxrd does not know (it needs {NEEDED}): "
        "install the version that wrote it, or restore a copy"
    )


def _run(engine: Engine) -> None:
    """Run the migrations that are missing: all of them, or none where one fails or the process dies."""
    from alembic import command  # noqa: PLC0415 - rarely needed, and slow to import

    from worker.ledger import event_chain  # noqa: PLC0415 - it imports tables, and this module reads none

    config = _config()
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":  # SQLite's BEGIN IMMEDIATE has the same effect
            _wait_for_turn(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        # With the newest schema, whose columns are sealed. A revision that changes rows has to seal them anew.
        event_chain.record_unsealed(connection, now())


def _wait_for_turn(connection: Connection) -> None:
    """Wait for another process that migrates, and for as long as each step takes; but not for ever for a table."""
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    connection.execute(text("SET LOCAL lock_timeout = '60s'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(7163547265)"))


def _config() -> Config:
    from alembic.config import Config  # noqa: PLC0415 - as above

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config
