"""What the audit shows of alterations: every row and every column, files, and a chain that was cut or rewritten."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, Float, Integer, String, insert, make_url, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.types import BigInteger

from dicom_io.errors import InvalidSettings
from tests.support import databases, earlier_ledgers
from tests.support.restored import RestoredDatabase
from tests.unit.worker.ledger.test_receipts import NEW
from worker.database.columns import Table, UtcDateTime
from worker.database.connection import connect
from worker.ledger import event_chain, migrations, row_digests, verification
from worker.ledger.receipts import Ledger
from worker.ledger.row_digests import _SOURCES
from worker.ledger.tables import EventRow, ReceiptRow
from worker.ledger.verification import Verification
from worker.storage.blobs import Blobs

NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
TABLES = [source.table for source in _SOURCES]


def make_earlier(url: str) -> None:
    """Make a ledger of an earlier version, with a row in every table, and migrate it."""
    engine = connect(url)
    earlier_ledgers.make(engine, "0010")  # the last one that seals no rows: the migration does
    with engine.begin() as connection:  # a destination has answered
        connection.execute(text("UPDATE commitment SET answered_at = asked_at"))
    migrations.upgrade(engine)
    engine.dispose()


@pytest.fixture(scope="module")
def sqlite_earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("earlier") / "ledger.sqlite"
    make_earlier(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="module")
def postgres_earlier() -> Iterator[RestoredDatabase]:
    database = RestoredDatabase(make_earlier)
    yield database
    database.drop()


@pytest.fixture
def sqlite_earlier_url(sqlite_earlier: Path, sqlite_url: str) -> str:
    shutil.copyfile(sqlite_earlier, str(make_url(sqlite_url).database))
    return sqlite_url


@pytest.fixture
def postgres_earlier_url(postgres_earlier: RestoredDatabase) -> Iterator[str]:
    with postgres_earlier.lend() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """A ledger that an earlier version left, and that was migrated: a row in every table."""
    engine = connect(request.getfixturevalue(f"{request.param}_earlier_url"))
    yield Ledger(engine)
    engine.dispose()


def problems(ledger: Ledger, begin: int = 0, blobs: Blobs | None = None) -> list[str]:
    return list(Verification(ledger.reading, begin).problems(blobs))


def alter(ledger: Ledger, statement: str) -> None:
    with ledger.writing() as connection:
        if ledger.engine.dialect.name == "sqlite":
            connection.execute(text("PRAGMA defer_foreign_keys = ON"))
        connection.execute(text(statement))


def another(column: str, kind: object) -> str:
    """Return SQL for another value of a column."""
    if isinstance(kind, String):
        return (
            f"substr(coalesce({column}, 'y') || 'x', 2)"
            if column.endswith("sha256")
            else f"coalesce({column}, '') || 'x'"
        )
    if isinstance(kind, UtcDateTime):
        return "'2001-01-01 00:00:00.000000'"
    assert isinstance(kind, Integer | BigInteger | Float)
    return f"coalesce({column}, 0) + 1"


KEYS = {"id", "receipt_id", "result_id", "delivery_id", "finding_id"}
COLUMNS = [(table, column) for table in TABLES for column in table.__table__.columns if column.name not in KEYS]


@pytest.mark.parametrize(("table", "column"), COLUMNS, ids=lambda each: str(getattr(each, "name", "")) or None)
def test_every_column_of_every_row_is_sealed(
    ledger: Ledger, table: type[Table], column: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, kind = column.name, column.type  # type: ignore[attr-defined]
    own = table.__tablename__
    if ledger.engine.dialect.name == "postgresql" and name in ("sha256", "destination"):
        pytest.skip("as with SQLite, and the value is too long for the column")
    monkeypatch.setattr(verification, "_PAUSE", 0)  # before it looks again: nobody else writes here
    key = "receipt_id" if own == "reanalysis" else "id"
    with ledger.reading() as connection:
        number = connection.scalar(text(f"SELECT min({key}) FROM {own}"))
        assert number is not None, f"{own} has no row"
    alter(ledger, f"UPDATE {own} SET {name} = {another(name, kind)} WHERE {key} = {number}")
    said = problems(ledger)
    assert said, f"{own}.{name}"
    assert all(each.startswith("receipt ") for each in said)


_SENT = (
    "INSERT INTO delivery (result_id, destination, state, attempts, error, created_at, sent_as)"
    " VALUES (1, 'x', 'sent', 1, '', '2026-01-01 00:00:00', '')"
)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE receipt SET sha256 = '0' WHERE id = 5", "receipt 5: its rows in receipt are not those that event"),
        ("UPDATE receipt SET patient_key = 'z' WHERE id = 5", "receipt 5: its rows in receipt"),
        ("UPDATE result SET sha256 = '0' WHERE id = 1", "receipt 1: its rows in result"),
        ("UPDATE delivery SET state = 'sent' WHERE id = 2", "receipt 1: its rows in delivery"),
        ("UPDATE feedback SET verdict = 'NORMAL'", "receipt 2: its rows in feedback"),
        ("UPDATE finding SET model = 'other' WHERE id = 1", "receipt 1: its rows in finding"),
        ("DELETE FROM feedback", "receipt 2: its rows in feedback"),
        ("DELETE FROM commitment", "receipt 1: its rows in commitment"),
        (_SENT, "receipt 1: its rows in delivery"),
    ],
)  # fmt: skip
def test_what_stayed_unseen_shows(ledger: Ledger, statement: str, said: str) -> None:
    assert problems(ledger) == []
    alter(ledger, statement)
    (line,) = problems(ledger)
    assert line.startswith(said)


_EVENT = "INSERT INTO event (id, receipt_id, at, kind, detail, previous, digest) VALUES"
_OF_RECEIPT = [column.name for column in ReceiptRow.__table__.columns]
_LIKE = ", ".join({"id": "-7", "sop_instance_uid": "'9.9'"}.get(each, each) for each in _OF_RECEIPT)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (f"{_EVENT} (-5, 1, '2026-01-01 00:00:00', 'feedback', 'null', 'x', 'y')", "event -5: was not entered by cxrd"),
        (f"{_EVENT} (0, 1, '2026-01-01 00:00:00', 'feedback', 'null', 'x', 'y')", "event 0: was not entered by cxrd"),
        (
            f"INSERT INTO receipt ({', '.join(_OF_RECEIPT)}) SELECT {_LIKE} FROM receipt WHERE id = 1",
            "receipt -7: was not entered by cxrd",
        ),
    ],
)
def test_what_is_numbered_below_the_first_shows(ledger: Ledger, statement: str, said: str) -> None:
    """It was in no range that was read, and yet `cxrd audit list` and `show` showed it."""
    alter(ledger, statement)
    (line,) = problems(ledger)
    assert line.startswith(said)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE event SET detail = 'nonsense' WHERE kind = 'analysed'", ": altered"),
        ("UPDATE event SET detail = '{}' WHERE kind = 'analysed'", ": altered"),
        ("UPDATE event SET detail = printf('%.*c', 100000, '[') WHERE kind = 'analysed'", ": altered"),
        ("UPDATE event SET detail = x'00ff' WHERE id = 2", "event 2: altered"),
        ("UPDATE event SET rows = x'ff' WHERE id = (SELECT max(id) FROM event)", ": altered"),
        ("UPDATE event SET kind = cast(x'ff' AS text) WHERE id = 2", "event 2: altered"),
        ("UPDATE receipt SET accession_number = x'ff' WHERE id = 1", "receipt 1: its rows in receipt"),
        ("UPDATE receipt SET accession_number = cast(x'ff' AS text) WHERE id = 1", "receipt 1: its rows in receipt"),
        ("UPDATE result SET sha256 = x'ff' WHERE receipt_id = 1", "receipt 1: its rows in result"),
    ],
)
def test_no_value_ends_the_verification(sqlite_url: str, tmp_path: Path, statement: str, said: str) -> None:
    """One value that is no text, no UTF-8 or no JSON had `cxrd audit verify` end without a word of the rest."""
    ledger = Ledger(connect(sqlite_url))
    earlier_ledgers.make(ledger.engine, earlier_ledgers.REVISIONS[-1])
    migrations.upgrade(ledger.engine)
    alter(ledger, statement)
    alter(ledger, "UPDATE receipt SET reason = 'z' WHERE id = 5")
    found = problems(ledger, blobs=Blobs(tmp_path / "objects"))
    assert any(said in each for each in found), found
    assert any(each.startswith("receipt 5: its rows in receipt") for each in found)
    ledger.engine.dispose()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DROP VIEW findings", "view findings: was removed"),
        ("DROP VIEW refusals; CREATE VIEW refusals AS SELECT 1", "view refusals: is not the one that cxrd made"),
        (
            "CREATE TRIGGER quiet AFTER INSERT ON event BEGIN UPDATE receipt SET reason = 'x'; END",
            "trigger quiet on event: is none of cxrd's",
        ),
        ("CREATE VIEW of_the_site AS SELECT 1", None),
    ],
)
def test_a_view_that_lies_and_a_trigger_show(sqlite_url: str, statement: str, said: str | None) -> None:
    ledger = Ledger(databases.opened(sqlite_url))
    raw = ledger.engine.raw_connection()
    raw.executescript(statement)
    raw.close()
    assert [each[: len(said or "")] for each in problems(ledger)] == [said] * (said is not None)
    ledger.engine.dispose()


_FUNCTION = "CREATE FUNCTION quiet() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
_SHADOWED = "ALTER TABLE feedback RENAME TO real; CREATE VIEW feedback AS SELECT * FROM real"


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DROP VIEW refusals", "view refusals: was removed"),
        (
            "CREATE OR REPLACE VIEW refusals AS SELECT id AS event_id, at, detail FROM event WHERE kind = 'nothing'",
            "view refusals: is not the one that cxrd made",
        ),
        (
            f"{_FUNCTION}; CREATE TRIGGER quiet BEFORE UPDATE ON delivery EXECUTE FUNCTION quiet()",
            "trigger quiet on delivery: is none of cxrd's",
        ),
        ("CREATE RULE quiet AS ON DELETE TO feedback DO INSTEAD NOTHING", "rule quiet on feedback: is none of cxrd's"),
        ("ALTER TABLE event ENABLE ROW LEVEL SECURITY", "table event: row security is none of cxrd's"),
        (_SHADOWED, "table feedback: is no table any more"),
        ("CREATE VIEW of_the_site AS SELECT 1; CREATE TABLE of_theirs (id int)", None),
    ],
)
def test_what_postgresql_computes_by_itself_shows(postgres_url: str, statement: str, said: str | None) -> None:
    ledger = Ledger(connect(postgres_url))
    migrations.upgrade(ledger.engine)
    with ledger.writing() as connection:
        connection.execute(text(statement))
    found = problems(ledger)
    assert [each[: len(said or "")] for each in found[:1]] == [said] * (said is not None)
    assert found == problems(ledger)  # what was made to compare is gone
    ledger.engine.dispose()


def test_a_table_that_became_a_view_shows(sqlite_url: str) -> None:
    ledger = Ledger(connect(sqlite_url))
    migrations.upgrade(ledger.engine)
    raw = ledger.engine.raw_connection()
    raw.executescript(_SHADOWED)
    raw.close()
    assert "table feedback: is no table any more; what it shows may stand in no row" in problems(ledger)
    ledger.engine.dispose()


def test_an_accepted_image_without_an_answer_that_is_deleted_shows(sqlite_url: str) -> None:
    ledger = Ledger(databases.opened(sqlite_url))
    assert ledger.receive(NEW) == 1
    with ledger.engine.connect().execution_options(reading=True) as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
    raw = ledger.engine.raw_connection()
    raw.execute("PRAGMA foreign_keys = OFF")
    raw.execute("DELETE FROM receipt")
    raw.commit()
    raw.close()
    assert problems(ledger) == ["receipt 1: removed"]
    ledger.engine.dispose()


def test_what_is_entered_afterwards_is_sealed_too(ledger: Ledger) -> None:
    number = ledger.receive(replace(NEW, sop_instance_uid="1.9"))
    assert problems(ledger) == []
    alter(ledger, f"UPDATE receipt SET accession_number = 'z' WHERE id = {number}")
    assert [each[:30] for each in problems(ledger)] == [f"receipt {number}: its rows in receipt"[:30]]


def test_a_digest_that_is_altered_or_taken_away_shows(ledger: Ledger) -> None:
    with ledger.reading() as connection:
        last = connection.scalar(text("SELECT max(id) FROM event"))
    alter(ledger, f"UPDATE event SET rows = NULL WHERE id = {last}")
    said = problems(ledger)
    assert f"event {last}: altered" in said
    assert any(f"its newest event, {last}, does not seal its rows" in each for each in said)


def test_it_can_begin_later_and_then_looks_at_less(ledger: Ledger) -> None:
    everything = Verification(ledger.reading)
    assert list(everything.problems()) == []
    number, digest = everything.counts.last
    assert everything.counts.images == 7
    fresh = ledger.receive(replace(NEW, sop_instance_uid="1.9"))
    alter(ledger, "UPDATE receipt SET calling_ae = 'z' WHERE id = 5")
    rest = Verification(ledger.reading, number + 1)
    assert list(rest.problems()) == []
    assert (rest.counts.events, rest.counts.images) == (1, 1)
    alter(ledger, f"UPDATE receipt SET calling_ae = 'z' WHERE id = {fresh}")
    assert len(problems(ledger, number + 1)) == 1
    alter(ledger, f"UPDATE event SET digest = '{digest[::-1]}' WHERE id = {number}")
    assert problems(ledger, number + 1)[0] == f"event {number + 1}: an event before it was removed or altered"
    with pytest.raises(InvalidSettings, match="--from 99999: there is no such event"):
        problems(ledger, 99999)


@pytest.mark.parametrize("kind", ["delivered", "feedback", "postponed", "shadow", "reanalysis_requested"])
def test_a_later_event_does_not_seal_what_was_altered(ledger: Ledger, kind: str) -> None:
    alter(ledger, "UPDATE receipt SET patient_key = 'z' WHERE id = 1")
    with ledger.writing() as connection:
        event_chain.append(connection, kind, NOON, 1)
    (line,) = problems(ledger)
    assert line.startswith("receipt 1: its rows in receipt are not those that event ")


def test_an_event_that_is_numbered_anew_shows(ledger: Ledger) -> None:
    """Its digest fitted with any number between those of its neighbours, and what names it named another one."""
    for minute in range(3):
        ledger.record_event("started", NOON + dt.timedelta(minutes=minute), {"role": "work"})
    with ledger.reading() as connection:
        last = connection.scalar(text("SELECT max(id) FROM event"))
    assert last is not None
    assert problems(ledger) == []
    alter(ledger, f"UPDATE event SET id = {last + 5} WHERE id = {last}")
    assert problems(ledger) == [f"event {last + 5}: altered"]
    alter(ledger, f"UPDATE event SET id = {last} WHERE id = {last + 5}")
    ledger.record_event("started", NOON, {"role": "work"})
    alter(ledger, f"DELETE FROM event WHERE id = {last}")
    assert problems(ledger) == [
        f"event {last + 1}: an event before it was removed or altered",
        f"event {last + 1}: the number before it is missing; cxrd leaves none out",
    ]


def test_events_of_earlier_versions_need_no_number_in_their_digest(ledger: Ledger) -> None:
    with ledger.reading() as connection:
        last, previous = event_chain._last(connection)
    own = event_chain.digest(previous, None, NOON, "started", "{}")
    with ledger.writing() as connection:  # as PostgreSQL counts on after a transaction that was undone
        values = {"id": last + 3, "at": NOON, "kind": "started", "detail": "{}", "previous": previous, "digest": own}
        connection.execute(insert(EventRow).values(**values))
    ledger.record_event("started", NOON, {"role": "work"})
    assert problems(ledger) == []
    with ledger.reading() as connection:
        assert connection.scalar(text("SELECT max(id) FROM event")) == last + 4


def test_no_two_events_follow_the_same_one(ledger: Ledger) -> None:
    with ledger.reading() as connection:
        row = dict(connection.execute(text("SELECT * FROM event ORDER BY id DESC LIMIT 1")).mappings().one())
    row.pop("id")
    row["at"] = NOON
    with pytest.raises(IntegrityError), ledger.writing() as connection:
        connection.execute(insert(EventRow).values(**row))


def test_a_chain_that_forks_already_is_migrated_and_shows(sqlite_url: str) -> None:
    engine = connect(sqlite_url)
    earlier_ledgers.make(engine, "0010")
    with engine.begin() as connection:
        connection.execute(text("UPDATE event SET previous = (SELECT min(digest) FROM event) WHERE id IN (5, 6)"))
    migrations.upgrade(engine)
    ledger = Ledger(engine)
    assert "event 5: an event before it was removed or altered" in problems(ledger)
    test_no_two_events_follow_the_same_one(ledger)
    engine.dispose()


def test_files_are_held_to_their_digests(ledger: Ledger, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "objects")
    numbers, digests = [], []
    for count in range(3):
        digests.append(blobs.put(bytes([count]) * 1000))
        new = replace(NEW, sop_instance_uid=f"1.9.{count}", sha256=digests[-1], store=blobs.store)
        numbers.append(ledger.receive(new))
    elsewhere = ledger.receive(replace(NEW, sop_instance_uid="1.9.9", sha256="9" * 64, store="other"))
    assert elsewhere is not None
    with ledger.reading() as connection:
        before = connection.scalar(text(f"SELECT min(id) FROM event WHERE receipt_id = {numbers[0]}"))
    look = Verification(ledger.reading, int(before or 0))
    assert list(look.problems(blobs)) == []
    assert (look.counts.files, look.counts.elsewhere) == (3, 1)
    path = blobs.path(digests[0])
    path.chmod(0o600)
    path.write_bytes(b"\1" + path.read_bytes()[1:])
    blobs.path(digests[1]).unlink()
    assert problems(ledger, int(before or 0), blobs) == [
        f"receipt {numbers[0]}: its file {digests[0][:12]} has another content",
        f"receipt {numbers[1]}: its file {digests[1][:12]} is missing from the store",
    ]


def test_what_changes_meanwhile_is_no_alteration(postgres_ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On PostgreSQL each statement sees another state: what differs is looked at again."""
    ledger = Ledger(databases.opened(postgres_ledger_url))
    number = ledger.receive(NEW)
    assert number is not None
    of_receipts = row_digests.of_receipts
    times: list[int] = []

    def meanwhile(
        connection: Connection, numbers: Sequence[int], tables: Collection[str] | None = None
    ) -> dict[int, str]:
        if not times:
            times.append(1)
            with ledger.writing() as other:
                other.execute(text("UPDATE receipt SET priority = 0"))
                event_chain.append(other, "requeued", NOON, number)
        return of_receipts(connection, numbers, tables)

    monkeypatch.setattr(row_digests, "of_receipts", meanwhile)
    assert problems(ledger) == []
    ledger.engine.dispose()
