"""The housekeeper deletes what is kept no longer, and nothing else, whenever it is killed."""

from __future__ import annotations

import datetime as dt
import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dicom_io.errors import OutOfResources
from dicom_io.network.spool_file import SpoolFile
from tests.support import databases
from tests.support.disk import fill, small_disk
from tests.support.ledgers import record_finding
from tests.unit.worker.ledger.test_receipts import FINDING, NEW, RESULT, received
from worker.engines import housekeeper as module
from worker.engines.housekeeper import Housekeeper
from worker.ledger.deliveries import Deliveries
from worker.ledger.receipts import Ledger
from worker.ledger.tables import ReceiptRow
from worker.queue.claim import Queue
from worker.settings import Storage
from worker.storage.blobs import Blobs

DAY, HOUR = dt.timedelta(days=1), dt.timedelta(hours=1)
NOW = dt.datetime.now(dt.UTC)


class House:
    """A store with its ledger, and a housekeeper whose clock is set by hand."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        engine = databases.opened(f"sqlite:///{folder / 'ledger.sqlite'}")
        self.ledger, self.blobs = Ledger(engine), Blobs(folder / "objects")
        self.now = NOW
        self.settings = Storage(folder=folder, min_free_mb=0, **settings)
        self.housekeeper = self.another()

    def another(self) -> Housekeeper:
        return Housekeeper(self.settings, self.ledger, self.blobs, Queue(self.ledger, lease=1.0), lambda: self.now)

    def put(self, number: int, size: int = 100, *, sent: bool = True) -> tuple[Path, Path]:
        """Enter an image that is answered; return its file and that of its result."""
        image, result = (self.blobs.put(bytes([kind, number]) * (size // 2)) for kind in (1, 2))
        facts: dict[str, Any] = {"size_bytes": size, "store": self.blobs.store}
        receipt = received(self.ledger, sop_instance_uid=f"1.{number}", sha256=image, received_at=self.now, **facts)
        self.blobs.confirm(image)
        made = replace(RESULT, sop_instance_uid=f"2.{number}", sha256=result, destinations=("pacs",), **facts)
        record_finding(self.ledger, receipt, FINDING, [made], self.now)
        deliveries = Deliveries(self.ledger)
        if sent:
            for each in deliveries.claim("pacs", self.now, 9):
                deliveries.mark_sent(each, 0x0000, self.now)
        return self.blobs.path(image), self.blobs.path(result)

    def later(self, span: dt.timedelta) -> None:
        """Let time go by, and the housekeeper look."""
        self.now += span
        self.housekeeper.look()


def there(*files: tuple[Path, Path]) -> list[tuple[bool, bool]]:
    return [(image.exists(), result.exists()) for image, result in files]


def test_by_default_nothing_goes_as_long_as_there_is_room(tmp_path: Path) -> None:
    house = House(tmp_path)
    files = house.put(1)
    house.later(HOUR)
    house.later(1000 * DAY)
    assert there(files) == [(True, True)]


def test_files_go_by_their_age(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    house = House(tmp_path, keep_received_days=10, keep_results_days=20)
    old = house.put(1)
    house.later(6 * DAY)
    new, waits = house.put(2), house.put(3, sent=False)
    house.later(6 * DAY)
    assert there(old, new, waits) == [(False, True), (True, True), (True, True)]
    house.later(100 * DAY)
    house.later(HOUR)
    assert there(old, new, waits) == [(False, False), (False, False), (True, True)]
    assert "deleted" in "".join(capsys.readouterr())


def test_the_oldest_go_when_room_is_needed(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 40_000_000) as disk:
        house = House(disk, make_room_mb=10)
        files = [house.put(number, 5_000_000) for number in range(3)]
        house.later(HOUR)
        assert there(*files) == [(True, True)] * 3 if house.blobs.free_bytes() > 10_000_000 else [(False, False)] * 3
        filling = disk / "other"
        filling.write_bytes(bytes(house.blobs.free_bytes() - 5_000_000))
        house.later(HOUR)
        assert there(*files) == [(False, False)] * 3
        assert house.blobs.free_bytes() >= 10_000_000


def test_what_may_not_go_stays_on_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "disk", 20_000_000) as disk:
        house = House(disk, make_room_mb=10)
        house.later(HOUR)
        files = house.put(1, 2_000_000, sent=False)
        (disk / "other").write_bytes(bytes(8_000_000))
        house.later(HOUR)
        house.later(HOUR)
        assert there(files) == [(True, True)]
        assert "".join(capsys.readouterr()).count("no_room_to_make") == 1
        fill(disk)
        with pytest.raises(OutOfResources, match="full"):  # the ledger cannot be written either
            house.later(HOUR)
        assert there(files) == [(True, True)]


def test_what_nobody_owns_is_swept_up_once_a_day(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.later(HOUR)
    orphan = house.blobs.path(house.blobs.put(b"its row was never committed"))
    house.later(HOUR)
    assert orphan.exists()
    house.later(2 * DAY)
    assert not orphan.exists()


def test_of_two_only_one_has_it_in_hand(tmp_path: Path) -> None:
    house = House(tmp_path, keep_received_days=1)
    files = house.put(1)
    house.now += HOUR
    other = house.another()
    other.look()
    house.later(2 * DAY)
    other.look()
    assert there(files) == [(False, True)]
    with house.ledger.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM task WHERE kind = 'expire'").scalar_one() == 2
        assert connection.exec_driver_sql("SELECT count(*) FROM event WHERE kind = 'deleted'").scalar_one() == 1


_KILLED = """
import sys, datetime as dt
from pathlib import Path
from tests.unit.worker.engines.test_housekeeper import House, DAY, HOUR
house = House(Path(sys.argv[1]), keep_received_days=1)
print(*house.put(1), flush=True)
house.later(HOUR)
house.later(3 * DAY)
"""


def test_a_kill_between_row_and_file_leaves_what_the_sweep_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = tmp_path / "points"
    points.mkdir()
    (points / "marked not deleted").touch()
    monkeypatch.setenv("CXRD_TEST_FAIL_POINTS", str(points))
    (tmp_path / "data").mkdir()
    command = [sys.executable, "-c", _KILLED, str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    image = Path(done.stdout.split()[0])
    house = House(tmp_path / "data", keep_received_days=1)
    with house.ledger.reading() as connection:
        assert connection.scalar(ReceiptRow.__table__.select().with_only_columns(ReceiptRow.deleted_at)) is not None
    assert image.exists()
    house.later(10 * DAY)
    house.later(DAY)
    assert not image.exists()


def test_what_comes_again_between_row_and_file_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is marked, the same image comes again, and only then is the file to go: it is that of the row again."""
    house = House(tmp_path, keep_received_days=10)
    data = bytes([1, 1]) * 50
    (image, _) = house.put(1)
    again = replace(NEW, sop_instance_uid="1.1", sha256=hashlib.sha256(data).hexdigest(), size_bytes=100)

    def arrive(place: str) -> None:
        if place == "marked not deleted":
            file = SpoolFile(house.blobs.incoming)
            file.write(data)
            house.blobs.adopt(file)
            house.ledger.restore(1, replace(again, store=house.blobs.store, received_at=house.now), "deleted")

    house.later(9 * DAY)
    monkeypatch.setattr(module, "reached", arrive)
    house.later(2 * DAY)
    assert image.read_bytes() == data
    assert house.ledger.deleted([1]) == {}
    monkeypatch.undo()
    house.later(9 * DAY)
    assert image.exists()
    house.later(2 * DAY)
    assert not image.exists()


def test_a_fault_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    house = House(tmp_path)
    monkeypatch.setattr(module, "_LOOK", 0.01)
    looks: list[int] = []

    def fail() -> None:
        looks.append(1)
        if len(looks) > 2:
            house.housekeeper.stop()
        raise ZeroDivisionError

    monkeypatch.setattr(house.housekeeper, "look", fail)
    house.housekeeper.start()
    house.housekeeper.join(20)
    assert len(looks) == 3
    assert "housekeeping_waits" in "".join(capsys.readouterr())


def test_an_error_that_nobody_foresaw_holds_up_nothing_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    house = House(tmp_path, keep_received_days=1)
    files = house.put(1)
    house.later(HOUR)

    def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError("a file that went meanwhile")

    with monkeypatch.context() as patch:
        patch.setattr(module, "remove", fail)
        patch.setattr(module, "find_orphans", fail)
        house.later(2 * DAY)
    assert house.housekeeper._queue.in_hand() == []
    assert capsys.readouterr().out.count("housekeeping_waits") == 2
    house.later(HOUR)
    house.later(2 * DAY)
    assert there(files)[0][0] is False


def test_a_ledger_that_takes_no_outcome_leaves_nothing_in_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(tmp_path)
    house.later(HOUR)

    def fail(*_: object, **__: object) -> None:
        raise OutOfResources("locked")

    monkeypatch.setattr(house.housekeeper._queue, "postpone", fail)
    with pytest.raises(OutOfResources):
        house.later(2 * DAY)
    assert house.housekeeper._queue.in_hand() == []
