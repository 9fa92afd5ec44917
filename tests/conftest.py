"""Fixtures that several kinds of tests share: ledgers on real databases, and objects to send."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # test modules share the cores; libraries read this when they are imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import socketserver
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.support import databases
from tests.support.restored import RestoredDatabase
from worker.database.connection import connect
from worker.inference.analyzer import Reader
from worker.ledger.receipts import Ledger
from worker.settings import Settings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest modules, so that no worker is left with one of them at the end."""
    items.sort(key=lambda item: "modeltrain/training" not in item.nodeid)


@pytest.fixture(autouse=True)
def _no_log_of_another_test() -> Iterator[None]:
    """Undo what a command that ran in this process made of the log."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session", autouse=True)
def _servers_end_soon() -> Iterator[None]:
    """A server of socketserver, also one of pynetdicom's, looks only twice a second whether it is to end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socketserver.BaseServer.serve_forever, "__defaults__", (0.02,))
        yield


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
    """A database of this test's own on a real PostgreSQL server; it is empty."""
    with databases.postgres() as url:
        yield url


@pytest.fixture(scope="session")
def _new_ledger_on_postgres() -> Iterator[RestoredDatabase]:
    """A database with the newest schema and no rows."""
    database = RestoredDatabase(lambda url: databases.opened(url).dispose())
    yield database
    database.drop()


@pytest.fixture
def sqlite_ledger_url(sqlite_url: str) -> str:
    """A database with the newest schema and no rows."""
    databases.opened(sqlite_url).dispose()
    return sqlite_url


@pytest.fixture
def postgres_ledger_url(_new_ledger_on_postgres: RestoredDatabase) -> Iterator[str]:
    """The same on PostgreSQL."""
    with _new_ledger_on_postgres.lend() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """A ledger on SQLite, and again on PostgreSQL."""
    engine = connect(request.getfixturevalue(f"{request.param}_ledger_url"), busy_timeout=0.5)
    yield Ledger(engine)
    engine.dispose()
