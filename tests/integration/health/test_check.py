"""`cxrd check`: what is late or has failed, which processes run, and whether a receiver answers, whatever it admits."""

from __future__ import annotations

import datetime as dt
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, text

from tests.support.ledgers import fail, record_finding
from tests.support.orthanc import free_port
from tests.support.peers import receiving
from tests.unit.worker.ledger.test_receipts import FINDING, RESULT, received
from worker.clock import now
from worker.destination_settings import DicomDestination
from worker.health import check
from worker.ledger.database import open_ledger
from worker.ledger.deliveries import Deliveries
from worker.ledger.receipts import Ledger
from worker.ledger.tables import ProcessRow
from worker.queue.claim import Queue
from worker.settings import Scp, Settings, Storage
from worker.storage.lock import FolderLock

MINUTE, DAY = dt.timedelta(minutes=1), dt.timedelta(days=1)


class Site:
    """A storage folder with its ledger, and what a check says of it."""

    def __init__(self, folder: Path) -> None:
        pacs = DicomDestination(name="pacs", host="127.0.0.1", port=9, ae_title="PACS")
        self.folder = folder
        storage = Storage(folder=folder, min_free_mb=0)
        self.settings = Settings(storage=storage, scp=Scp(port=free_port()), destinations=(pacs,))
        self.ledger: Ledger = open_ledger(self.settings)
        self._count = 0

    def says(self, name: str, **scp: Any) -> list[tuple[bool, str]]:
        """Return what the lines of this name say, with other settings of the node."""
        settings = self.settings.model_copy(update={"scp": self.settings.scp.model_copy(update=scp)})
        return [(each.ok, each.text) for each in check._ledger(settings) if each.name == name]

    def image(self, age: dt.timedelta, state: str = "received") -> int:
        """Enter an image that arrived, and failed, so long ago."""
        self._count += 1
        number = received(self.ledger, sop_instance_uid=f"1.2.{self._count}", received_at=now() - age)
        if state == "failed":
            fail(self.ledger, number, "pixel data is cut off", now() - age)
        return number

    def delivery(self, destination: str, state: str, age: dt.timedelta, failed: dt.timedelta | None = None) -> None:
        """Enter a delivery that is due since then, and settled then; or failed at another time."""
        number, moment = self.image(age), now() - age
        result = replace(RESULT, sop_instance_uid=f"2.25.{number}", destinations=(destination,))
        record_finding(self.ledger, number, FINDING, [result], moment)
        deliveries = Deliveries(self.ledger, Queue(self.ledger))
        if state == "pending":
            return
        (due,) = deliveries.claim(destination, now(), 9)
        if state == "sent":
            deliveries.mark_sent(due, 0, moment)
        else:
            deliveries.mark_failed(due, 0xA900, "refused", now() - (age if failed is None else failed))

    def process(self, role: str, *, age: float = 1, host: str = "", **detail: Any) -> None:
        """Enter a process that was last seen so many seconds ago."""
        self._count += 1
        seen = now() - dt.timedelta(seconds=age)
        row = insert(ProcessRow).values(
            owner=f"{role}-{self._count}",
            role=role,
            host=host or socket.gethostname(),
            pid=1,
            started_at=seen,
            seen_at=seen,
            detail=json.dumps(detail),
        )
        with self.ledger.writing() as connection:
            connection.execute(row)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.ledger.engine.dispose()


def test_nothing_has_happened_yet(site: Site) -> None:
    for name in ("images", "deliveries"):
        assert site.says(name) == [(True, "none yet")]
    assert site.says("database")[0][0]
    assert site.says("processes") == [(True, "none; cxrd has not been started here yet")]
    assert site.says("port") == [(True, f"127.0.0.1:{site.settings.scp.port} is free")]


@pytest.mark.parametrize(
    ("age", "state", "ok", "said"),
    [
        (2 * MINUTE, "received", True, "1 waiting, the oldest for 2 minutes"),
        (16 * MINUTE, "received", False, "1 waiting, the oldest for 16 minutes"),
        (6 * DAY, "failed", False, "1 failed, the oldest 6 days old"),
        (8 * DAY, "failed", True, "1 failed, the oldest 8 days old"),
    ],
)
def test_images_that_wait_too_long_or_failed_lately_are_a_fault(
    site: Site, age: dt.timedelta, state: str, ok: bool, said: str
) -> None:
    site.image(age, state)
    assert site.says("images") == [(ok, said)]


def test_all_images_are_counted(site: Site) -> None:
    for age, state in ((MINUTE, "received"), (3 * MINUTE, "received"), (30 * DAY, "failed"), (3 * DAY, "failed")):
        site.image(age, state)
    site.delivery("pacs", "sent", DAY)
    said = "1 analysed, 2 waiting, the oldest for 3 minutes, 2 failed, the oldest 30 days old"
    assert site.says("images") == [(False, said)]


def test_an_image_that_was_given_back_to_the_workers_waits_since_then(site: Site) -> None:
    number = site.image(30 * DAY, "failed")
    site.ledger.requeue([number], now() - 3 * MINUTE)
    assert site.says("images") == [(True, "1 waiting, the oldest for 3 minutes")]


@pytest.mark.parametrize(
    ("destination", "state", "age", "ok", "said"),
    [
        ("pacs", "sent", DAY, True, "1 sent"),
        ("pacs", "pending", 5 * MINUTE, True, "pacs: 1 waiting, the oldest for 5 minutes"),
        ("pacs", "pending", 3 * DAY, False, "pacs: 1 waiting, the oldest for 3 days"),
        ("pacs", "failed", DAY * 2, False, "pacs: 1 failed, the oldest 2 days old"),
        ("pacs", "failed", DAY * 20, True, "pacs: 1 failed, the oldest 20 days old"),
        ("gone", "failed", DAY * 20, True, "gone: 1 failed, the oldest 20 days old"),
        (
            "gone",
            "pending",
            2 * MINUTE,
            False,
            "gone: 1 waiting, the oldest for 2 minutes; results wait for a destination that is not configured: gone",
        ),
    ],
)
def test_deliveries_that_are_late_or_failed_lately_are_a_fault(
    site: Site, destination: str, state: str, age: dt.timedelta, ok: bool, said: str
) -> None:
    site.delivery(destination, state, age)
    assert site.says("deliveries") == [(ok, said)]


def test_a_delivery_that_was_given_up_lately_is_a_fault_though_it_was_due_long_ago(site: Site) -> None:
    site.delivery("pacs", "failed", 20 * DAY, failed=DAY)
    assert site.says("deliveries") == [(False, "pacs: 1 failed, the oldest 20 days old")]


def test_that_nothing_runs_is_a_fault_from_the_first_start_on(site: Site) -> None:
    FolderLock(site.folder).close()
    assert site.says("processes") == [(False, "none is running; start cxrd serve")]


def test_received_images_tell_that_it_was_started(site: Site) -> None:
    site.image(MINUTE)
    assert site.says("processes") == [(False, "none is running; start cxrd serve")]


def test_each_process_is_missed_by_its_name(site: Site) -> None:
    site.process("receive")
    site.process("work", host="elsewhere")
    assert site.says("processes") == [(False, "running: receive, work; deliver is not running")]
    site.process("deliver", age=300)
    assert site.says("processes") == [(False, "running: receive, work; deliver was last seen 5 minutes ago")]
    site.process("deliver")  # another one in place of the one that was lost
    assert site.says("processes") == [(True, "running: deliver, receive, work")]


def test_what_holds_a_process_up_is_a_fault(site: Site) -> None:
    site.process("receive")
    site.process("work", host="b", pauses="no model is loaded")
    site.process("deliver", host="b", pauses="", not_served={"pacs": "ca_file x: No such file or directory"})
    assert site.says("processes") == [
        (True, "running: deliver, receive, work"),
        (False, "deliver on b: destination pacs is not served: ca_file x: No such file or directory"),
        (False, "work on b: pauses: no model is loaded"),
    ]


def test_a_port_that_was_taken_at_the_start_is_the_one_that_is_asked(site: Site) -> None:
    assert site.says("port", port=0) == [(True, "a free one is taken at each start, since scp.port is 0")]
    with receiving() as there:
        site.process("receive", port=there.port)
        asked = site.says("port", port=0, ae_title="RECEIVER")
        assert asked == [(True, f"RECEIVER is running on 127.0.0.1:{there.port}")]
        where = f"127.0.0.1:{site.settings.scp.port}"
        assert site.says("port") == [
            (False, f"{where} is free, but the receiver listens on port {there.port}; restart cxrd")
        ]


@pytest.mark.parametrize("admitted", [(), ("PACS1",), ("PACS1", "RECEIVER")])
def test_a_running_receiver_is_found_whatever_it_admits(site: Site, admitted: tuple[str, ...]) -> None:
    with receiving() as there:
        site.process("receive", port=there.port)
        there._server.ae.require_calling_aet = list(admitted)
        there._entity.require_called_aet = True
        scp = {"port": there.port, "ae_title": "RECEIVER"}
        assert site.says("port", **scp, allowed_calling=admitted) == [
            (True, f"RECEIVER is running on 127.0.0.1:{there.port}")
        ]
        ((ok, said),) = site.says("port", **scp, allowed_calling=("NEW",))
        assert ok is not bool(admitted)
        assert not admitted or said.startswith(f"Port {there.port} is open but rejected our C-ECHO from NEW (were ")


def test_a_database_that_cannot_be_asked_is_one_line(site: Site) -> None:
    with site.ledger.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    ((ok, said),) = site.says("database")
    assert (ok, "revision 9999" in said) == (False, True)
    assert site.says("port")[0][0]


def test_the_ages_are_in_units_that_a_person_would_take() -> None:
    spans = [dt.timedelta(seconds=119), 2 * MINUTE, 119 * MINUTE, 120 * MINUTE, 47 * 60 * MINUTE, 2 * DAY, -DAY]
    assert [check._age(span) for span in spans] == [
        "119 seconds", "2 minutes", "119 minutes", "2 hours", "47 hours", "2 days", "0 seconds",
    ]  # fmt: skip


def test_another_node_at_our_port_is_not_taken_for_cxrd(site: Site) -> None:
    with receiving() as there:
        ((ok, said),) = site.says("port", port=there.port, ae_title="RECEIVER")
        assert (ok, "no receiver of this installation runs" in said) == (False, True)


@pytest.mark.parametrize("left", [None, b"short"])
def test_a_patient_key_that_is_gone_or_damaged_is_a_fault(site: Site, left: bytes | None) -> None:
    def said() -> list[str]:
        return [each.text for each in check.run(site.settings) if each.name == "patient key"]

    assert said() == []  # none was made yet
    received(site.ledger, patient_key="0" * 64)
    if left is not None:
        (site.folder / "secret.key").write_bytes(left)
    (text,) = said()
    assert "(umask 077; head -c 32 /dev/urandom > " in text
    (site.folder / "secret.key").write_bytes(bytes(32))
    assert said() == []
