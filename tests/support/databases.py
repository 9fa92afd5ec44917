"""Databases for tests. The migrations run once in a process; each test gets what they made."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from worker.database.connection import Patience, connect
from worker.ledger import migrations

POSTGRES = os.environ.get("CXRD_TEST_POSTGRES", "postgresql+psycopg://root@127.0.0.1:5432/postgres")


@contextmanager
def postgres() -> Iterator[str]:
    """Make an empty database on a real PostgreSQL server; yield its URL."""
    admin = create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    name = f"cxrd_{uuid.uuid4().hex}"
    try:
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
    except OperationalError:
        reason = f"no PostgreSQL at {POSTGRES} (set CXRD_TEST_POSTGRES)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    yield POSTGRES.rsplit("/", 1)[0] + f"/{name}"
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


def opened(url: str, busy_timeout: float = 5.0, patience: Patience | None = None) -> Engine:
    """Connect to a ledger; where its database is still empty, it gets the newest schema."""
    file = make_url(url).database
    if url.startswith("sqlite") and file and not Path(file).exists():
        Path(file).write_bytes(_migrated())
    engine = connect(url, busy_timeout, patience)
    migrations.upgrade(engine)  # does nothing where that is done
    return engine


@cache
def _migrated() -> bytes:
    """Return the SQLite file of a new ledger."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ledger.sqlite"
        engine = connect(f"sqlite:///{file}")
        migrations.upgrade(engine)
        engine.dispose()
        assert list(file.parent.iterdir()) == [file]  # SQLite has closed it: no log beside it holds a part of it
        return file.read_bytes()
