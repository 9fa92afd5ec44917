"""`cxrd reanalyze`: received images are to be read again by the model that serves now."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_io.errors import InvalidSettings
from worker.cli import options, output

if TYPE_CHECKING:
    from worker.models.reanalysis import ReanalysisResult


def reanalyze(
    since: options.Since = None,
    until: options.Until = None,
    accession: options.Accession = None,
    receipt: options.Receipts = None,
    model: Annotated[
        str | None, typer.Option(help="Images whose answer is of this model: its name, or the beginning")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All analysed images")] = False,
    not_analysed: Annotated[
        bool,
        typer.Option("--include-not-analysed", help="Also images that a model left out as outside"),
    ] = False,
    reason: Annotated[
        str | None, typer.Option(help="Only images that were not analysed, for a reason that begins so")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the images")] = False,
    status: Annotated[bool, typer.Option("--status", help="Show what was requested and what became of it")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel all requests that still wait")] = False,
    config: options.Config = None,
) -> None:
    """Read received images again with the serving model. Earlier answers stay in the audit.

    The worker reads them, newest first, when no new image waits. Images that this model has answered are left out, so
    the command may be repeated. New reports refer to the earlier ones.
    """
    from worker.models import reanalysis

    request = reanalysis.ReanalysisRequest(
        by=getpass.getuser(),
        since=since,
        until=until,
        accession=accession,
        receipt_ids=tuple(receipt or ()),
        model=model,
        everything=everything,
        include_not_analysed=not_analysed,
        reason=reason,
    )
    if status + cancel + (request.restricts or everything) > 1:
        raise InvalidSettings("give either --status, or --cancel, or the options that name images")
    settings = options.load(config)
    if status:
        rows = [(name, state.replace("_", " "), str(count)) for name, state, count in reanalysis.counts(settings)]
        output.table(("model", "state", "images"), rows)
    elif cancel:
        output.line(f"Cancelled {reanalysis.cancel(settings, request.by)} waiting re-reads.")
    else:
        _show(reanalysis.reanalyze(settings, request, dry_run=dry_run), dry_run=dry_run)


def _show(result: ReanalysisResult, *, dry_run: bool) -> None:
    selection = result.selection
    output.counts(
        [
            ("Model", result.model),
            ("Would be read again" if dry_run else "Will be read again", result.requested),
            ("Already answered by this model", selection.answered),
            ("  of these, another model answered later", selection.superseded),
            ("Left out by this model before", selection.left_out),
            ("Already waiting", selection.waiting),
            ("Deleted: by age, for lack of space, or by order", selection.deleted),
        ]
    )
