"""The schema changes by `cxrd db migrate` alone, whole or not at all, and rows of every earlier version survive it."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, insert, text

from dicom_io.errors import InvalidSettings
from tests.support import earlier_ledgers
from tests.support.peers import wait_for
from tests.unit.worker.ledger.test_receipts import NEW
from worker.clock import now
from worker.database.connection import connect
from worker.ledger import migrations, verification
from worker.ledger.database import migrate, open_ledger, schema
from worker.ledger.processes import busy_hosts
from worker.ledger.queries import Filter, findings, story
from worker.ledger.receipts import Ledger
from worker.ledger.tables import ProcessRow
from worker.settings import LedgerSettings, Settings, Storage
from worker.storage.lock import FolderLock

CXRD = Path(sys.executable).with_name("cxrd")
OLDEST = earlier_ledgers.REVISIONS[0]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@contextmanager
def connected(url: str) -> Iterator[Engine]:
    engine = connect(url, busy_timeout=20)
    yield engine
    engine.dispose()


def rows(engine: Engine, query: str) -> list[tuple[Any, ...]]:
    with engine.connect().execution_options(reading=True) as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def problems(engine: Engine) -> list[str]:
    with engine.connect().execution_options(reading=True) as connection:
        return verification.verify(connection)[1]


def test_rows_of_every_revision_but_the_newest_are_known() -> None:
    assert set(migrations.REVISIONS[:-1]) <= set(earlier_ledgers.REVISIONS)


@pytest.mark.parametrize("revision", earlier_ledgers.REVISIONS)
def test_rows_of_each_revision_survive(url: str, revision: str) -> None:
    with connected(url) as engine:
        earlier_ledgers.make(engine, revision)
        events = rows(engine, "SELECT id, kind, detail, digest FROM event ORDER BY id")
        migrations.upgrade(engine)
        assert migrations.revision(engine) == migrations.NEEDED
        assert rows(engine, "SELECT id, kind, detail, digest FROM event ORDER BY id")[: len(events)] == events
        assert problems(engine) == []
        _check_images(Ledger(engine), revision)
        assert rows(engine, "SELECT receipt_id, destination, state, status, error FROM deliveries ORDER BY 1, 2") == [
            (1, "archive", "failed", 0xA900, "the peer refuses it with status 0xA900"),
            (1, "pacs", "sent", 0, ""),
            (2, "pacs", "pending", 0xA700, "the peer answers with status 0xA700"),
        ]
        if revision >= "0002":
            assert rows(engine, "SELECT receipt_id, verdict, reader FROM feedback") == [(2, "PNEUMONIA", "jd")]
            assert rows(engine, "SELECT receipt_id, model, answer FROM shadow") == [(1, "net-2.0.0", "flagged")]
        if revision >= "0003":
            asked = rows(engine, "SELECT receipt_id, state, model FROM reanalysis ORDER BY receipt_id")
            assert asked == [(1, "done", "net-2.0.0"), (2, "waiting", "net-2.0.0")]
        if revision >= "0004":
            assert rows(engine, "SELECT receipt_id, outlier, input_mean FROM outside") == [(7, 2.0, 0.5)]
        if revision >= "0008":
            assert rows(engine, "SELECT transaction_uid, destination FROM commitment") == [("2.25.9", "pacs")]
        deleted = [(3,)] if revision >= "0009" else []
        assert rows(engine, "SELECT id FROM receipt WHERE deleted_at IS NOT NULL") == deleted
        assert set(rows(engine, "SELECT version, replaced_by FROM findings")) == {(1, None)}
        _check_versions(Ledger(engine))


def _check_versions(ledger: Ledger) -> None:
    """Hold what comes in under the UIDs of earlier rows: the same file, another one, and one that was deleted."""
    copy = replace(NEW, sop_instance_uid="1.2.1", sha256="1" * 64, content_sha256="c" * 64)
    assert ledger.receive(copy) is None
    number = ledger.receive(replace(copy, sha256="f" * 64))  # what is in the earlier file has no digest
    assert number is not None
    (row,) = [row for row in findings(ledger, Filter()) if row["receipt_id"] == number]
    assert row["version"] == 2
    (row,) = [row for row in findings(ledger, Filter()) if row["receipt_id"] == 1]
    assert (row["version"], row["replaced_by"]) == (1, number)
    ledger.restore(3, replace(copy, sop_instance_uid="1.2.3", sha256="3" * 64), "deleted")
    assert ledger.deleted([3]) == {}
    with ledger.reading() as connection:
        assert verification.verify(connection)[1] == []


def _check_images(ledger: Ledger, revision: str) -> None:
    """Hold each image to what `earlier_ledgers` has put in."""
    found = {row["receipt_id"]: row for row in findings(ledger, Filter())}
    assert sorted(found) == list(range(1, 8 if revision >= "0004" else 7))
    statuses = {number: row["status"] for number, row in found.items()}
    assert statuses.pop(6) in ("working", "received")  # where leases took the place of a state
    assert statuses.pop(7, "not_analysed") == "not_analysed"
    assert statuses == {1: "analysed", 2: "analysed", 3: "not_analysed", 4: "failed", 5: "received"}
    assert [row["sop_instance_uid"] for _, row in sorted(found.items())] == [
        f"1.2.{number}" for number in sorted(found)
    ]
    assert (found[2]["probability"], found[2]["answer"], found[2]["model"]) == (0.125, "not flagged", "net-1.0.0")
    again = revision >= "0003"
    assert (found[1]["answer"], found[1]["answers"]) == ("flagged", 2 if again else 1)
    assert found[1]["model"] == ("net-2.0.0" if again else "net-1.0.0")
    assert found[1]["operating_point"] == ("screening" if revision >= "0002" else None)
    assert ("[10, 20, 60, 90]" in (found[1]["regions"] or "")) == (revision >= "0002")
    assert (found[3]["reason"], found[4]["reason"]) == (
        "modality MR is not among rules.modalities",
        "pixel data is cut off",
    )
    whole = story(ledger, "2.25.11")
    assert whole is not None
    first, *later = whole["answers"]
    assert (first["model"], first["probability"], len(later)) == ("net-1.0.0", 0.9375, int(again))
    assert [result["sop_instance_uid"] for result in whole["results"]][:2] == ["2.25.11", "2.25.12"]


class Interrupted(RuntimeError):
    """What a test throws into the middle of a migration."""


@contextmanager
def at_statement(engine: Engine, number: int, what: Callable[[], None]) -> Iterator[list[str]]:
    """Do something before so many statements have been executed; yield the list of those that were."""
    seen: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)
        if len(seen) == number:
            what()

    event.listen(engine, "before_cursor_execute", count)
    yield seen
    event.remove(engine, "before_cursor_execute", count)


def interrupt() -> None:
    raise Interrupted


def test_an_error_in_the_middle_leaves_the_older_revision(url: str) -> None:
    with connected(url) as engine:
        earlier_ledgers.make(engine, OLDEST)
        before = rows(engine, "SELECT * FROM findings ORDER BY receipt_id")
        number, ended = 5, False
        while not ended:
            with at_statement(engine, number, interrupt) as seen:
                try:
                    migrations.upgrade(engine)
                    ended = True
                except Interrupted:
                    assert len(seen) >= number
            if not ended:
                assert migrations.revision(engine) == OLDEST
                assert rows(engine, "SELECT * FROM findings ORDER BY receipt_id") == before
            number += 9
        assert number > 50  # it was interrupted at several places
        assert migrations.revision(engine) == migrations.NEEDED
        assert problems(engine) == []


# A child at a time migrates a copy, and kills itself before a statement; nothing of it runs afterwards.
_KILLED = """
import os, shutil, signal, sys
from sqlalchemy import event
from worker.ledger import migrations
from worker.database.connection import connect
source, copies = sys.argv[1], sys.argv[2:]
for number, copy in zip(range(12, 1000, 17), copies):
    shutil.copy(source, copy)
    child = os.fork()
    if not child:
        engine, seen = connect(f"sqlite:///{copy}"), []
        @event.listens_for(engine, "before_cursor_execute")
        def count(*_):
            seen.append(1)
            if len(seen) == number:
                os.kill(os.getpid(), signal.SIGKILL)
        migrations.upgrade(engine)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_process_killed_in_the_middle_leaves_the_older_revision(tmp_path: Path, sqlite_url: str) -> None:
    with connected(sqlite_url) as engine:
        earlier_ledgers.make(engine, OLDEST)
        before = rows(engine, "SELECT * FROM findings ORDER BY receipt_id")
    copies = [tmp_path / f"copy{number}.sqlite" for number in range(4)]
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, tmp_path / "ledger.sqlite", *copies],
        check=True, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert [int(code) for code in done.stdout.split()] == [-signal.SIGKILL] * 4
    for copy in copies:
        with connected(f"sqlite:///{copy}") as engine:
            assert migrations.revision(engine) == OLDEST
            assert rows(engine, "SELECT * FROM findings ORDER BY receipt_id") == before
            assert rows(engine, "PRAGMA integrity_check") == [("ok",)]
            migrations.upgrade(engine)
            assert problems(engine) == []


def test_a_migration_that_was_killed_is_done_by_the_next_one(tmp_path: Path, url: str) -> None:
    points = tmp_path / "points"
    points.mkdir()
    (points / "migrating").touch()
    variables = {"CXRD_LEDGER__URL": url, "CXRD_STORAGE__FOLDER": str(tmp_path), "CXRD_TEST_FAIL_POINTS": str(points)}
    with connected(url) as engine:
        earlier_ledgers.make(engine, OLDEST)
        for code, revision in ((-signal.SIGKILL, OLDEST), (0, migrations.NEEDED)):
            done = subprocess.run([str(CXRD), "db", "migrate"], env=os.environ | variables, check=False, timeout=500)
            assert (done.returncode, migrations.revision(engine)) == (code, revision)
        assert problems(engine) == []


def test_a_database_that_others_work_with_is_known(url: str) -> None:
    with connected(url) as engine:
        earlier_ledgers.make(engine, OLDEST)
        assert busy_hosts(engine, now()) == []  # that revision knows of no processes
        migrations.upgrade(engine)
        with engine.begin() as connection:
            for owner, host, age in (("a", "there", 5), ("b", "there", 6), ("c", "lost", 60)):
                seen = now() - dt.timedelta(seconds=age)
                values = {"owner": owner, "role": "work", "host": host, "pid": 1, "started_at": seen, "seen_at": seen}
                connection.execute(insert(ProcessRow).values(**values))
        assert busy_hosts(engine, now()) == ["there"]


def settings_for(url: str, folder: Path) -> Settings:
    return Settings(storage=Storage(folder=folder), ledger=LedgerSettings(url=url, busy_timeout=20))


def test_two_that_migrate_at_once_do_it_once(tmp_path: Path, url: str) -> None:
    with connected(url) as engine:
        earlier_ledgers.make(engine, OLDEST)
        environment = {
            "CXRD_LEDGER__URL": url,
            "CXRD_STORAGE__FOLDER": str(tmp_path),
            "CXRD_LEDGER__BUSY_TIMEOUT": "300",
        }
        connection = engine.connect()
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_lock(7163547265)"))
        else:
            connection.execute(text("SELECT 1"))  # begins a transaction that may write
        command, variables = [str(CXRD), "db", "migrate"], os.environ | environment
        both = [subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        wait_for(lambda: all(_has_opened(process.pid, tmp_path, engine) for process in both), 300)
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_unlock(7163547265)"))
        connection.close()
        texts = [process.communicate(timeout=300)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0]
        assert all(migrations.NEEDED in said for said in texts)
        assert migrations.revision(engine) == migrations.NEEDED
        assert problems(engine) == []


def _has_opened(pid: int, folder: Path, engine: Engine) -> bool:
    if engine.dialect.name == "postgresql":
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        return int(rows(engine, waiting)[0][0]) == 2
    open_files = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()]
    return str(folder / "ledger.sqlite") in open_files


def test_only_an_empty_database_gets_its_schema_by_itself(tmp_path: Path, url: str) -> None:
    settings = settings_for(url, tmp_path)
    assert schema(settings).revision is None
    open_ledger(settings).engine.dispose()
    assert schema(settings).revision == migrations.NEEDED


def test_an_older_database_is_left_alone_and_the_message_says_what_to_do(tmp_path: Path, url: str) -> None:
    settings = settings_for(url, tmp_path)
    with connected(url) as engine:
        earlier_ledgers.make(engine, "0003")
        said = (
            f"the database is at revision 0003, this version of cxrd needs {migrations.NEEDED}: "
            "stop cxrd, copy the database, run `cxrd db migrate`"
        )
        with pytest.raises(InvalidSettings) as raised:
            open_ledger(settings)
        assert str(raised.value) == said
        assert migrations.revision(engine) == "0003"
        with contextlib.closing(FolderLock(tmp_path)), pytest.raises(InvalidSettings, match="a daemon is running on"):
            migrate(settings)
        assert migrations.revision(engine) == "0003"
        assert migrate(settings).revision == "0003"
        assert migrate(settings).revision == migrations.NEEDED
        assert problems(engine) == []
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        for command in (open_ledger, migrate):
            with pytest.raises(InvalidSettings, match="revision 9999, which this version of cxrd does not know"):
                command(settings)


def test_looking_makes_no_database(tmp_path: Path) -> None:
    settings = Settings(storage=Storage(folder=tmp_path / "data"))
    assert schema(settings).revision is None
    assert schema(settings).database == str(tmp_path / "data" / "ledger.sqlite")
    assert not (tmp_path / "data").exists()


def test_a_password_is_not_shown() -> None:
    settings = Settings(ledger=LedgerSettings(url="postgresql+psycopg://cxrd:secret@127.0.0.1:1/none"))
    with pytest.raises(Exception, match="cannot be opened") as raised:
        schema(settings)
    assert "secret" not in str(raised.value)


def test_a_copy_of_the_file_is_a_copy_of_the_ledger(tmp_path: Path, sqlite_url: str) -> None:
    """What the message asks for before a migration holds: the closed database is one file."""
    with connected(sqlite_url) as engine:
        earlier_ledgers.make(engine, OLDEST)
    shutil.copy(tmp_path / "ledger.sqlite", tmp_path / "copy.sqlite")
    with sqlite3.connect(tmp_path / "copy.sqlite") as copy:
        assert copy.execute("SELECT count(*) FROM receipt").fetchone() == (6,)
    copy.close()
