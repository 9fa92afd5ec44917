"""Whether anything in the audit was altered: the chain is computed anew, and rows and files are held to it.

Everything is read some at a time, in transactions of their own, so that ten million events need no more memory than a
thousand, and nobody waits for us.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Select, exists, func, select, text

from dicom_io.durable import file_sha256
from dicom_io.errors import InvalidSettings
from dicom_io.finding import Finding
from worker.ledger import definitions, row_digests
from worker.ledger.event_chain import GENESIS, seal_of_row
from worker.ledger.tables import EventRow, FindingRow, OutsideRow, ReceiptRow, ResultRow

if TYPE_CHECKING:
    from worker.storage.blobs import Blobs

Opening = Callable[[], AbstractContextManager[Connection]]
"""Opens a connection for reading."""
Advance = Callable[[int, int], None]
"""Called with the number of events that were read, and of all."""

_EVENTS, _IMAGES = 2000, 200
"""Read in one transaction."""
_LOOKS, _PAUSE = 3, 0.2
"""How often an image is looked at before a difference counts, and seconds between: its rows may just be changing."""
_DECISIVE = ("analysed", "not_analysed", "failed")
_TELLING = (*_DECISIVE, "reanalysed", "reanalysis_left_out")
_LUNG_COLUMNS = ("lungs_share", "lungs_count", "lungs_cut")
_FINDING_COLUMNS = (
    "probability",
    "answer",
    "threshold",
    "model_sha256",
    "operating_point",
    "prediction_set",
    "outlier",
    "caution",
    "regions",
    "score",
    *_LUNG_COLUMNS,
)
_OUTSIDE_COLUMNS = ("outlier", "input_mean", "input_std", *_LUNG_COLUMNS)
_OWNED = ("finding", "outside", "result", "reanalysis", "shadow", "feedback", "event")


@dataclass
class Counts:
    """How far a verification has come.

    Attributes
    ----------
    last
        Number and digest of the newest event that was read; 0 and `GENESIS` before the first.
    elsewhere
        Files that lie in another store than the one that was looked through.
    """

    events: int = 0
    images: int = 0
    files: int = 0
    elsewhere: int = 0
    last: tuple[int, str] = field(default=(0, GENESIS))


class Verification:
    """Reads the audit from an event on, and what belongs to these events.

    Parameters
    ----------
    opening
        Opens a connection; asked for again and again.
    begin
        Number of the first event. That what comes before was verified is the caller's to know. From the first one on,
        all images are looked at; else those that these events are about.
    """

    def __init__(self, opening: Opening, begin: int = 0) -> None:
        self._opening: Opening = partial(lenient, opening)
        self._begin = begin
        self.counts = Counts()

    def problems(self, blobs: Blobs | None = None, advance: Advance | None = None) -> Iterator[str]:
        """Yield a line for each thing that does not fit; with `blobs`, read all files that are kept there too.

        Raises
        ------
        InvalidSettings
            There is no event of the number `begin`.
        """
        yield from self._chain(advance or (lambda *_counts: None))
        yield from self._numbers()
        yield from self._images()
        if self._begin == 0:
            yield from self._orphans()
        with self._opening() as connection:
            faults = list(definitions.faults(connection))
        yield from faults
        if blobs is not None:
            yield from self._files(blobs)

    # ---- the chain ---------------------------------------------------------------------------------------------------

    def _chain(self, advance: Advance) -> Iterator[str]:
        last, previous, total = self._start()
        number = last
        query = text(
            "SELECT id, receipt_id, at, kind, detail, previous, digest, rows FROM event"
            " WHERE id > :number ORDER BY id LIMIT :most"
        )
        while True:
            with self._opening() as connection:
                events = connection.execute(query, {"number": number, "most": _EVENTS}).all()
            if not events:
                return
            for number, receipt_id, at, kind, detail, before, own, rows in events:
                if before != previous:
                    yield f"event {number}: an event before it was removed or altered"
                if own == seal_of_row(before, receipt_id, at, kind, detail, rows, number):
                    if number != last + 1:
                        yield f"event {number}: the number before it is missing; cxrd leaves none out"
                # Earlier versions did not seal the number, and PostgreSQL left some out.
                elif own != seal_of_row(before, receipt_id, at, kind, detail, rows):
                    yield f"event {number}: altered"
                previous, last = own, number
            self.counts.events += len(events)
            self.counts.last = (number, previous)
            advance(self.counts.events, max(total, self.counts.events))

    def _start(self) -> tuple[int, str, int]:
        """Return the number and the digest of the event before the first, and how many there are from then on."""
        with self._opening() as connection:
            total = connection.scalar(select(func.count()).where(EventRow.id >= self._begin)) or 0
            if self._begin == 0:
                return 0, GENESIS, total
            if connection.scalar(select(EventRow.id).where(EventRow.id == self._begin)) is None:
                raise InvalidSettings(f"--from {self._begin}: there is no such event")
            query = select(EventRow.id, EventRow.digest).where(EventRow.id < self._begin).order_by(EventRow.id.desc())
            before = connection.execute(query.limit(1)).one_or_none()
        return (0, GENESIS, total) if before is None else (before.id, before.digest, total)

    def _numbers(self) -> Iterator[str]:
        """Find what was numbered so that nobody reads it: the database counts from 1."""
        for table in ("event", "receipt"):
            with self._opening() as connection:
                query = f"SELECT id FROM {table} WHERE id < 1 ORDER BY id LIMIT 1000"  # noqa: S608 - our names
                numbers = list(connection.scalars(text(query)))
            yield from (f"{table} {number}: was not entered by cxrd, which numbers from 1" for number in numbers)

    # ---- rows --------------------------------------------------------------------------------------------------------

    def _images(self) -> Iterator[str]:
        """Hold the rows about each image to what its events say."""
        query = select(ReceiptRow.id).order_by(ReceiptRow.id).limit(_IMAGES)
        if self._begin:
            query = query.where(exists().where(EventRow.receipt_id == ReceiptRow.id, EventRow.id >= self._begin))
        number = 0
        while True:
            with self._opening() as connection:
                numbers = list(connection.scalars(query.where(ReceiptRow.id > number)))
                faults = list(_faults(connection, numbers)) if numbers else []
                steady = connection.dialect.name == "sqlite"  # a transaction sees one state of all rows
            if not numbers:
                return
            for each in sorted({receipt_id for receipt_id, _ in faults}):
                yield from (words for at, words in faults if at == each) if steady else self._again(each)
            self.counts.images += len(numbers)
            number = numbers[-1]

    def _again(self, receipt_id: int) -> list[str]:
        """Look at an image once more, some times; return what is wrong each time, and last."""
        words: list[str] = []
        for _ in range(_LOOKS - 1):
            time.sleep(_PAUSE)
            with self._opening() as connection:
                words = [each for _, each in _faults(connection, [receipt_id])]
            if not words:
                break
        return words

    def _orphans(self) -> Iterator[str]:
        """Find what is about images that are not there. The database would not let them go in any ordinary way."""
        for table in _OWNED:
            query = (
                f"SELECT DISTINCT o.receipt_id FROM {table} o WHERE o.receipt_id IS NOT NULL"  # noqa: S608 - our names
                " AND NOT EXISTS (SELECT 1 FROM receipt r WHERE r.id = o.receipt_id) ORDER BY 1 LIMIT 1000"
            )
            with self._opening() as connection:
                numbers = list(connection.scalars(text(query)))
            what = "removed" if table == "event" else f"a {table} is about it, and it was removed"
            yield from (f"receipt {number}: {what}" for number in numbers)
        query = (
            "SELECT d.id FROM delivery d WHERE NOT EXISTS (SELECT 1 FROM result x WHERE x.id = d.result_id) LIMIT 1000"
        )
        with self._opening() as connection:
            deliveries = list(connection.scalars(text(query)))
        yield from (f"delivery {number}: its result was removed" for number in deliveries)

    # ---- files -------------------------------------------------------------------------------------------------------

    def _files(self, blobs: Blobs) -> Iterator[str]:
        """Compute the digests of the files of a store anew.

        Raises
        ------
        OutOfResources
            The store is not there.
        """
        blobs.check_there()
        for table, name in ((ReceiptRow, "file"), (ResultRow, "result")):
            receipt: Any = ReceiptRow.id if table is ReceiptRow else ResultRow.receipt_id
            query = select(table.id, receipt, table.sha256, table.store).where(table.deleted_at.is_(None))
            if self._begin:
                query = query.where(exists().where(EventRow.receipt_id == receipt, EventRow.id >= self._begin))
            for number, receipt_id, sha256, store in self._each(query.order_by(table.id).limit(_IMAGES), table.id):
                if store not in ("", blobs.store):
                    self.counts.elsewhere += 1
                    continue
                fault = _fault_of(blobs, sha256)
                self.counts.files += 1
                if fault and self._is_kept(table, number, sha256):
                    yield f"receipt {receipt_id}: its {name} {str(sha256)[:12]} {fault}"

    def _each(self, query: Select[Any], key: Any) -> Iterator[Any]:
        number = 0
        while True:
            with self._opening() as connection:
                rows = connection.execute(query.where(key > number)).all()
            if not rows:
                return
            yield from rows
            number = rows[-1][0]

    def _is_kept(self, table: type[ReceiptRow | ResultRow], number: int, sha256: str) -> bool:
        """Tell whether a file is still to be there, or was deleted or replaced while we looked."""
        same = (table.id == number, table.sha256 == sha256, table.deleted_at.is_(None))
        with self._opening() as connection:
            return connection.scalar(select(table.id).where(*same)) is not None


def verify(connection: Connection) -> tuple[int, list[str]]:
    """Return how many events the audit has, and a line for each thing that does not fit, with one connection."""
    verification = Verification(lambda: nullcontext(connection))
    problems = list(verification.problems())
    return verification.counts.events, problems


@contextmanager
def lenient(opening: Opening) -> Iterator[Connection]:
    """Open a connection that reads any text: SQLite also holds what is no UTF-8, which no digest of ours is of."""
    with opening() as connection:
        if connection.dialect.name != "sqlite":
            yield connection
            return
        driver: Any = connection.connection.driver_connection
        driver.text_factory = lambda data: data.decode(errors="surrogateescape")
        try:
            yield connection
        finally:
            driver.text_factory = str


def _fault_of(blobs: Blobs, sha256: str) -> str:
    """Return what is wrong with the files of an object; empty where nothing is."""
    if not re.fullmatch("[0-9a-f]{64}", str(sha256)):
        return "has no digest"
    paths = blobs.every(sha256)
    if not paths:
        return "is missing from the store"
    try:
        altered = [path for path in paths if file_sha256(path) != sha256]
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "has another content" if altered else ""


def _faults(connection: Connection, numbers: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Yield what is wrong with the rows about each of these receipts, with its number."""
    named = set()
    for number, table, words in _by_details(connection, numbers):
        named.add((number, table))
        yield number, words
    for number, table, words in _by_digests(connection, numbers):
        if (number, table) not in named:  # what was said in more detail is not said again
            yield number, words


def _by_details(connection: Connection, numbers: Sequence[int]) -> Iterator[tuple[int, str, str]]:
    """Compare receipts, findings and images outside with what their events tell; yield number, table and words."""
    states: dict[int, str] = {}
    answers: dict[tuple[int, str], dict[str, Any]] = {}
    outside: dict[tuple[int, str], dict[str, Any]] = {}
    query = select(EventRow.receipt_id, EventRow.kind, EventRow.detail).order_by(EventRow.id)
    for number, kind, detail in connection.execute(query.where(_about(EventRow, numbers), EventRow.kind.in_(_TELLING))):
        if number is None:
            continue
        if kind in _DECISIVE:
            states[number] = kind
        if kind in ("analysed", "reanalysed"):
            states[number] = "analysed"  # which one that had been left out becomes by a second reading
        try:
            facts = json.loads(detail)
            if kind in ("analysed", "reanalysed"):
                answers[number, facts["model_sha256"]] = _completed(facts)
            # The model looked at it; what the rules leave out has no score, not even none.
            elif kind in ("not_analysed", "reanalysis_left_out") and "outlier" in facts:
                outside[number, facts["model_sha256"]] = facts
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # not as it was written: the chain tells of it
    yield from ((number, "receipt", words) for number, words in _state_faults(connection, numbers, states))
    answered = _row_faults(connection, FindingRow, _FINDING_COLUMNS, answers, "finding", numbers)
    yield from ((number, "finding", words) for number, words in answered)
    left_out = _row_faults(connection, OutsideRow, _OUTSIDE_COLUMNS, outside, "record of an image outside", numbers)
    yield from ((number, "outside", words) for number, words in left_out)


def _about(table: Any, numbers: Sequence[int]) -> Any:
    return table.receipt_id.in_(list(numbers))


def _by_digests(connection: Connection, numbers: Sequence[int]) -> Iterator[tuple[int, str, str]]:
    """Compare the rows about each receipt with the digests that its newest event carries; yield as `_by_details`."""
    newest = select(func.max(EventRow.id)).where(_about(EventRow, numbers)).group_by(EventRow.receipt_id)
    query = select(EventRow.receipt_id, EventRow.id, EventRow.rows).where(EventRow.id.in_(newest))
    events = {row.receipt_id: (row.id, row.rows) for row in connection.execute(query)}
    actual = row_digests.of_receipts(connection, numbers)
    for number in numbers:
        event_id, stated = events.get(number, (0, None))
        if not event_id:
            yield number, "", f"receipt {number}: has no event"
        elif not isinstance(stated, str):
            yield number, "", f"receipt {number}: its newest event, {event_id}, does not seal its rows"
        else:
            for table in row_digests.differences(stated, actual.get(number, "")):
                yield number, table, f"receipt {number}: its rows in {table} are not those that event {event_id} seals"


def _completed(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a finding with what an event of before revision 0006 did not name: answer and regions."""
    if "answer" in facts:
        return facts
    classes, box = facts.get("prediction_set"), facts.get("region")
    finding = Finding(
        facts["probability"],
        facts["decision"],
        facts["threshold"],
        prediction_set=None if classes is None else tuple(classes.split()),
        outlier=facts.get("outlier"),
    )
    regions = json.dumps([{"place": "", "box": [int(each) for each in box.split(",")]}]) if box else None
    return facts | {"answer": finding.answer.value, "regions": regions}


def _state_faults(connection: Connection, numbers: Sequence[int], states: dict[int, str]) -> Iterator[tuple[int, str]]:
    """Compare each receipt with its last decisive event."""
    query = select(ReceiptRow.id, ReceiptRow.state).where(ReceiptRow.id.in_(list(numbers))).order_by(ReceiptRow.id)
    for row in connection.execute(query):
        if states.get(row.id) != row.state and row.state in _DECISIVE:
            yield row.id, f"receipt {row.id}: state differs from what its event says"


def _row_faults(
    connection: Connection,
    table: type[FindingRow | OutsideRow],
    names: Iterable[str],
    events: dict[tuple[int, str], dict[str, Any]],
    name: str,
    numbers: Sequence[int],
) -> Iterator[tuple[int, str]]:
    """Compare each row with the last event of its image and model; one without was put there by hand."""
    columns = [table.receipt_id, table.model_sha256, *(getattr(table, key) for key in names if key != "model_sha256")]
    query = select(*columns).where(_about(table, numbers)).order_by(table.id)
    differing: dict[int, list[str]] = defaultdict(list)
    for row in connection.execute(query).mappings():
        number = row["receipt_id"]
        facts = events.pop((number, row["model_sha256"]), None)
        if facts is None:
            yield number, f"receipt {number}: {name} without an event"
        else:
            differing[number].extend(key for key in names if row[key] != facts.get(key))
    for number, keys in differing.items():
        yield from ((number, f"receipt {number}: {key} differs from what its event says") for key in keys)
    for number, model_sha256 in events:
        what = f"the {name} of model {model_sha256[:12]} was removed, or given to another model"
        yield number, f"receipt {number}: {what}"
