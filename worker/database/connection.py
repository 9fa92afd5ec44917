"""Connections to the database: what makes SQLite durable, and what keeps PostgreSQL from hanging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event

from dicom_io.errors import InvalidSettings


@dataclass(frozen=True)
class Patience:
    """How long the database is waited for, in seconds, and how many connections a process keeps.

    Attributes
    ----------
    busy
        For a turn to write, and for a lock that another process holds.
    connect
        For a connection to a server.
    statement
        For one statement of a server: a network that was cut must not hold an association for ever.
    pool
        Connections to a server, at most.
    """

    busy: float = 5.0
    connect: float = 5.0
    statement: float = 30.0
    pool: int = 10


def connect(url: str, busy_timeout: float = 5.0, patience: Patience | None = None) -> Engine:
    """Return an engine for the database.

    Parameters
    ----------
    busy_timeout
        `Patience.busy`, where the rest is as by default.

    Raises
    ------
    InvalidSettings
        When the URL or its driver is not understood.
    """
    patience = patience or Patience(busy=busy_timeout)
    sqlite, postgres = url.startswith("sqlite"), url.startswith("postgresql")
    options = {"connect_args": {"timeout": patience.busy}} if sqlite else _postgres(patience) if postgres else {}
    try:
        engine = create_engine(url, **options)
    except ModuleNotFoundError as error:
        extra = ": pip install 'cxrd[postgres]'" if error.name == "psycopg" else ", which is not installed"
        raise InvalidSettings(f"ledger.url needs {error.name}{extra}") from error
    except Exception as error:  # a URL can be wrong in many ways, and SQLAlchemy has an exception for each
        raise InvalidSettings(f"ledger.url: {type(error).__name__}: cannot be used") from error
    if sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    if postgres:
        event.listen(engine, "connect", _prepare_postgres)
    return engine


def _postgres(patience: Patience) -> dict[str, Any]:
    """Return what an engine for PostgreSQL is made with.

    The isolation is stated, whatever the server's default is: the chain of events reads what the writer before it has
    committed. Keepalives and `tcp_user_timeout` (https://www.postgresql.org/docs/current/libpq-connect.html) end a
    connection whose other end is gone without a word.
    """
    limits = {
        "statement_timeout": patience.statement,
        "lock_timeout": patience.busy,
        "idle_in_transaction_session_timeout": 2 * patience.statement,
    }
    return {
        "isolation_level": "READ COMMITTED",
        "pool_pre_ping": True,
        "pool_size": patience.pool,
        "max_overflow": patience.pool,
        "pool_timeout": patience.connect,
        "pool_recycle": 1800,
        "connect_args": {
            "connect_timeout": max(2, round(patience.connect)),
            "options": " ".join(f"-c {name}={round(1000 * seconds)}" for name, seconds in limits.items()),
            "keepalives": 1,
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": round(1000 * patience.statement),
            "application_name": "cxrd",
        },
    }


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see _begin_sqlite
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # FULL fsyncs the log at each commit: an acknowledged image survives a power cut.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _prepare_postgres(connection: Any, _record: Any) -> None:
    """Have the server flush each commit, also where its default is not to: an answer must survive a power cut.

    What a site has set beside `off` stays: it may have commits wait for a second server.
    """
    cursor = connection.cursor()
    cursor.execute(
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
    )
    cursor.close()
    connection.commit()  # a rollback would take it back


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at once where we mean to write, so that no transaction fails half-way through."""
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
