"""`cxrd pull`: fetch from an archive what it already holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli import options, output
from worker.defaults import MOST_WAITING

if TYPE_CHECKING:
    from rich.progress import Progress

    from worker.receive.backfill import Step


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
        int, typer.Option(min=1, help="Pause while this many images wait to be analysed: new ones come first")
    ] = MOST_WAITING,
    get: Annotated[bool, typer.Option("--get", help="Use C-GET: a DICOM node then need not know our address")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the series")] = False,
    config: options.Config = None,
) -> None:
    """Fetch radiographs that an archive already holds.

    A DICOM node is searched by C-FIND and sends the images by C-MOVE to the running `cxrd serve`. It must know our AE
    title, host and port. With --get they come by C-GET on our own association. A DICOMweb server is asked by QIDO-RS
    and WADO-RS.

    The command may be repeated: images that the audit knows are not fetched again. Exit code 2 means that an image or a
    series failed.
    """
    from worker.engines.pull import PullRequest, PullWatch
    from worker.engines.pull import pull as run

    settings = options.load(config)
    request = PullRequest(
        archive=name,
        dates=date,
        patient=patient,
        accession=accession,
        table=table,
        most_waiting=most_waiting,
        get=get,
        dry_run=dry_run,
    )
    with output.progress() as bar:
        shown = _Shown(bar)
        modalities = ", ".join(settings.rules.modalities)
        watch = PullWatch(
            on_search=shown.searched,
            on_no_match=lambda search: output.note(f"{search}: no series of {modalities} matches"),
            on_series=shown.fetched,
        )
        try:
            count = run(settings, request, watch)
        finally:
            bar.stop()
            shown.sum_up()
    if dry_run or not count:
        output.line(f"Series found: {count}")
    if shown.failed:
        raise typer.Exit(2)


class _Shown:
    """Progress bars for the search and for the series, and the sum of what came."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._search = bar.add_task("searching", total=None)
        self._fetch = bar.add_task("pulling", total=None, visible=False)
        self._series = self._received = self._present = 0
        self.failed = 0

    def searched(self, done: int, total: int) -> None:
        self._bar.update(self._search, completed=done, total=total)

    def fetched(self, step: Step) -> None:
        self._series = step.total
        self._received += step.received
        self._present += step.present
        self.failed += step.failed
        if step.error:
            output.note(f"series {step.done} of {step.total}: {step.error}")
        self._bar.update(self._fetch, completed=step.done, total=step.total, visible=True)

    def sum_up(self) -> None:
        """Print the sum, also of what came before an error."""
        if self._series:
            output.counts(
                [
                    ("Series found", self._series),
                    ("Images received", self._received),
                    ("Already there", self._present),
                    ("Failed", self.failed),
                ]
            )
