"""Transactions: each writer takes its turn, and what comes last in every transaction comes last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from dicom_io.errors import OutOfResources
from worker.database.outage import LOCKED, outage
from worker.database.turns import turns_at

_AT_END = "cxrd at the end"


class Database:
    """Reading and writing transactions of one database. A locked or full one raises `OutOfResources`.

    Parameters
    ----------
    engine
        Of `worker.database.connection.connect`.
    patience
        Seconds that a thread waits for its turn to write.
    """

    def __init__(self, engine: Engine, patience: float = 5.0) -> None:
        self._engine = engine
        self._patience = patience
        url = engine.url
        in_file = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
        self._turns = turns_at(str(Path(url.database or "").resolve())) if in_file else None

    @property
    def engine(self) -> Engine:
        """The engine, for what asks the schema."""
        return self._engine

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Yield a connection in a writing transaction, committed at the end."""
        try:
            with ExitStack() as stack:
                if self._turns is not None:
                    stack.enter_context(self._turns.turn(self._patience))
                connection = stack.enter_context(self._engine.begin())
                pending: list[Callable[[Connection], None]] = []
                connection.info[_AT_END] = pending
                try:
                    yield connection
                    for act in pending:
                        act(connection)
                finally:
                    # The driver's connection goes back to the pool with this dictionary.
                    if not connection.invalidated:
                        connection.info.pop(_AT_END, None)
        except (IntegrityError, DataError):  # of the values, not of the database
            raise
        except DBAPIError as error:
            raise outage(error, self._engine, "the ledger is locked, full or cannot be reached") from error
        except PoolTimeout as error:
            raise OutOfResources("all connections to the ledger are in use") from error
        except TimeoutError as error:
            raise OutOfResources(LOCKED) from error

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection for queries."""
        try:
            with self._engine.connect().execution_options(reading=True) as connection:
                yield connection
        except DBAPIError as error:
            raise outage(error, self._engine, "the ledger is locked or cannot be reached") from error
        except PoolTimeout as error:
            raise OutOfResources("all connections to the ledger are in use") from error


def at_end(connection: Connection, act: Callable[[Connection], Any]) -> None:
    """Do something as the last step of the transaction; at once where it was not begun by `Database.writing`.

    On PostgreSQL the events of the audit wait for each other there, and a transaction that waits while it will still
    want rows that others have is a deadlock.
    """
    pending = connection.info.get(_AT_END)
    if pending is None:
        act(connection)
    else:
        pending.append(act)
