"""Torture: the installed program, its processes killed at named points and at random, while all around it misbehaves.

The destination is busy, aborts, is slow, never answers, is gone, refuses classes or another AE title; a second one is
never there; the disk is full; somebody holds the ledger, or it takes no changes.
`python -m tests.acceptance.torture --kills 300` is the long form (`make torture`); CI runs a short one.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import random
import re
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom import Dataset
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import OperationalError

from dicom_io.fail_points import POINTS
from tests.acceptance.program import Service, children, invoke, kill
from tests.acceptance.rough_peers import Rough, Sender
from tests.support.disk import fill, small_disk
from tests.support.orthanc import free_port
from tests.support.peers import RESULT_CLASSES, chest, wait_for
from worker.clock import now
from worker.database.connection import connect
from worker.destination_settings import DicomDestination
from worker.storage.blobs import Blobs
from worker.storage.orphans import Owner, find_orphans, remove_orphan

RESULTS = 3  # objects an image
ROLES = ("receive", "work", "deliver", "serve")
_NAME = re.compile("[0-9a-f]{62}")
# What is done with is deleted, and here nothing is: a destination never takes its results (see test_housekeeper.py).
_AT_RUN_TIME = tuple(point for point in POINTS if point not in ("migrating", "marked not deleted"))
_DELIVERING = ("at random: deliver", "at random: serve", "sending", "sent not entered")


class Torture:
    """One run.

    Parameters
    ----------
    images
        How many are sent, on two associations.
    url
        The database of the ledger; SQLite in the storage folder by default.
    daemons
        How many services there are, each with a storage folder of its own; more than one need a `url`.
    disk
        A disk for the storage folders that is small enough to be filled; they lie in `folder` by default.
    """

    def __init__(
        self, folder: Path, images: int, seed: int = 0, *, url: str = "", daemons: int = 1, disk: Path | None = None
    ) -> None:
        self.folder = folder
        self.disk = disk
        self.leftovers = self.resent = 0
        self.pick = random.Random(seed)
        self.points = folder / "points"
        self.points.mkdir()
        self.receiver = Rough()
        self.receiver.start()
        self.collector = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)  # of audit messages; nobody reads them
        self.collector.bind(("127.0.0.1", 0))
        pacs = {"name": "pacs", "host": "127.0.0.1", "port": self.receiver.port, "ae_title": "RECEIVER", "timeout": 5}
        parts = {
            # What is killed is tried first, and so may be killed again and again; an innocent image is not, so often.
            "destinations": [pacs, {"name": "dead", "host": "127.0.0.1", "port": free_port(), "ae_title": "DEAD"}],
            "worker": {"lease_seconds": 1.5, "max_crashes": 20, "threads": 2},
            "model": {"out_of_distribution": "warn"},
            "audit": {"syslog": {"url": f"udp://127.0.0.1:{self.collector.getsockname()[1]}"}},
        }
        os.environ["CXRD_TEST_FAIL_POINTS"] = str(self.points)
        self.services = []
        for number in range(daemons):
            own = folder / f"daemon-{number}"
            own.mkdir()
            parts["storage"] = {"folder": str((disk or own) / f"data-{number}")}
            self.services.append(Service(own, **parts, **({"ledger": {"url": url}} if url else {})))
        self.service = self.services[0]
        self._stores = [(disk or folder / f"daemon-{number}") / f"data-{number}" for number in range(daemons)]
        self._url = url or f"sqlite:///{self._stores[0] / 'ledger.sqlite'}"
        self.datasets = {str(each.SOPInstanceUID): each for each in _images(images)}
        self.kills: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()

    # ---- breaking ----------------------------------------------------------------------------------------------------

    def kill_some(self, count: int, senders: list[Sender]) -> None:
        """Kill processes, at named points in turn and at random, while there is work."""
        for number in range(count):
            if not any(sender.is_alive() for sender in senders) and not self.unsettled():
                for sender in senders:
                    sender.join()
                self._send_more(senders, number)
            if number % 2:
                self._kill_at(_AT_RUN_TIME[(number // 2) % len(_AT_RUN_TIME)], senders, number)
            else:
                time.sleep(self.pick.uniform(0.2, 1.5))
                self._kill(self.pick.choice(ROLES))
            self._misbehave(number)
        for number, point in enumerate(_AT_RUN_TIME, count):
            if not self.kills[point]:  # nothing came by when it was its turn
                self._kill_at(point, senders, number)

    def _kill_at(self, point: str, senders: list[Sender], number: int) -> None:
        armed = self.points / point
        armed.touch()
        begin, fresh = time.monotonic(), False
        while armed.exists() and time.monotonic() < begin + 30:
            time.sleep(0.05)
            if not fresh and time.monotonic() > begin + 2:  # what waits may be none of the work that comes by here
                self._send_more(senders, number, 4)
                fresh = True
        if armed.exists():
            armed.unlink(missing_ok=True)  # nothing came by: there was no such work to do
        else:
            self.kills[point] += 1

    def _kill(self, role: str) -> None:
        service = self.pick.choice(self.services)
        if role == "serve":
            service.kill()
            self.kills["at random: serve"] += 1
            service.start()
            return
        wait_for(lambda: children(service.pid, role))  # it may just be starting again
        for pid in children(service.pid, role):
            kill(pid)
            self.kills[f"at random: {role}"] += 1

    def _misbehave(self, number: int) -> None:
        """Let what is around it be out of order in turn."""
        faults = [self._busy, self._gone, self._aborting, self._slow, self._silent, self._ledger_held]
        faults += [self._refusing, self._another_title, *([] if self._url.startswith("sqlite") else [self._read_only])]
        fault = [*faults, self._disk_full][number % (len(faults) + (self.disk is not None))]
        fault()
        self.faults[fault.__name__.strip("_").replace("_", " ")] += 1

    def _busy(self) -> None:
        self.receiver.answers = [0xA700, 0xB000, 0x0110]

    def _gone(self) -> None:
        port = self.receiver.port
        self.receiver.stop()
        time.sleep(0.5)
        self.receiver.start(port)

    def _aborting(self) -> None:
        self.receiver.moods = ["aborts", "", "aborts"]

    def _slow(self) -> None:
        self.receiver.moods = ["slow", "slow"]

    def _silent(self) -> None:
        self.receiver.moods = ["silent"]

    def _refusing(self) -> None:
        """Take no report and no presentation state for a while; what fails of that is sent again in the end."""
        with self.receiver.as_it_is() as contexts:
            contexts[:] = [each for each in contexts if str(each.abstract_syntax) not in RESULT_CLASSES[1:]]
            time.sleep(1.0)

    def _another_title(self) -> None:
        """Reject all associations for a while: they are for another AE title."""
        self.receiver.admits("ANOTHER")
        time.sleep(1.0)
        self.receiver.admits("")

    def _read_only(self) -> None:
        """Let the database take no changes for a while, and lose its connections."""
        name = make_url(self._url).database
        engine = create_engine(self._url, isolation_level="AUTOCOMMIT")
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "
        try:
            with engine.connect() as connection:
                for change in (f'ALTER DATABASE "{name}" SET default_transaction_read_only = on', None):
                    statement = change or f'ALTER DATABASE "{name}" RESET default_transaction_read_only'
                    connection.exec_driver_sql("SET default_transaction_read_only = off")
                    connection.exec_driver_sql(statement)
                    connection.exec_driver_sql(f"{end} pg_backend_pid()")
                    time.sleep(1.0)
        finally:
            engine.dispose()

    def _ledger_held(self) -> None:
        """Keep everybody from writing to the ledger for a while."""
        engine = connect(self._url, busy_timeout=5)
        try:
            with contextlib.suppress(OperationalError), engine.begin() as connection:  # it may not get its own turn
                if not self._url.startswith("sqlite"):  # there the transaction itself is the lock
                    connection.exec_driver_sql("LOCK TABLE task IN EXCLUSIVE MODE")
                time.sleep(1.0)
        finally:
            engine.dispose()

    def _disk_full(self) -> None:
        assert self.disk is not None
        filling = fill(self.disk)
        time.sleep(1.0)
        filling.unlink()

    def _send_more(self, senders: list[Sender], number: int, count: int = 10) -> None:
        more = {str(each.SOPInstanceUID): each for each in _images(count, f"more-{number}-{count}-")}
        self.datasets |= more
        port = self.services[number % len(self.services)].port
        sender = Sender(_files(more, self.folder / f"more-{number}-{count}"), port, self.folder)
        sender.start()
        senders.append(sender)

    # ---- the whole ---------------------------------------------------------------------------------------------------

    def run(self, kills: int) -> list[str]:
        """Break it, let it recover, and return what does not hold; nothing where all does."""
        halves: list[dict[str, Dataset]] = [{}, {}]
        for number, (uid, dataset) in enumerate(self.datasets.items()):
            halves[number % 2][uid] = dataset
        for service in self.services:
            service.start()
        senders = [
            Sender(
                _files(half, self.folder / f"half-{number}"),
                self.services[number % len(self.services)].port,
                self.folder,
            )
            for number, half in enumerate(halves)
        ]
        for sender in senders:
            sender.start()
        try:
            self.kill_some(kills, senders)
            self.receiver.answers, self.receiver.moods = [], []
            for sender in senders:
                sender.join(300)
            self._settle()
            again = invoke("redeliver", "--to", "pacs", "-c", self.service.config).stdout
            self.resent = int(again.split()[-1])
            self._settle()
        finally:
            for sender in senders:
                sender.ending.set()
            for service in self.services:
                service.stop()
            self.receiver.stop()
            self.collector.close()
            os.environ.pop("CXRD_TEST_FAIL_POINTS", None)
        return self.problems(set().union(*(sender.accepted for sender in senders)))

    def _settle(self) -> None:
        until = time.monotonic() + 300
        while self.unsettled() and time.monotonic() < until:
            time.sleep(0.5)

    def unsettled(self) -> int:
        """Return how many tasks there are that can be done: the dead destination takes nothing, none commits, and audit
        messages never end."""
        waits = "target <> 'dead' AND kind NOT IN ('expire', 'commit', 'report')"
        return int(self._ask(f"SELECT count(*) FROM task WHERE {waits}")[0][0])

    def problems(self, accepted: set[str]) -> list[str]:
        """Return a line for each promise that is broken."""
        found = [f"{uid}: never accepted" for uid in set(self.datasets) - accepted]
        rows = dict(self._ask("SELECT sop_instance_uid, state FROM receipt"))
        found += [f"{uid}: accepted, and not in the ledger" for uid in accepted - set(rows)]
        found += [f"{uid}: {state}" for uid, state in rows.items() if state != "analysed"]
        answers = self._ask("SELECT receipt_id, count(*) FROM finding GROUP BY receipt_id HAVING count(*) <> 1")
        found += [f"receipt {number}: {count} findings" for number, count in answers]
        states = Counter(self._ask("SELECT destination, state FROM delivery"))
        if states != {("pacs", "sent"): RESULTS * len(rows), ("dead", "pending"): RESULTS * len(rows)}:
            found.append(f"deliveries: {dict(states)} for {len(rows)} images")
        objects: dict[str, str] = {}
        for each in self.receiver.objects:
            known = objects.setdefault(str(each.SOPInstanceUID), each.to_json())
            if known != each.to_json():
                found.append(f"{each.SOPInstanceUID}: two objects of this UID differ")
        if len(objects) != RESULTS * len(rows):
            found.append(f"{len(objects)} objects at the receiver for {len(rows)} images")
        copies, most = len(self.receiver.objects) - len(objects), self.most_copies()
        if copies > most:
            found.append(f"{copies} objects came once more, where {most} may have")
        found += self._orphans()
        verified = invoke("audit", "verify", "-c", self.service.config)
        if verified.returncode:
            found.append(f"audit verify: {verified.stdout} {verified.stderr}")
        if self._url.startswith("sqlite") and self._ask("PRAGMA integrity_check") != [("ok",)]:
            found.append("integrity_check fails")
        return found

    def most_copies(self) -> int:
        """Return how many objects the receiver may have got once more: those of which nobody knew that it had them.

        That is what a courier was sending when it was killed, or when the receiver went; and each of which the answer
        came too late, or whose outcome came after the lease had run out.
        """
        at_once = DicomDestination.model_fields["associations"].default
        broken = sum(self.kills[each] for each in _DELIVERING) + self.faults["gone"]
        lost = sum(len(service.events("lease_lost")) for service in self.services)
        return int(at_once * broken + self.receiver.used["silent"] + lost + self.resent)

    def shortfalls(self, asked: int, share: float = 1.0) -> list[str]:
        """Return why the run tells less than it should; nothing where it does.

        Parameters
        ----------
        asked
            How many kills there should have been; nine of ten must.
        share
            Of the points, how many must have been hit at least once.
        """
        count, hit = sum(self.kills.values()), [point for point in _AT_RUN_TIME if self.kills[point]]
        short = [f"only {count} of {asked} kills happened"] if count < 0.9 * asked else []
        if len(hit) < share * len(_AT_RUN_TIME):
            short.append(f"never killed: {', '.join(sorted(set(_AT_RUN_TIME) - set(hit)))}")
        return short

    def _orphans(self) -> list[str]:
        """Sweep as is done a day later; return the files that no row owns and that the sweep leaves."""
        rows = {sha256: Owner(received=True) for (sha256,) in self._ask("SELECT sha256 FROM receipt")}
        rows |= {sha256: Owner(received=False) for (sha256,) in self._ask("SELECT sha256 FROM result")}
        later, age = now() + dt.timedelta(days=2), dt.timedelta(days=1)
        found = []
        for folder in self._stores:
            blobs = Blobs(folder / "objects")
            orphans = find_orphans(blobs, _owners(rows), later, age).orphans
            self.leftovers += sum(1 for each in orphans if remove_orphan(blobs, each, _owners(rows), later, age))
            left = [path for path in blobs.folder.rglob("*") if _NAME.fullmatch(path.stem)]
            left = [path for path in left if path.parent.name + path.stem not in rows]
            found += [f"{path}: nobody owns it, and the sweep leaves it" for path in [*left, *blobs.half_made()]]
        return found

    def _ask(self, query: str) -> list[Any]:
        engine = connect(self._url, busy_timeout=30)
        try:
            with engine.connect().execution_options(reading=True) as connection:
                return [tuple(row) for row in connection.exec_driver_sql(query)]
        finally:
            engine.dispose()


def _owners(rows: dict[str, Owner]) -> Callable[[str], dict[str, Owner]]:
    return lambda prefix: {sha256: owner for sha256, owner in rows.items() if sha256.startswith(prefix)}


def _images(count: int, prefix: str = "torture-") -> list[Dataset]:
    return [chest(f"{prefix}{number}", rows=200, cols=160) for number in range(count)]


def _files(datasets: dict[str, Dataset], folder: Path) -> dict[str, Path]:
    folder.mkdir()
    paths = {}
    for number, (uid, dataset) in enumerate(datasets.items()):
        paths[uid] = folder / f"{number}.dcm"
        dataset.save_as(paths[uid], enforce_file_format=True)
    return paths


def main() -> int:
    """Run the long form; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database", default="", help="URL of an empty PostgreSQL database")
    parser.add_argument("--daemons", type=int, default=1)
    parser.add_argument("--disk", type=int, default=0, help="megabytes of a disk of its own, to be filled (needs root)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as parent, contextlib.ExitStack() as stack:
        folder, size = Path(parent), options.disk * 1_000_000
        disk = stack.enter_context(small_disk(folder / "disk", size)) if size else None
        torture = Torture(
            folder, options.images, options.seed, url=options.database, daemons=options.daemons, disk=disk
        )
        begin = time.monotonic()
        problems = torture.run(options.kills) + torture.shortfalls(options.kills)
        for point, count in sorted(torture.kills.items()):
            print(f"{count:5d}  killed: {point}")
        for fault, count in sorted(torture.faults.items()):
            print(f"{count:5d}  {fault}")
        print(f"{torture.resent:5d}  deliveries that were refused, and sent again in the end")
        copies = len(torture.receiver.objects) - len({str(each.SOPInstanceUID) for each in torture.receiver.objects})
        print(f"{copies:5d}  objects that came once more, of {torture.most_copies()} that may have")
        print(f"{torture.leftovers:5d}  files that nobody owned, and that the sweep took")
        images = len(torture.datasets)
        print(f"{sum(torture.kills.values())} kills, {images} images, {time.monotonic() - begin:.0f} s")
        print("\n".join(problems) or "every promise held")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
