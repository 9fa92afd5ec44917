"""What must survive a power cut is on the disk before anybody is told: in which order it is written, and how firmly."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event, make_url, text

from tests.integration.receive.test_intake import Station
from tests.support.models import tiny
from tests.support.peers import chest, send
from tests.unit.worker.engines.test_pipeline import Bench
from worker.clock import now
from worker.database.connection import connect
from worker.inference.analyzer import Reader
from worker.queue.task import Kind
from worker.settings import Settings
from worker.storage.blobs import Blobs

Step = tuple[str, str]


class Steps:
    """Notes each fsync (of what, and how many bytes it has by then), each rename and each commit, in their order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.taken: list[Step] = []
        self.sizes: dict[str, int] = {}
        self._folder = folder
        fsync, replace = os.fsync, os.replace

        def note_fsync(handle: int) -> None:
            path = str(Path(f"/proc/self/fd/{handle}").readlink())
            self.sizes[self._short(path)] = os.fstat(handle).st_size
            fsync(handle)
            self.note("fsync", path)

        def note_rename(source: Path, target: Path) -> None:
            replace(source, target)
            self.note("rename", str(target))

        monkeypatch.setattr(os, "fsync", note_fsync)
        monkeypatch.setattr(os, "replace", note_rename)
        monkeypatch.setattr(Path, "replace", note_rename)

    def note(self, what: str, path: str = "") -> None:
        self.taken.append((what, self._short(path)))

    def commits_of(self, engine: Engine) -> None:
        event.listen(engine, "commit", lambda _: self.note("commit"))

    def _short(self, path: str) -> str:
        """Return a path in the store; of a file that is still being made, whose name is drawn, its folder alone."""
        short = path.removeprefix(f"{self._folder}/")
        return f"{short.rsplit('/', 1)[0]}/*" if short.endswith(".part") else short


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], Steps]:
    return lambda: Steps(monkeypatch, tmp_path / "objects")


def test_an_object_is_on_the_disk_before_it_is_answered(tmp_path: Path, steps: Callable[[], Steps]) -> None:
    station = Station(tmp_path)
    noted = steps()
    noted.commits_of(station.ledger.engine)
    assert send(station.node.port, [chest("one")]) == [0x0000]
    noted.note("answer")
    station.node.stop(grace=1)
    (row,) = station.rows()
    path = station.blobs.path(str(row["sha256"]))
    folder = path.parent.name
    assert noted.taken == [
        ("fsync", "incoming/*"),
        ("fsync", str(station.blobs.folder)),  # the new folder is an entry there
        ("rename", f"{folder}/{path.name}"),
        ("fsync", folder),
        ("commit", ""),
        ("answer", ""),
    ]
    assert noted.sizes["incoming/*"] == path.stat().st_size  # nothing of it was still in a buffer


def test_what_is_put_is_on_the_disk(tmp_path: Path, steps: Callable[[], Steps]) -> None:
    blobs = Blobs(tmp_path / "objects")
    noted = steps()
    path = blobs.path(blobs.put(b"a result"))
    folder = path.parent.name
    assert noted.taken == [
        ("fsync", "making/*"),
        ("fsync", str(blobs.folder)),
        ("rename", f"{folder}/{path.name}"),
        ("fsync", folder),
    ]
    assert noted.sizes["making/*"] == len(b"a result")


def test_results_are_on_the_disk_before_the_outcome_is_entered(tmp_path: Path, steps: Callable[[], Steps]) -> None:
    reader = Reader(Settings(), tiny(tmp_path / "tiny"))
    bench = Bench(tmp_path, reader)
    number = bench.put(chest("one"))
    (task,) = bench.queue.claim([Kind.ANALYSE], now(), subject=number)
    noted = steps()
    noted.commits_of(bench.ledger.engine)
    bench.pipeline.process(task)
    reader.close()
    assert noted.taken.pop() == ("commit", "")
    assert ("commit", "") not in noted.taken
    places = [place for place, (what, _) in enumerate(noted.taken) if what == "rename"]
    assert len(places) == 3
    for place in places:
        assert ("fsync", "making/*") in noted.taken[max(0, place - 2) : place]
        assert noted.taken[place + 1] == ("fsync", noted.taken[place][1].split("/")[0])


# ---- the database --------------------------------------------------------------------------------------------------


def test_sqlite_syncs_at_each_commit(sqlite_url: str) -> None:
    engine = connect(sqlite_url)
    for _ in range(2):
        with engine.begin() as connection:
            assert connection.scalar(text("PRAGMA synchronous")) == 2  # FULL
            assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
    engine.dispose()


@pytest.mark.parametrize(("of_the_server", "ours"), [("off", "on"), ("on", "on"), ("remote_apply", "remote_apply")])
def test_postgresql_syncs_at_each_commit(postgres_url: str, of_the_server: str, ours: str) -> None:
    """Also where the server's default is not to; a stronger one stays."""
    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        name = make_url(postgres_url).database
        connection.execute(text(f'ALTER DATABASE "{name}" SET synchronous_commit = {of_the_server}'))
    admin.dispose()
    engine = connect(postgres_url)
    with engine.begin() as first, engine.begin() as second:
        assert [each.scalar(text("SHOW synchronous_commit")) for each in (first, second)] == [ours] * 2
    engine.dispose()
