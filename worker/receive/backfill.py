"""Back-fill: finds what an archive already holds and fetches it, as fast as it is answered."""

from __future__ import annotations

import csv
import fcntl
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dicom_io.errors import InvalidData, InvalidSettings, OutOfResources, PeerUnavailable
from dicom_io.network.query_retrieve import Query, Receipt, Series
from dicom_io.network.spool_file import Limits, remove_leftovers
from worker.ledger.receipts import Ledger
from worker.ledger.stores import open_blobs
from worker.queue.task import Priority
from worker.queue.wake import ring
from worker.receive.intake import Intake
from worker.settings import Settings
from worker.storage.pseudonym import PatientKey

_COLUMNS = ("accession_number", "patient_id", "study_instance_uid", "dates")
_DATES = re.compile(r"\d{8}|\d{8}-(\d{8})?|-\d{8}")
_LOST = 3
"""So many series in a row that an archive does not answer for, and it counts as gone."""
_PATIENCE = 600
"""Seconds that images wait without any of them being answered, until nobody seems to be there to answer them."""


class Source(Protocol):
    """An archive that is open: `dicom_io.network.query_retrieve.Archive` or `dicom_io.dicomweb.wado.WebArchive`."""

    def series(self, query: Query, modalities: tuple[str, ...]) -> Iterator[Series]:
        """Yield the series that match."""

    def instances(self, series: Series) -> list[str]:
        """Return the SOP Instance UIDs of a series."""

    def fetch(self, series: Series, missing: list[str]) -> str:
        """Fetch at least the missing instances; return what went wrong, in words, or nothing."""


OpenArchive = Callable[[], AbstractContextManager[Source]]


@dataclass(frozen=True)
class Step:
    """What became of one series: images that were received, that failed, and that were present already."""

    done: int
    total: int
    received: int = 0
    failed: int = 0
    present: int = 0
    error: str = ""


@dataclass(frozen=True)
class SearchResult:
    """The series that match the queries, each once, and the places of the queries that matched none."""

    series: list[Series]
    without_match: list[int]


def are_dates(words: str) -> bool:
    """Return whether a text is a day or a range of days as DICOM writes them (PS3.4 C.2.2.2.5)."""
    return bool(_DATES.fullmatch(words))


def read_queries(path: Path) -> list[tuple[int, Query]]:
    """Read a CSV file with one or more of the columns accession_number, patient_id, study_instance_uid, dates.

    Columns may be divided by commas, semicolons or tabs; in their names, case and what is no letter do not count.

    Returns
    -------
    list of (int, Query)
        The number of the line that each row ends on, and its query.

    Raises
    ------
    InvalidData
        It cannot be read, has none of these columns or no rows, dates are none, or a row names nothing: an empty query
        would fetch everything.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter=max(",;\t", key=head.count))
            by_plain_name = {_plain(name): name for name in reader.fieldnames or ()}
            columns = {name: by_plain_name[_plain(name)] for name in _COLUMNS if _plain(name) in by_plain_name}
            if not columns:
                raise InvalidData(f"{path}: has none of the columns {', '.join(_COLUMNS)}")
            queries = [(reader.line_num, _query(row, columns, f"{path}:{reader.line_num}")) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidData(f"{path}: cannot be read ({type(error).__name__})") from error
    if not queries:
        raise InvalidData(f"{path}: has no rows")
    return queries


def _plain(name: str) -> str:
    return "".join(each for each in name.lower() if each.isalpha())


def _query(row: dict[str, str | None], columns: dict[str, str], where: str) -> Query:
    values = {name: (row[column] or "").strip() for name, column in columns.items()}
    if not any(values.values()):
        raise InvalidData(f"{where}: names nothing")
    if values.get("dates") and not are_dates(values["dates"]):
        raise InvalidData(f"{where}: dates are written as 20260131, 20260101-20260131 or 20260101-")
    return Query(**values)


@contextmanager
def direct_receipt(settings: Settings, ledger: Ledger) -> Iterator[Receipt]:
    """Yield what receives objects that this process fetches itself: the same intake as behind the node.

    Raises
    ------
    InvalidSettings
        Another process is fetching into the same storage folder.
    OutOfResources
        The storage folder cannot be written to.
    """
    folder = settings.storage.folder
    try:
        blobs = open_blobs(settings, ledger)
        blobs.check_there()
        spool = blobs.incoming / "pull"  # its own: the daemon empties the other one when it starts
        spool.mkdir(exist_ok=True)
        lock = (folder / "pull.lock").open("a")
    except OSError as error:
        raise OutOfResources(f"storage.folder {folder}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InvalidSettings(f"another cxrd pull is fetching into {folder}") from error
        remove_leftovers(spool)  # never entered, and fetched again
        key = PatientKey(folder, settings.audit.patient_id, ledger.holds_patient_keys)
        # What a modality sends now goes before what lay in the archive.
        intake = Intake(
            ledger,
            blobs,
            key,
            lambda _receipt: ring(folder, "work"),
            priority=Priority.LOW,
            one_version=settings.scp.duplicates == "refuse",
            limits=settings.pixels.reading,
        )
        limits = Limits(settings.scp.max_object_mb, blobs.check_space, settings.scp.max_objects or None)
        yield Receipt(intake.receive, spool, settings.scp.ae_title, limits)


def find_series(
    open_archive: OpenArchive,
    queries: list[Query],
    modalities: tuple[str, ...],
    on_query: Callable[[int], None] = lambda _: None,
    before_query: Callable[[Query], None] = lambda _: None,
) -> SearchResult:
    """Return all matching series, each once. Raises as the archive does.

    `before_query` is called with each query before it is sent, and `on_query` after it with the number of queries done.
    """
    series: dict[str, Series] = {}
    without_match: list[int] = []
    with open_archive() as archive:
        for place, query in enumerate(queries):
            before_query(query)
            matches = list(archive.series(query, modalities))
            if not matches:
                without_match.append(place)
            for each in matches:
                series.setdefault(each.series_instance_uid, each)
            on_query(place + 1)
    return SearchResult(list(series.values()), without_match)


def fetch_series(
    open_archive: OpenArchive,
    series: list[Series],
    ledger: Ledger,
    *,
    most_waiting: int,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Step]:
    """Fetch series, one after the other; an image that the ledger has already is not asked for again.

    So a fetch that was interrupted goes on where it ended. Before each series it waits until fewer than `most_waiting`
    images are unanswered: a back-fill must not keep today's images waiting.

    Raises
    ------
    PeerUnavailable, RefusedByPeer
        The archive is not there, does not know us, or has gone. Or nobody answers the images that wait.
    OutOfResources
        An image cannot be stored.
    """
    failures = 0
    for number, each in enumerate(series, start=1):
        _wait(ledger, most_waiting, sleep)
        # One association for each: a PACS closes those that wait.
        with open_archive() as archive:
            step, alive = _fetch_one(archive, each, ledger, number, len(series))
        yield step
        failures = 0 if alive else failures + 1
        if failures >= _LOST:
            raise PeerUnavailable(f"{step.error}, for {_LOST} series in a row: given up; call it again to go on")


def _wait(ledger: Ledger, most_waiting: int, sleep: Callable[[float], None]) -> None:
    before, since = -1, 0
    while (waiting := _waiting(ledger)) >= most_waiting:
        since = since + 1 if waiting == before else 0
        if since >= _PATIENCE:
            raise PeerUnavailable(f"{waiting} images wait and none is answered: is `cxrd serve` running?")
        before = waiting
        sleep(1.0)


def _waiting(ledger: Ledger) -> int:
    counts = ledger.counts()
    return counts.get("received", 0) + counts.get("working", 0)


def _fetch_one(archive: Source, series: Series, ledger: Ledger, number: int, total: int) -> tuple[Step, bool]:
    """Fetch one series, and return whether the archive answered; one that fails with one may well have the next."""
    try:
        instances = archive.instances(series)
    except PeerUnavailable as unavailable:
        return Step(number, total, failed=1, error=str(unavailable)), False
    missing = [uid for uid in instances if not ledger.has_received(uid)]
    present = len(instances) - len(missing)
    if not missing:
        return Step(number, total, present=present), True
    fault, alive = "", True
    try:
        fault = archive.fetch(series, missing)
    except PeerUnavailable as unavailable:
        fault, alive = str(unavailable), False
    # Whatever the archive answered: an image has come when it is in the ledger, and not before.
    received = sum(ledger.has_received(uid) for uid in missing)
    failed = len(missing) - received
    error = (fault or "not everything came") if failed else ""
    return Step(number, total, received, failed, present, error), alive or received > 0
