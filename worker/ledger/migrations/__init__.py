"""The ledger's schema, version by version (Alembic)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DBAPIError

from dicom_io.errors import InvalidSettings
from worker.database.outage import outage

if TYPE_CHECKING:
    from alembic.config import Config

REVISIONS = tuple(path.name[:4] for path in sorted((Path(__file__).parent / "versions").glob("[0-9]*.py")))
"""The revisions that this program knows, the oldest first; the file names begin with them."""


def revision(engine: Engine) -> str | None:
    """Return the database's revision; None where it is empty."""
    with engine.connect().execution_options(reading=True) as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        current = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return None if current is None else str(current)


def upgrade(engine: Engine) -> None:
    """Bring the schema up to date; does nothing when it is.

    Raises
    ------
    InvalidSettings
        When the database was made by a newer program.
    OutOfResources
        When it cannot be opened or is locked.
    """
    try:
        current = revision(engine)
        if current is not None and current not in REVISIONS:
            raise InvalidSettings(f"the ledger has revision {current}, which this version of cxrd does not know")
        if current != REVISIONS[-1]:
            _run(engine)
    except DBAPIError as error:
        raise outage(error, engine, "the ledger's database cannot be opened, or is locked") from error


def _run(engine: Engine) -> None:
    """Run the migrations that are missing."""
    from alembic import command  # noqa: PLC0415 - rarely needed, and slow to import

    config = _config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _config() -> Config:
    from alembic.config import Config  # noqa: PLC0415 - as above

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config
