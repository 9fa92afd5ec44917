"""`cxrd status`: what is wrong is said in a line, what is not is not, and peers steer no terminal."""

from __future__ import annotations

import datetime as dt
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sqlalchemy import insert

from dicom_io.finding import Finding, ModelIdentity
from tests.support import ledgers
from tests.unit.worker.ledger.test_receipts import received
from worker.cli.status import screen
from worker.health.status import Status, look, span
from worker.ledger.deliveries import Deliveries
from worker.ledger.receipts import Ledger
from worker.ledger.records import NewFinding, NewResult
from worker.ledger.tables import ProcessRow
from worker.queue.breaker import Breakers
from worker.queue.claim import Queue
from worker.queue.task import Kind
from worker.settings import Settings

NOON = dt.datetime.now(dt.UTC).astimezone().replace(hour=12, minute=0, second=0, microsecond=0).astimezone(dt.UTC)
WELL: dict[str, dict[str, Any]] = {
    "receive": {"host": "0.0.0.0", "port": 11112},  # noqa: S104 - shown, not bound
    "work": {"model": "lungs 1.8.0", "pauses": "", "in_hand": 0},
    "deliver": {"not_served": {}, "pauses": ""},
}


def enter(ledger: Ledger, role: str, detail: dict[str, Any], *, host: str = "here", seen: dt.datetime = NOON) -> None:
    """Enter a process as its heartbeat does."""
    values = {"owner": f"{role}-{host}-{seen}", "role": role, "host": host, "pid": 7, "started_at": seen}
    with ledger.writing() as connection:
        connection.execute(insert(ProcessRow).values(**values, seen_at=seen, detail=json.dumps(detail)))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    pacs = {"name": "pacs", "host": "127.0.0.1", "port": 1, "ae_title": "X"}
    return Settings(storage={"folder": tmp_path, "min_free_mb": 0}, destinations=[pacs])


@pytest.fixture
def running(ledger: Ledger) -> Ledger:
    """A ledger with a process of each role."""
    for role, detail in WELL.items():
        enter(ledger, role, detail)
    return ledger


def answered(ledger: Ledger, uid: str, at: dt.datetime, destinations: tuple[str, ...] = ("pacs",)) -> int:
    """Enter an image and what a model found in it."""
    number = received(ledger, sop_instance_uid=uid, received_at=at)
    finding = NewFinding(ModelIdentity("lungs", "1.8.0", "d"), Finding(0.2, "NORMAL", 0.5), 0.5, 0.2, at)
    ledgers.record_finding(ledger, number, finding, [NewResult("k", "1", f"{uid}.9", "1", "e", 1, destinations)], at)
    return number


def drawn(found: Status, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, highlight=False)
    console.print(screen(found))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_all_is_well(running: Ledger, settings: Settings) -> None:
    number = answered(running, "1.1", NOON)
    deliveries = Deliveries(running)
    (delivery,) = deliveries.claim("pacs", NOON, 9)
    deliveries.mark_sent(delivery, 0, NOON)
    found = look(settings, running, NOON)
    assert found.wrong == []
    assert (found.today, found.destinations[0].today) == ({"analysed": number}, {"sent": 1})
    assert found.last_answer == (NOON, "not flagged", "lungs-1.8.0")
    assert "all is well" in drawn(found)


def test_what_is_wrong_is_said(running: Ledger, settings: Settings) -> None:
    before = NOON - dt.timedelta(minutes=20)
    received(running, sop_instance_uid="1.1", received_at=before)
    ledgers.fail(running, received(running, sop_instance_uid="1.2"), "damaged", NOON)
    answered(running, "1.3", before, ("pacs", "old"))
    Breakers(running, first=5, most=5).trip("pacs", "no answer", NOON)
    found = look(settings, running, NOON)
    here = before.astimezone()
    assert found.wrong == [
        f"1 images are due, the first since {here:%H:%M}",
        f"1 results for old are due, the first since {here:%H:%M}",
        "results wait for old, which is not in the configuration",
        "destination pacs is down: no answer",
        "1 images could not be analysed (cxrd retry)",
    ]
    assert "down since 12:00: no answer; next probe in" in drawn(found)


def test_processes_that_are_missing_gone_or_unwell(ledger: Ledger, settings: Settings) -> None:
    gone = NOON - dt.timedelta(minutes=5)
    enter(ledger, "receive", WELL["receive"])
    enter(ledger, "receive", WELL["receive"], seen=gone)  # killed, and started anew
    enter(ledger, "receive", WELL["receive"], host="there", seen=gone)
    enter(ledger, "work", WELL["work"], seen=gone)
    enter(ledger, "deliver", {"not_served": {"pacs": "ca_file is missing"}, "pauses": "the ledger is locked"})
    since = f"{gone.astimezone():%H:%M}"
    assert look(settings, ledger, NOON).wrong == [
        f"work does not run; it was last seen at {since}",
        f"receive on there (pid 7) was last seen at {since}",
        "deliver on here pauses: the ledger is locked",
        "destination pacs is not served: ca_file is missing",
    ]
    enter(ledger, "work", {"model": None, "pauses": ""})
    assert "work on here has no model" in look(settings, ledger, NOON).wrong


def test_what_failed_long_ago_is_shown_and_is_not_wrong(running: Ledger, settings: Settings) -> None:
    old = NOON - dt.timedelta(days=8)
    ledgers.fail(running, received(running, sop_instance_uid="1.1", received_at=old), "damaged", old)
    answered(running, "1.2", old)
    deliveries = Deliveries(running)
    (delivery,) = deliveries.claim("pacs", old, 9)
    deliveries.mark_failed(delivery, 0xC000, "refused", old)
    report = look(settings, running, NOON)
    failed, images = report.destinations[0].failed, report.failed_images
    assert (failed and failed.count, images and images.count, report.wrong) == (1, 1, [])
    assert f"{old.astimezone():%Y-%m-%d}" in drawn(report)
    answered(running, "1.3", NOON)
    (delivery,) = deliveries.claim("pacs", NOON, 9)
    deliveries.mark_failed(delivery, 0xC000, "refused", NOON)
    assert look(settings, running, NOON).wrong == ["destination pacs: 2 deliveries have failed (cxrd redeliver)"]


def test_what_is_in_hand_is_not_late(running: Ledger, settings: Settings) -> None:
    received(running, received_at=NOON - dt.timedelta(hours=1))
    assert Queue(running).claim([Kind.ANALYSE], NOON)
    assert look(settings, running, NOON).wrong == []


def test_too_little_space_is_wrong(running: Ledger, tmp_path: Path) -> None:
    full = Settings(storage={"folder": tmp_path, "min_free_mb": 10**9})
    assert any(each.startswith("disk: ") for each in look(full, running, NOON).wrong)


def test_peers_steer_no_terminal(running: Ledger, settings: Settings) -> None:
    Breakers(running, first=5, most=5).trip("pacs", "\x1b[2J\x1b]0;owned\x07 [red]it[/red] \u202ewas\nme", NOON)
    text = drawn(look(settings, running, NOON), 300)
    assert r"\x1b[2J\x1b]0;owned\x07 [red]it[/red] \u202ewas\nme" in text
    assert not {"\x1b[2J", "\x1b]", "\x07", "\u202e"} & {
        text[at : at + n] for n in (1, 2, 4) for at in range(len(text))
    }


def test_json_holds_the_same_in_plain_values(running: Ledger, settings: Settings) -> None:
    answered(running, "1.1", NOON)
    values = json.loads(json.dumps(look(settings, running, NOON).to_dict()))
    assert values["queue"][0] | {"oldest": "", "next_due": ""} == {
        "kind": "deliver", "destination": "pacs", "waiting": 1, "in_hand": 0, "late": 1, "oldest": "", "next_due": "",
    }  # fmt: skip
    assert [each["alive"] for each in values["processes"]] == [True] * 3
    assert dt.datetime.fromisoformat(values["at"]) == NOON


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (40, "40 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (3 * 86400, "3 d")],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text
