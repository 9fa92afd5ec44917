"""A PostgreSQL database that each test gets as it was made: to put rows back is far quicker than to make another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError

from tests.support import databases

_CATALOGS = ("class", "attribute", "attrdef", "constraint", "trigger", "proc", "rewrite", "namespace", "type")
_DEFINITIONS = text(
    " UNION ALL ".join(f"SELECT '{each}', count(*), max(xmin::text::bigint) FROM pg_{each}" for each in _CATALOGS)
    + " UNION ALL SELECT 'database', 0, xmin::text::bigint FROM pg_database WHERE datname = current_database()"
    " UNION ALL SELECT 'settings', count(*), max(s.xmin::text::bigint) FROM pg_db_role_setting s"
    " JOIN pg_database d ON d.oid = s.setdatabase WHERE datname = current_database() ORDER BY 1"
)
"""Of each kind of definition, how many there are and by which transaction the newest was made or altered."""
_COUNTERS = text("SELECT format('%I.%I', schemaname, sequencename), start_value, last_value FROM pg_sequences")
_END_OTHERS = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


class RestoredDatabase:
    """A database that holds the same at the beginning of each test.

    Parameters
    ----------
    fill
        Makes tables and rows in an empty database, given its URL; leaves no connection.
    """

    def __init__(self, fill: Callable[[str], None]) -> None:
        self._fill = fill
        self._make()

    @contextmanager
    def lend(self) -> Iterator[str]:
        """Yield its URL; then end all connections to it and put rows back. With other definitions it is made anew."""
        yield self._url
        try:
            with self._admin.begin() as connection:
                same = self._restore(connection)
        except DBAPIError:  # the server has ended our connection, or something else holds a lock
            same = False
        if not same:
            self.drop()
            self._make()

    def drop(self) -> None:
        self._end.close()

    def _make(self) -> None:
        self._end = ExitStack()
        self._url = self._end.enter_context(databases.postgres())
        self._fill(self._url)
        self._admin = create_engine(self._url)
        self._end.callback(self._admin.dispose)
        with self._admin.begin() as connection:
            self._definitions = connection.execute(_DEFINITIONS).all()
            self._tables = list(connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")))
            rows = {table: _rows(connection, table) for table in self._tables}
            self._rows = {table: content for table, content in rows.items() if content}
            self._counters = connection.execute(_COUNTERS).all()

    def _restore(self, connection: Connection) -> bool:
        """Put rows and counters back; return whether the definitions are what they were."""
        connection.execute(_END_OTHERS)
        if connection.execute(_DEFINITIONS).all() != self._definitions:
            return False
        connection.execute(text("SET LOCAL lock_timeout = '5s'"))
        connection.execute(text("SET LOCAL session_replication_role = replica"))  # keys are not checked meanwhile
        connection.execute(text("; ".join(f"DELETE FROM {table}" for table in self._tables)))
        for table, content in self._rows.items():
            with _cursor(connection).copy(f"COPY {table} FROM STDIN") as target:
                target.write(content)
        for name, start, last in self._counters:
            counter = {"name": name, "value": last or start, "called": last is not None}
            connection.execute(text("SELECT setval(:name, :value, :called)"), counter)
        return True


def _rows(connection: Connection, table: str) -> bytes:
    with _cursor(connection).copy(f"COPY {table} TO STDOUT") as source:
        return b"".join(bytes(block) for block in source)


def _cursor(connection: Connection) -> Any:
    """Return a cursor of the driver, which can copy."""
    return connection.connection.cursor()
