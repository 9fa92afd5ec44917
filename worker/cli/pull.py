"""`cxrd pull`: fetch from an archive what it already holds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dicom_io.errors import InvalidSettings
from worker import settings

if TYPE_CHECKING:
    from dicom_io.network.query_retrieve import Receipt, Wanted
    from worker.destination_settings import Destination
    from worker.receive.backfill import Found, Open, Step

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", envvar="CXRD_CONFIG", help="Settings file")]
_OPTIONS = "the options"  # what a search by them alone is called, beside the rows of a table


def pull(
    name: Annotated[str, typer.Argument(help="The archive: a destination's name in config.yaml")],
    date: Annotated[str, typer.Option(help="Study date: 20260131, 20260101-20260131 or 20260101-")] = "",
    patient: Annotated[str, typer.Option(help="Patient ID")] = "",
    accession: Annotated[str, typer.Option(help="Accession number")] = "",
    table: Annotated[
        Path | None,
        typer.Option("--csv", help="Rows with accession_number, patient_id, study_instance_uid or dates"),
    ] = None,
    most_waiting: Annotated[
        int, typer.Option(min=1, help="Wait while this many images are unanswered: today's come first")
    ] = 20,
    get: Annotated[
        bool, typer.Option("--get", help="From a DICOM node by C-GET: it needs not know our address")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many series there are")] = False,
    config: ConfigOption = None,
) -> None:
    """Fetch radiographs that an archive already holds, for back-fill.

    From a DICOM node: found by C-FIND, and sent to the running `cxrd serve` by C-MOVE, for which the PACS must know our
    AE title with host and port; with --get, fetched by C-GET on our own association. From a DICOMweb server (a
    destination with a url): QIDO-RS and WADO-RS. Broken off, it goes on where it was: what the audit knows is not asked
    for again. Exit code 2 when anything failed.
    """
    from dicom_io.network.query_retrieve import Wanted
    from worker.ledger.database import open_ledger
    from worker.receive.backfill import are_dates, direct_receipt, fetch, wanted_of

    loaded = settings.load(config)
    there = {each.name: each for each in loaded.destinations}
    if name not in there:
        raise InvalidSettings(f"{name}: not in the configuration; there are: {', '.join(there) or 'none'}")
    if date and not are_dates(date):
        raise InvalidSettings(f"--date {date}: write it as 20260131, 20260101-20260131 or 20260101-")
    wanted = [(f"{table}:{line}", row) for line, row in wanted_of(table)] if table else []
    if date or patient or accession:
        wanted.append((_OPTIONS, Wanted(date, patient, accession)))
    if not wanted:
        raise InvalidSettings("name what to pull: --date, --patient, --accession or --csv")
    ledger = open_ledger(loaded)
    with ExitStack() as stack:
        opened = _way(there[name], loaded, get, lambda: stack.enter_context(direct_receipt(loaded, ledger)))
        series = _search(opened, wanted, loaded.rules.modalities).series
        if dry_run or not series:
            sys.stdout.write(f"{len(series)} series\n")
            return
        failed = _show(fetch(opened, series, ledger, most_waiting=most_waiting), len(series))
    if failed:
        raise typer.Exit(2)


def _way(destination: Destination, loaded: settings.Settings, get: bool, receipt: Callable[[], Receipt]) -> Open:
    """Return what opens the archive, in the way that fits it."""
    from dicom_io.dicomweb.wado import web_archive
    from dicom_io.network.query_retrieve import Get, Move, archive
    from worker.deliver.dicom import node_of
    from worker.deliver.dicomweb import server_of
    from worker.destination_settings import DicomDestination, DicomwebDestination

    name = destination.name
    if isinstance(destination, DicomwebDestination):
        if get:
            raise InvalidSettings(f"{name}: --get is for DICOM nodes; a DICOMweb server is asked by WADO-RS anyhow")
        server, received = server_of(destination), receipt()
        return lambda: web_archive(server, received, sender=name)
    if not isinstance(destination, DicomDestination):
        raise InvalidSettings(f"{name}: is no archive; pull asks DICOM nodes and DICOMweb servers")
    node = node_of(destination, loaded)
    by = Get(receipt(), loaded.rules.sop_classes) if get else Move(loaded.scp.ae_title)
    return lambda: archive(node, by)


def _search(opened: Open, wanted: list[tuple[str, Wanted]], modalities: tuple[str, ...]) -> Found:
    """Search with a progress bar, and say which rows of a table match nothing."""
    from worker.receive.backfill import find

    columns = (TextColumn("searching"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("searching", total=len(wanted))
        found = find(
            opened, [each for _, each in wanted], modalities, lambda number: bar.update(task, completed=number)
        )
    # Of a search by options alone the sum says enough.
    for number in found.unmatched if len(wanted) > 1 or wanted[0][0] != _OPTIONS else ():
        sys.stderr.write(f"cxrd: {wanted[number][0]}: no series of {', '.join(modalities)} matches\n")
    return found


def _show(steps: Iterator[Step], total: int) -> int:
    """Follow the steps with a progress bar, sum them up, and return how many images failed."""
    came = failed = known = 0
    columns = (TextColumn("pulling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("pulling", total=total)
            for step in steps:
                came, failed, known = came + step.came, failed + step.failed, known + step.known
                if step.error:
                    sys.stderr.write(f"cxrd: series {step.done} of {step.total}: {step.error}\n")
                bar.update(task, completed=step.done)
    finally:
        sys.stdout.write(f"{total} series: {came} images came, {known} were known, {failed} failed\n")
    return failed
