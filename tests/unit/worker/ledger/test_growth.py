"""What cxrd does by itself costs the same however much the ledger holds. Counted: instructions, or pages, not time."""

from __future__ import annotations

import csv
import datetime as dt
import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from benchmarks.ledger_rows import DESTINATION, Amount, fill
from benchmarks.ledger_work import STORE, Act, Work
from tests.support.effort import effort
from worker.database.connection import connect
from worker.ledger import migrations, queries, retention
from worker.ledger.deliveries import Deliveries
from worker.ledger.queries import Filter, export, findings
from worker.ledger.receipts import Ledger
from worker.ledger.retention import Retention
from worker.queue.claim import Queue, put
from worker.queue.task import Kind

NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
FEW, MANY = 2000, 10_000
_SLACK = 1.3
"""How many times as much the same may cost: trees grow a little in height."""
_LEAST = {"sqlite": 200, "postgresql": 200}
"""Instructions, or pages, that do not count: each row that is looked up takes some. A table here has more."""
_GROWING = {
    "audit list --answer flagged",  # until PostgreSQL believes that the newest will do
    "audit list --status failed",  # with the number of those
    "audit list --undelivered",
    "audit list: --until the middle",  # with those that came after: --below leads there at once
    "check: counts",  # of all there ever were
    "status",  # with the images of a week
}
"""What people ask, and may cost more the more there is."""


def _engine(url: str, amount: Amount) -> Engine:
    engine = connect(url, busy_timeout=20)
    migrations.upgrade(engine)
    fill(engine, amount, dt.datetime.now(dt.UTC))
    return engine


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


def _emptied(engine: Engine) -> None:
    """Take all rows out, so that the next filling begins anew."""
    tables = ("commitment", "delivery", "event", "task", "result", "finding", "receipt")
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"TRUNCATE {', '.join(tables)} CASCADE"))
        for table in tables:
            connection.execute(text(f"DELETE FROM {table}"))


def _costs(engine: Engine, acts: dict[str, Act]) -> dict[str, Counter[str]]:
    costs = {}
    for name, act in acts.items():
        with effort(engine) as counts:
            act()
        costs[name] = counts
    return costs


def _all(work: Work) -> dict[str, Act]:
    return work.life() | work.alone() | work.questions()


def _grown(few: dict[str, Counter[str]], many: dict[str, Counter[str]], least: int) -> Iterator[str]:
    for name, counts in many.items():
        for statement, count in counts.items():
            before = few[name][statement]
            if count > _SLACK * max(before, least):
                yield f"{name}: {before} → {count}: {' '.join(statement.split())}"


def test_nothing_that_runs_by_itself_costs_more_with_more_images(url: str) -> None:
    engine = _engine(url, Amount(FEW, waiting=20))
    few = _costs(engine, _all(Work(Ledger(engine, 20))))
    _emptied(engine)
    fill(engine, Amount(MANY, waiting=20), dt.datetime.now(dt.UTC))
    many = _costs(engine, _all(Work(Ledger(engine, 20))))
    engine.dispose()
    assert few.keys() == many.keys() >= _GROWING
    flat = {name: counts for name, counts in many.items() if name not in _GROWING}
    assert "\n".join(_grown(few, flat, _LEAST[engine.dialect.name])) == ""


def _waiting(ledger: Ledger, begin: int, end: int) -> None:
    """Have deliveries, second readings and images wait; their subjects are looked at by nobody."""
    with ledger.writing() as connection:
        for number in range(begin, end):
            put(connection, Kind.ANALYSE, number, NOON)
            put(connection, Kind.DELIVER, number, NOON, target=DESTINATION)
            put(connection, Kind.REANALYSE, number, NOON, target="e" * 64)
    if ledger.engine.dialect.name == "postgresql":  # as autovacuum does
        with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE task"))


def test_nothing_that_looks_for_work_costs_more_with_more_work(url: str) -> None:
    engine = connect(url, busy_timeout=20)
    migrations.upgrade(engine)
    ledger = Ledger(engine, 20)
    _waiting(ledger, 100_000, 100_300)
    few = _costs(engine, _looks(ledger))
    _waiting(ledger, 1_000_000, 1_003_000)
    many = _costs(engine, _looks(ledger))
    engine.dispose()
    assert "\n".join(_grown(few, many, least=80)) == ""


def _looks(ledger: Ledger) -> dict[str, Act]:
    queue, later = Queue(ledger), NOON + dt.timedelta(hours=1)
    claim = partial(queue.claim, now=later, limit=3)
    return {
        "an image": lambda: claim([Kind.ANALYSE]),
        "deliveries": lambda: claim([Kind.DELIVER], target=DESTINATION, among="any"),
        "a second reading": lambda: claim([Kind.REANALYSE], target="e" * 64, newest_first=True),
        "suspects": lambda: queue.has_suspects([Kind.ANALYSE], later),
        "suspects for again": lambda: queue.has_suspects([Kind.REANALYSE], later, target="e" * 64),
        "more": lambda: queue.has_due([Kind.DELIVER], later, target=DESTINATION, beyond=10),
        "heartbeat": lambda: queue.renew(later),
        "nothing for another": lambda: Deliveries(ledger, queue).claim("another", later, 3),
        "release": lambda: queue.release("nobody", later),
    }


def test_a_page_begins_below_the_last_line_of_the_one_before(ledger: Ledger) -> None:
    fill(ledger.engine, Amount(30), NOON)
    first = findings(ledger, Filter(limit=12))
    second = findings(ledger, Filter(limit=12, below=first[-1]["receipt_id"]))
    assert [row["receipt_id"] for row in first + second] == list(range(30, 6, -1))
    answers = findings(ledger, Filter(history=True))
    rest = findings(ledger, Filter(history=True, below=answers[4]["finding_id"]))
    assert rest == answers[5:]


@pytest.mark.parametrize("count", [0, 30])
def test_an_export_in_pages_is_the_file_of_all_rows(
    ledger: Ledger, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(ledger.engine, Amount(count), NOON)
    monkeypatch.setattr(queries, "_PAGE", 7)
    rows = findings(ledger, Filter())
    assert export(ledger, Filter(), tmp_path / "all.json") == export(ledger, Filter(), tmp_path / "all.csv") == count
    assert (tmp_path / "all.json").read_text() == f"{json.dumps(rows, indent=2)}\n"
    with (tmp_path / "all.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["sop_instance_uid"] for line in lines] == [row["sop_instance_uid"] for row in rows]


@pytest.mark.parametrize("at_once", [1, 4])
def test_the_oldest_results_go_first_however_many_are_read_at_once(
    ledger: Ledger, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(ledger.engine, Amount(12), NOON)
    with ledger.writing() as connection:  # one result of image 3 is of yesterday, and image 2 has failed deliveries
        connection.execute(text("UPDATE result SET created_at = '2026-01-30 12:00:00.000000' WHERE id = 8"))
        connection.execute(text("UPDATE delivery SET state = 'failed' WHERE id = 5"))
    monkeypatch.setattr(retention, "_RESULTS_AT_ONCE", at_once)
    due = partial(Retention(ledger, STORE).due, "results", NOON)
    assert due(4) == [3, 1, 4, 5]
    assert due(100) == [3, 1, 4, 5, 6, 8, 9, 10, 11]  # 7 was left out; those of 12 are not that old
