"""The ledger's schema, version by version (Alembic)."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from dicom_io.errors import InvalidSettings
from worker.ledger.outage import outage


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def revisions(engine: Engine) -> tuple[str | None, str | None]:
    """Return the database's revision and the newest one that this program knows."""
    with engine.connect().execution_options(reading=True) as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    return current, ScriptDirectory.from_config(_config()).get_current_head()


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
        current, head = revisions(engine)
        known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
        if current is not None and current not in known:
            raise InvalidSettings(f"the ledger has revision {current}, which this version of cxrd does not know")
        if current != head:
            with engine.begin() as connection:
                config = _config()
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
    except DBAPIError as error:
        raise outage(error, engine, "the ledger's database cannot be opened, or is locked") from error
