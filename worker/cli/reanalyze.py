"""`cxrd reanalyze`: received images are to be read again by the model that serves now."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from dicom_io.errors import InvalidSettings
from worker import settings

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", envvar="CXRD_CONFIG", help="Settings file")]


def reanalyze(
    since: Annotated[str | None, typer.Option(help="Received since: 7d, 12h, 2026-01-31, 2026-01-31T08:00")] = None,
    until: Annotated[str | None, typer.Option(help="Received before, as --since")] = None,
    accession: Annotated[str | None, typer.Option(help="Accession number")] = None,
    receipt: Annotated[list[int] | None, typer.Option("--receipt", help="This receipt; may be repeated")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Images whose answer is of this model: its name, or the beginning")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All analysed images")] = False,
    not_analysed: Annotated[
        bool,
        typer.Option("--include-not-analysed", help="Also images of these that the gate of a model left out"),
    ] = False,
    reason: Annotated[
        str | None,
        typer.Option("--reason", help="Only images that were not analysed, for a reason that begins so"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many images that would be")] = False,
    status: Annotated[bool, typer.Option("--status", help="Say how many wait, and what became of the others")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Take back all that still wait")] = False,
    config: ConfigOption = None,
) -> None:
    """Have received images read again by the model that serves now; the earlier answers stay in the audit.

    The worker does it, whenever no new image waits, newest first; while none is running, they wait for it. What the
    model has answered already is left out, so that the command may be given again. New reports point to their
    predecessors.
    """
    from modeltrain.model.card import load_card
    from worker.clock import now
    from worker.inference.serving import model_folder
    from worker.ledger.database import open_ledger
    from worker.ledger.queries import moment
    from worker.ledger.reanalyses import Criteria, Reanalyses
    from worker.ledger.tables import OUT_OF_DISTRIBUTION

    named = since or until or accession or receipt or model or reason
    if status + cancel + bool(named or everything) != 1:
        raise InvalidSettings(
            "name the images by --since, --until, --accession, --receipt, --model or --reason, or say --all, --status"
            " or --cancel"
        )
    if everything and named:
        raise InvalidSettings("--all goes with none of the options that name images")
    if model and (reason or not_analysed):
        raise InvalidSettings("--model names images by their answer, and those that were not analysed have none")
    loaded = settings.load(config)
    reanalyses = Reanalyses(open_ledger(loaded))
    if status:
        for name, state, count in reanalyses.counts():
            sys.stdout.write(f"{name}: {count} {state.replace('_', ' ')}\n")
        return
    if cancel:
        sys.stdout.write(f"{reanalyses.cancel(getpass.getuser(), now())} images will not be read again\n")
        return
    begun, ended = (moment(each) if each else None for each in (since, until))
    also = OUT_OF_DISTRIBUTION if not_analysed else None
    wanted = Criteria(begun, ended, accession, receipt or (), model, reason, also)
    card = load_card(model_folder(loaded))
    chosen = reanalyses.choose(wanted, card.sha256)
    superseded = f" (another model's later answer stands for {chosen.superseded})" if chosen.superseded else ""
    rest = (
        f"{chosen.answered} it has answered{superseded}, {chosen.left_out} it has left out, "
        f"{chosen.waiting} wait already"
    )
    if dry_run:
        sys.stdout.write(f"{len(chosen.receipt_ids)} images would be read again by {card.label}; {rest}\n")
        return
    entered = reanalyses.request(chosen.receipt_ids, card.label, card.sha256, getpass.getuser(), now())
    sys.stdout.write(f"{entered} images will be read again by {card.label}; {rest}\n")
