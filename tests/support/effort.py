"""How much a database has to do for a call: counted, so that a busy machine says the same as an idle one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event

_STEPS = 20
"""Instructions of SQLite's virtual machine between two calls of our counter."""
_READING = ("SELECT", "UPDATE", "DELETE", "WITH")


@contextmanager
def effort(engine: Engine) -> Iterator[Counter[str]]:
    """Count what the database does: instructions of SQLite's machine, or pages that PostgreSQL looks at.

    Yields
    ------
    Counter
        By statement. PostgreSQL does each of them once more for that, and takes it back.
    """
    counts: Counter[str] = Counter()
    if engine.dialect.name == "sqlite":
        with _instructions(engine, counts):
            yield counts
    else:
        with _pages(engine, counts):
            yield counts


@contextmanager
def _instructions(engine: Engine, counts: Counter[str]) -> Iterator[None]:
    statement, is_over = "", False

    def before(connection: Any, _cursor: Any, words: str, *_: Any) -> None:
        nonlocal statement
        statement = words
        connection.connection.driver_connection.set_progress_handler(count, _STEPS)

    def count() -> int:
        counts[statement] += 0 if is_over else _STEPS
        return 0

    with _listening(engine, before):
        yield
    is_over = True


@contextmanager
def _pages(engine: Engine, counts: Counter[str]) -> Iterator[None]:
    def before(connection: Any, _cursor: Any, words: str, values: Any, *_: Any) -> None:
        if not words.lstrip().upper().startswith(_READING) or "pg_advisory" in words:
            return
        driver = connection.connection.driver_connection.cursor()
        driver.execute("SAVEPOINT effort")
        driver.execute(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {words}", values[0] if isinstance(values, list) else values
        )
        plan = driver.fetchone()[0][0]["Plan"]
        driver.execute("ROLLBACK TO SAVEPOINT effort")
        counts[words] += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]

    with _listening(engine, before):
        yield


@contextmanager
def _listening(engine: Engine, before: Callable[..., None]) -> Iterator[None]:
    event.listen(engine, "before_cursor_execute", before)
    yield
    event.remove(engine, "before_cursor_execute", before)
