"""Fixtures that several kinds of tests share: ledgers on real databases, and objects to send."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # test modules share the cores; libraries read this when they are imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from worker.database.connection import connect
from worker.inference.analyzer import Reader
from worker.ledger import migrations
from worker.ledger.receipts import Ledger
from worker.settings import Settings

POSTGRES = os.environ.get("CXRD_TEST_POSTGRES", "postgresql+psycopg://root@127.0.0.1:5432/postgres")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest modules, so that no worker is left with one of them at the end."""
    items.sort(key=lambda item: "modeltrain/training" not in item.nodeid)


@pytest.fixture(autouse=True)
def _no_log_of_another_test() -> Iterator[None]:
    """Undo what a command that ran in this process made of the log."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def reader() -> Iterator[Reader]:
    """The shipped model with the shipped settings."""
    shipped = Reader(Settings())
    yield shipped
    shipped.close()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.sqlite'}"


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """A database of this test's own on a real PostgreSQL server."""
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


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """A ledger on SQLite, and again on PostgreSQL."""
    engine = connect(request.getfixturevalue(f"{request.param}_url"), busy_timeout=0.5)
    migrations.upgrade(engine)
    yield Ledger(engine)
    engine.dispose()
