"""What a SQLite database computes by itself, held to what cxrd makes: views that show rows, triggers that write them.

Whoever exchanges a view has `cxrd audit list` show what is in no row, and no digest of a row tells of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from sqlalchemy import Connection, text

from worker.database.connection import connect
from worker.ledger import migrations

_VIEWS = text("SELECT name, sql FROM sqlite_master WHERE type = 'view'")
_TRIGGERS = text("SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger' ORDER BY name")


def faults(connection: Connection) -> Iterator[str]:
    """Yield a line for each view of ours that is another one or is not there, and for each trigger: we make none.

    Views of others are theirs. Of PostgreSQL nothing is looked at: each of its versions writes views in another way.
    """
    if connection.dialect.name != "sqlite":
        return
    actual = _views(connection)
    for name, sql in _own_views().items():
        if name not in actual:
            yield f"view {name}: was removed"
        elif actual[name] != sql:
            yield f"view {name}: is not the one that cxrd made; what it shows may stand in no row"
    for name, table in connection.execute(_TRIGGERS):
        yield f"trigger {name} on {table}: is none of cxrd's; it may alter rows before they are sealed"


def _views(connection: Connection) -> dict[str, str]:
    return {name: " ".join(str(sql).split()) for name, sql in connection.execute(_VIEWS)}


@cache
def _own_views() -> dict[str, str]:
    """Return the views of a database that has just been made."""
    engine = connect("sqlite://")
    try:
        migrations.upgrade(engine)
        with engine.connect() as connection:
            return _views(connection)
    finally:
        engine.dispose()
