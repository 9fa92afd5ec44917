"""`cxrd pull`: fetch from a PACS what it already holds."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dicom_io.errors import InvalidSettings
from worker import settings

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", envvar="CXRD_CONFIG", help="Settings file")]
_DATES = re.compile(r"\d{8}|\d{8}-(\d{8})?|-\d{8}")


def pull(
    name: Annotated[str, typer.Argument(help="The PACS: a destination's name in config.yaml")],
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many series there are")] = False,
    config: ConfigOption = None,
) -> None:
    """Find radiographs in a PACS (C-FIND) and have them sent to the running cxrd (C-MOVE), for back-fill.

    The PACS must know our AE title with host and port, as for any other sender, and `cxrd serve` must run. Broken off,
    it goes on where it was: what the audit knows is not asked for again. Exit code 2 when anything failed.
    """
    from dicom_io.query import Wanted
    from dicom_io.scu import Peer
    from worker.database import open_ledger
    from worker.destinations import peer_of
    from worker.pull import fetch, find, wanted_of

    loaded = settings.load(config)
    there = {each.name: each for each in loaded.destinations}
    if name not in there:
        raise InvalidSettings(f"{name}: not in the configuration; there are: {', '.join(there) or 'none'}")
    peer = peer_of(there[name], loaded)
    if not isinstance(peer, Peer):
        raise InvalidSettings(f"{name}: is no DICOM node; pull asks by C-FIND and C-MOVE")
    if date and not _DATES.fullmatch(date):
        raise InvalidSettings(f"--date {date}: write it as 20260131, 20260101-20260131 or 20260101-")
    wanted = wanted_of(table) if table else []
    if date or patient or accession:
        wanted.append(Wanted(date, patient, accession))
    if not wanted:
        raise InvalidSettings("name what to pull: --date, --patient, --accession or --csv")
    series = find(peer, wanted, loaded.rules.modalities)
    if dry_run or not series:
        sys.stdout.write(f"{len(series)} series\n")
        return
    came = failed = known = 0
    columns = (TextColumn("pulling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("pulling", total=len(series))
        for step in fetch(peer, series, open_ledger(loaded), loaded.scp.ae_title, most_waiting=most_waiting):
            came, failed, known = came + step.came, failed + step.failed + bool(step.error), known + step.known
            if step.error:
                sys.stderr.write(f"cxrd: series {step.done} of {step.total}: {step.error}\n")
            bar.update(task, completed=step.done)
    sys.stdout.write(f"{len(series)} series: {came} images came, {known} were known, {failed} failed\n")
    if failed:
        raise typer.Exit(2)
