"""`cxrd feedback`: what readers say of the images, for the audit and for retraining."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from worker.cli import options, output

feedback = typer.Typer(help="Enter and list readers' verdicts.", no_args_is_help=True, rich_markup_mode="markdown")

_SHOWN = ("receipt_id", "accession_number", "verdict", "answer", "probability", "reader", "at")


@feedback.command()
def add(
    verdict: Annotated[Literal["NORMAL", "PNEUMONIA"], typer.Option(help="What the image shows")],
    reader: Annotated[str, typer.Option(help="The reader's user name")],
    sop: Annotated[str, typer.Option(help="SOP Instance UID of the radiograph")] = "",
    accession: Annotated[str, typer.Option(help="Or the accession number, for all its analysed images")] = "",
    agent: Annotated[Literal["bacteria", "virus", ""], typer.Option(help="Cause of the pneumonia, if known")] = "",
    config: options.Config = None,
) -> None:
    """Enter one verdict. It replaces an earlier one on the same image; the audit keeps both."""
    from worker.clock import now
    from worker.ledger.feedback import Verdict, check, enter

    entry = check(Verdict(verdict, reader, sop, accession, agent))
    images = enter(options.ledger_of(config), [entry], "command line", now())
    output.line(f"Images with this verdict: {images}")


@feedback.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="CSV: verdict, reader, sop_instance_uid or accession_number, agent")],
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave faulty rows out instead of refusing all")] = False,
    config: options.Config = None,
) -> None:
    """Enter the verdicts of a CSV file. If a row is faulty, nothing is entered."""
    from worker.clock import now
    from worker.ledger.feedback import import_file

    result = import_file(options.ledger_of(config), file, now(), skip_bad=skip_bad)
    output.counts(
        [("Verdicts entered", result.verdicts), ("Images", result.images), ("Rows left out", result.left_out)]
    )
    if result.faults:
        output.note(result.faults)


@feedback.command("list")
def list_(
    disagree: Annotated[bool, typer.Option("--disagree", help="Only where the answer says the opposite")] = False,
    form: options.Format = "table",
    config: options.Config = None,
) -> None:
    """List the last verdict on each image beside the model's answer."""
    from worker.ledger.feedback import verdicts

    output.rows(verdicts(options.ledger_of(config), disagree=disagree), form, _SHOWN)
