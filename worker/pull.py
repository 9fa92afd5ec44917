"""Back-fill: what a PACS already holds is found, and sent to the running node, as fast as it is answered."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dicom_io.errors import InvalidData, PeerUnavailable
from dicom_io.query import Archive, Series, Wanted, archive
from dicom_io.scu import Peer
from worker.ledger import Ledger

_COLUMNS = ("accession_number", "patient_id", "study_instance_uid", "dates")


@dataclass(frozen=True)
class Step:
    """What became of one series: images that came, failed, or were there already."""

    done: int
    total: int
    came: int = 0
    failed: int = 0
    known: int = 0
    error: str = ""


def wanted_of(path: Path) -> list[Wanted]:
    """Read a CSV file with one or more of the columns accession_number, patient_id, study_instance_uid, dates.

    Raises
    ------
    InvalidData
        It cannot be read, has none of these columns, or a row names nothing: an empty query would fetch everything.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = [name for name in _COLUMNS if name in (reader.fieldnames or ())]
            if not columns:
                raise InvalidData(f"{path}: has none of the columns {', '.join(_COLUMNS)}")
            wanted = []
            for number, row in enumerate(reader, start=2):
                values = {name: (row[name] or "").strip() for name in columns}
                if not any(values.values()):
                    raise InvalidData(f"{path}:{number}: names nothing")
                wanted.append(Wanted(**values))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidData(f"{path}: cannot be read ({type(error).__name__})") from error
    return wanted


def find(peer: Peer, wanted: list[Wanted], modalities: tuple[str, ...]) -> list[Series]:
    """Return all matching series, each once. Raises as `dicom_io.query` does."""
    found: dict[str, Series] = {}
    with archive(peer) as pacs:
        for each in wanted:
            for series in pacs.series(each, modalities):
                found.setdefault(series.series_instance_uid, series)
    return list(found.values())


def fetch(
    peer: Peer,
    series: list[Series],
    ledger: Ledger,
    destination: str,
    *,
    most_waiting: int,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Step]:
    """Have series sent, one after the other; what the ledger knows already is not asked for again.

    So it goes on where it was broken off. Before each series it waits until fewer than `most_waiting` images are
    unanswered: a back-fill must not keep today's images waiting.

    Raises
    ------
    PeerUnavailable, RefusedByPeer
        The PACS is not there, or does not know us.
    """
    for number, each in enumerate(series, start=1):
        while _waiting(ledger) >= most_waiting:
            sleep(1.0)
        # One association for each: a PACS closes those that wait.
        with archive(peer) as pacs:
            step = _one(pacs, each, ledger, destination, number, len(series))
        yield step


def _waiting(ledger: Ledger) -> int:
    counts = ledger.counts()
    return counts.get("received", 0) + counts.get("working", 0)


def _one(pacs: Archive, series: Series, ledger: Ledger, destination: str, number: int, total: int) -> Step:
    """Fetch one series; a PACS that fails with one may well have the next."""
    try:
        instances = pacs.instances(series)
        known = sum(ledger.knows(uid) for uid in instances)
        if known == len(instances):
            return Step(number, total, known=known)
        moved = pacs.move(series, destination)
    except PeerUnavailable as error:
        return Step(number, total, error=str(error))
    # A series is sent as a whole: what was known comes again, and changes nothing.
    return Step(number, total, came=max(moved.completed - known, 0), failed=moved.failed, known=known)
