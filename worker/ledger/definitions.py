"""What a database computes by itself, held to what cxrd makes: views that show rows, triggers and rules that write.

Whoever exchanges a view has `cxrd audit list` show what is in no row, and no digest of a row tells of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.exc import DBAPIError

from worker.database.columns import Table
from worker.database.connection import connect
from worker.ledger import migrations

_IN_SQLITE = text("SELECT name, type, sql FROM sqlite_master WHERE type IN ('table', 'view')")
_SQLITE_TRIGGERS = text("SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger' ORDER BY name")
_NAMED = "c.relname IN :names AND pg_table_is_visible(c.oid)"
_IN_POSTGRES = text(
    "SELECT c.relname, c.relkind::text, CASE WHEN c.relkind = 'v' THEN pg_get_viewdef(c.oid) END,"  # noqa: S608 - names of ours alone
    " c.relrowsecurity OR EXISTS (SELECT 1 FROM pg_policy p WHERE p.polrelid = c.oid)"
    f" FROM pg_class c WHERE {_NAMED} ORDER BY 1"
).bindparams(bindparam("names", expanding=True))
_POSTGRES_TRIGGERS = text(
    "SELECT t.tgname, c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"  # noqa: S608 - names of ours alone
    f" WHERE NOT t.tgisinternal AND {_NAMED} ORDER BY 1"
).bindparams(bindparam("names", expanding=True))
_RULES = text(
    "SELECT r.rulename, c.relname FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class"  # noqa: S608 - names of ours alone
    f" WHERE NOT (r.rulename = '_RETURN' AND c.relkind = 'v') AND {_NAMED} ORDER BY 1"
).bindparams(bindparam("names", expanding=True))
_ALTERS = "is none of cxrd's; it may alter rows before they are sealed"


def faults(connection: Connection) -> Iterator[str]:
    """Yield a line for each thing of ours in the database that is another one, and for each that we never make.

    Tables that are none, views that are gone or were exchanged, triggers, and with PostgreSQL rules and row security.
    Views and tables of others are theirs.
    """
    if connection.dialect.name == "sqlite":
        yield from _sqlite_faults(connection)
    elif connection.dialect.name == "postgresql":
        yield from _postgres_faults(connection)


def _sqlite_faults(connection: Connection) -> Iterator[str]:
    kinds, views = {}, {}
    for name, kind, sql in connection.execute(_IN_SQLITE):
        words = " ".join(str(sql).split())
        kinds[name] = "virtual" if words.upper().startswith("CREATE VIRTUAL") else kind
        if kind == "view":
            views[name] = words
    yield from _table_faults({name for name, kind in kinds.items() if kind == "table"})
    yield from _view_faults(views, _own_views())
    for name, table in connection.execute(_SQLITE_TRIGGERS):
        yield f"trigger {name} on {table}: {_ALTERS}"


def _postgres_faults(connection: Connection) -> Iterator[str]:
    names = {"names": [*Table.metadata.tables, *_own_views()]}
    rows = connection.execute(_IN_POSTGRES, names).all()
    yield from _table_faults({name for name, kind, *_ in rows if kind == "r"})
    try:
        expected = _as_postgres_writes(connection)
    except DBAPIError:
        yield "views: cannot be compared; this role may make no temporary views here (GRANT TEMPORARY ON DATABASE)"
    else:
        yield from _view_faults({name: sql for name, kind, sql, _ in rows if kind == "v"}, expected)
    for name, _, _, is_filtered in rows:
        if is_filtered:
            yield f"table {name}: row security is none of cxrd's; it may hide rows"
    for name, table in connection.execute(_POSTGRES_TRIGGERS, names):
        yield f"trigger {name} on {table}: {_ALTERS}"
    for name, table in connection.execute(_RULES, names):
        yield f"rule {name} on {table}: {_ALTERS}"


def _table_faults(present: set[str]) -> Iterator[str]:
    """Yield a line for each table of ours that is none: what is read there may stand in no row."""
    for name in Table.metadata.tables:
        if name not in present:
            yield f"table {name}: is no table any more; what it shows may stand in no row"


def _view_faults(actual: dict[str, str], expected: dict[str, str]) -> Iterator[str]:
    for name, sql in expected.items():
        if name not in actual:
            yield f"view {name}: was removed"
        elif actual[name] != sql:
            yield f"view {name}: is not the one that cxrd made; what it shows may stand in no row"


def _as_postgres_writes(connection: Connection) -> dict[str, str]:
    """Return our views as this PostgreSQL writes them: each version does it in its own way.

    They are made once more, as temporary ones, and undone.
    """
    expected = {}
    undone = connection.begin_nested()
    try:
        for name, sql in _own_views().items():
            other = f"cxrd_verify_{name}"
            again = sql.replace(f"CREATE VIEW {name} ", f"CREATE TEMPORARY VIEW {other} ", 1)
            # All that the migrations write in another way for PostgreSQL.
            connection.exec_driver_sql(again.replace("group_concat(", "string_agg("))
            definition = text("SELECT pg_get_viewdef(CAST(:name AS regclass))")
            expected[name] = str(connection.scalar(definition, {"name": f"pg_temp.{other}"}))
    finally:
        undone.rollback()
    return expected


@cache
def _own_views() -> dict[str, str]:
    """Return the views of a database that has just been made."""
    engine = connect("sqlite://")
    try:
        migrations.upgrade(engine)
        with engine.connect() as connection:
            rows = connection.execute(_IN_SQLITE)
            return {name: " ".join(str(sql).split()) for name, kind, sql in rows if kind == "view"}
    finally:
        engine.dispose()
