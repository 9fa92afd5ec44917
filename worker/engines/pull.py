"""Back-fill from a configured archive: which way it is asked, what is searched for, and what came."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_io.dicomweb.wado import web_archive
from dicom_io.errors import InvalidSettings
from dicom_io.network.query_retrieve import Get, Move, Query, archive
from worker.clock import now
from worker.defaults import MOST_WAITING
from worker.deliver.dicom import node_of
from worker.deliver.dicomweb import server_of
from worker.destination_settings import DicomDestination, DicomwebDestination
from worker.ledger.database import open_ledger
from worker.receive.backfill import Step, are_dates, direct_receipt, fetch_series, find_series, read_queries
from worker.storage.pseudonym import PatientKey

if TYPE_CHECKING:
    from dicom_io.network.query_retrieve import Receipt
    from worker.destination_settings import Destination
    from worker.ledger.receipts import Ledger
    from worker.receive.backfill import OpenArchive, SearchResult
    from worker.settings import Settings

_OPTIONS = "the options"  # what a search by them alone is called, beside the rows of a table


@dataclass(frozen=True, slots=True)
class PullRequest:
    """What is to be fetched from where.

    Attributes
    ----------
    archive
        A destination's name in the settings.
    dates
        A study date or a range, as DICOM writes them.
    table
        A CSV file of searches, see `worker.receive.backfill.read_queries`.
    most_waiting
        Wait while so many images are unanswered.
    get
        Ask a DICOM node by C-GET instead of C-MOVE.
    """

    archive: str
    dates: str = ""
    patient: str = ""
    accession: str = ""
    table: Path | None = None
    most_waiting: int = MOST_WAITING
    get: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class PullWatch:
    """Functions that are called as a back-fill proceeds.

    Attributes
    ----------
    on_search
        Gets the number of searches done, and of all.
    on_no_match
        Gets the name of each search that matched nothing, where there were several.
    on_series
        Gets what became of each series.
    """

    on_search: Callable[[int, int], None] = lambda _done, _total: None
    on_no_match: Callable[[str], None] = lambda _: None
    on_series: Callable[[Step], None] = lambda _: None


def pull(settings: Settings, request: PullRequest, watch: PullWatch = PullWatch()) -> int:
    """Search an archive and fetch what the ledger does not know yet; return the number of series that match.

    Raises
    ------
    InvalidSettings
        The archive is not configured or is none, or the request names nothing.
    InvalidData
        The table cannot be used.
    PeerUnavailable, RefusedByPeer, OutOfResources
        As `worker.receive.backfill.fetch_series`.
    """
    destination = settings.destination(request.archive)
    searches = _searches(request)
    ledger = open_ledger(settings)
    with ExitStack() as stack:
        open_archive = _way(
            destination, settings, request.get, lambda: stack.enter_context(direct_receipt(settings, ledger))
        )
        before_query = _entering(destination, settings, ledger)
        series = _search(open_archive, searches, settings.rules.modalities, watch, before_query).series
        if not request.dry_run:
            for step in fetch_series(open_archive, series, ledger, most_waiting=request.most_waiting):
                watch.on_series(step)
    return len(series)


def _searches(request: PullRequest) -> list[tuple[str, Query]]:
    """Return each search with what it is called."""
    if request.dates and not are_dates(request.dates):
        raise InvalidSettings(f"--date {request.dates}: write it as 20260131, 20260101-20260131 or 20260101-")
    searches = []
    if request.table:
        searches = [(f"{request.table}:{line}", row) for line, row in read_queries(request.table)]
    if request.dates or request.patient or request.accession:
        searches.append((_OPTIONS, Query(request.dates, request.patient, request.accession)))
    if not searches:
        raise InvalidSettings("name what to pull: --date, --patient, --accession or --csv")
    return searches


def _way(destination: Destination, settings: Settings, get: bool, receipt: Callable[[], Receipt]) -> OpenArchive:
    """Return what opens the archive, in the way that fits it."""
    name = destination.name
    if isinstance(destination, DicomwebDestination):
        if get:
            raise InvalidSettings(f"{name}: --get is for DICOM nodes; a DICOMweb server is always asked by WADO-RS")
        server, target = server_of(destination), receipt()
        return lambda: web_archive(server, target, sender=name)
    if not isinstance(destination, DicomDestination):
        raise InvalidSettings(f"{name}: not an archive; pull asks DICOM nodes and DICOMweb servers")
    node = node_of(destination, settings)
    by = Get(receipt(), settings.rules.sop_classes) if get else Move(settings.scp.ae_title)
    return lambda: archive(node, by)


def _entering(destination: Destination, settings: Settings, ledger: Ledger) -> Callable[[Query], None]:
    """Return what enters in the audit that a search is sent; the patient stands there as in receipts."""
    key = PatientKey(settings.storage.folder, settings.audit.patient_id, ledger.holds_patient_keys)
    how = "QIDO-RS" if isinstance(destination, DicomwebDestination) else "C-FIND"

    def enter(query: Query) -> None:
        facts = asdict(query) | {"patient_key": key.of(query.patient_id), "destination": destination.name, "how": how}
        del facts["patient_id"]
        ledger.record_event("queried", now(), facts)

    return enter


def _search(
    open_archive: OpenArchive,
    searches: list[tuple[str, Query]],
    modalities: tuple[str, ...],
    watch: PullWatch,
    before_query: Callable[[Query], None],
) -> SearchResult:
    queries = [each for _, each in searches]
    result = find_series(
        open_archive, queries, modalities, lambda done: watch.on_search(done, len(searches)), before_query
    )
    # Of a search by options alone the number of series says enough.
    for place in result.without_match if len(searches) > 1 or searches[0][0] != _OPTIONS else ():
        watch.on_no_match(searches[place][0])
    return result
