"""What one test leaves in the PostgreSQL database that tests share does not reach the next one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, text

from tests.support.restored import RestoredDatabase


@pytest.fixture(scope="module")
def database() -> Iterator[RestoredDatabase]:
    """A database with a row in one of two tables."""

    def fill(url: str) -> None:
        run(
            url,
            "CREATE TABLE one (id serial PRIMARY KEY, word text); CREATE TABLE other (one_id int REFERENCES one)",
            "INSERT INTO one (word) VALUES ('a\tb')",
        )

    made = RestoredDatabase(fill)
    yield made
    made.drop()


def run(url: str, *statements: str) -> list[tuple[object, ...]]:
    """Give statements, each of which is committed; return the rows of the last one."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            answer = connection.execute(text(statement))
        rows = [tuple(row) for row in answer] if answer.returns_rows else []
    engine.dispose()
    return rows


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        ("INSERT INTO one (word) VALUES ('c'); INSERT INTO other VALUES (2)", True),
        ("DELETE FROM one", True),
        ("UPDATE one SET word = 'c'", True),
        ("SELECT setval('one_id_seq', 7)", True),
        ("ALTER TABLE other ADD more int", False),
        ("DROP TABLE other", False),
        ("CREATE VIEW third AS SELECT 1", False),
        ("ALTER TABLE other DROP CONSTRAINT other_one_id_fkey", False),
        ("GRANT SELECT ON one TO public", False),
        ("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = ''1MB''', current_database()); END $$", False),
    ],
)
def test_the_next_test_gets_it_as_it_was_made(database: RestoredDatabase, left: str, *, kept: bool) -> None:
    with database.lend() as url:
        run(url, left)
    with database.lend() as again:
        assert (again == url) == kept
        assert run(again, "SELECT id, word FROM one") == [(1, "a\tb")]
        assert run(again, "SELECT one_id FROM other") == []
        assert run(again, "SHOW work_mem") != [("1MB",)]
        assert run(again, "INSERT INTO one (word) VALUES ('d') RETURNING id") == [(2,)]


def test_a_connection_that_is_left_open_is_ended(database: RestoredDatabase) -> None:
    with database.lend() as url:
        engine = create_engine(url)
        left = engine.connect()
        left.execute(text("INSERT INTO one (word) VALUES ('c')"))
    with database.lend() as again:
        assert run(again, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") <= [(2,)]
        assert run(again, "SELECT id FROM one") == [(1,)]
    left.invalidate()
    engine.dispose()
