"""`cxrd check`: what is late or has failed, and whether a receiver runs, whatever it admits."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.orthanc import free_port
from tests.support.peers import receiving
from tests.unit.worker.ledger.test_receipts import received
from worker.clock import now
from worker.destination_settings import DicomDestination
from worker.health import check
from worker.ledger.database import open_ledger
from worker.ledger.receipts import Ledger
from worker.settings import Scp, Settings, Storage
from worker.storage import lock

MINUTE, DAY = dt.timedelta(minutes=1), dt.timedelta(days=1)


class Site:
    """A storage folder with its ledger, and what a check says of it."""

    def __init__(self, folder: Path) -> None:
        pacs = DicomDestination(name="pacs", host="127.0.0.1", port=9, ae_title="PACS")
        self.storage = Storage(folder=folder, min_free_mb=0)
        self.settings = Settings(storage=self.storage, scp=Scp(port=free_port()), destinations=(pacs,))
        self.ledger: Ledger = open_ledger(self.settings)
        self._count = 0

    def says(self, name: str, **scp: Any) -> tuple[bool, str]:
        parts = self.settings.model_copy(update={"scp": self.settings.scp.model_copy(update=scp)})
        (found,) = [(each.ok, each.text) for each in check._ledger(parts) if each.name == name]
        return found

    def image(self, age: dt.timedelta, state: str = "received") -> int:
        """Enter an image that arrived, or failed, so long ago."""
        self._count += 1
        number = received(self.ledger, sop_instance_uid=f"1.2.{self._count}", received_at=now() - age)
        if state == "failed":
            self.ledger.fail(number, "pixel data is cut off", now() - age)
        return number

    def delivery(self, destination: str, state: str, age: dt.timedelta) -> None:
        """Enter a delivery that is due, or failed, since then."""
        number = self.image(age)
        values = {"r": number, "u": f"2.25.{number}", "d": destination, "s": state, "t": _plain(now() - age)}
        with self.ledger.writing() as connection:
            connection.execute(text("UPDATE receipt SET state = 'analysed' WHERE id = :r"), values)
            result = connection.scalar(
                text("""INSERT INTO result (receipt_id, kind, sop_class_uid, sop_instance_uid, series_instance_uid,
                 sha256, size_bytes, created_at) VALUES (:r, 'secondary-capture', '1', :u, '1', 'b', 1, :t)
                 RETURNING id"""),
                values,
            )
            connection.execute(
                text("""INSERT INTO delivery (result_id, destination, state, attempts, error, priority, created_at,
                 first_due_at, next_attempt_at) VALUES (:x, :d, :s, 1, '', 0, :t, :t, :t)"""),
                values | {"x": result},
            )
            if state == "failed":
                connection.execute(
                    text("""INSERT INTO event (receipt_id, at, kind, detail, previous, digest)
                     VALUES (:r, :t, 'delivery_failed', '{}', '', '')"""),
                    values,
                )


def _plain(moment: dt.datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.ledger._engine.dispose()


def test_nothing_has_happened_yet(site: Site) -> None:
    assert site.says("images") == (True, "none yet")
    assert site.says("deliveries") == (True, "none yet")
    assert site.says("database")[0]


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
    assert site.says("images") == (ok, said)


def test_all_images_are_counted(site: Site) -> None:
    for age, state in ((MINUTE, "received"), (3 * MINUTE, "received"), (30 * DAY, "failed"), (3 * DAY, "failed")):
        site.image(age, state)
    assert site.says("images") == (False, "2 waiting, the oldest for 3 minutes, 2 failed, the oldest 30 days old")


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
    assert site.says("deliveries") == (ok, said)


def test_a_delivery_that_was_given_up_lately_is_a_fault_though_it_was_due_long_ago(site: Site) -> None:
    site.delivery("pacs", "failed", 20 * DAY)
    with site.ledger.writing() as connection:
        connection.execute(text("UPDATE event SET at = :t WHERE kind = 'delivery_failed'"), {"t": _plain(now() - DAY)})
    assert site.says("deliveries") == (False, "pacs: 1 failed, the oldest 20 days old")


def test_that_no_receiver_runs_is_a_fault_from_the_first_start_on(site: Site) -> None:
    where = f"127.0.0.1:{site.settings.scp.port}"
    assert site.says("port") == (True, f"{where} is free; cxrd has not been started here yet")
    held = lock.hold(site.storage.folder)
    assert site.says("port", port=0) == (True, "cxrd is running; its port is not known here, since scp.port is 0")
    held.close()
    assert site.says("port") == (False, f"no receiver is running: {where} is free; start cxrd serve")
    assert site.says("port", port=0)[0] is False


def test_received_images_tell_that_it_was_started(site: Site) -> None:
    site.image(MINUTE)
    assert site.says("port")[0] is False


@pytest.mark.parametrize("admitted", [(), ("PACS1",), ("PACS1", "RECEIVER")])
def test_a_running_receiver_is_found_whatever_it_admits(site: Site, admitted: tuple[str, ...]) -> None:
    with receiving() as there:
        there._entity.require_calling_aet = list(admitted)
        there._server.ae.require_calling_aet = list(admitted)
        there._entity.require_called_aet = True
        scp = {"port": there.port, "ae_title": "RECEIVER"}
        assert site.says("port", **scp, allowed_calling=admitted) == (
            True,
            f"RECEIVER is running on 127.0.0.1:{there.port}",
        )
        ok, said = site.says("port", **scp, allowed_calling=("NEW",))
        assert ok is not bool(admitted)
        assert not admitted or said.startswith(f"Port {there.port} is open but rejected our C-ECHO from NEW (were ")


def test_the_ages_are_in_units_that_a_person_would_take() -> None:
    spans = [dt.timedelta(seconds=119), 2 * MINUTE, 119 * MINUTE, 120 * MINUTE, 47 * 60 * MINUTE, 2 * DAY, -DAY]
    assert [check._age(span) for span in spans] == [
        "119 seconds", "2 minutes", "119 minutes", "2 hours", "47 hours", "2 days", "0 seconds",
    ]  # fmt: skip
