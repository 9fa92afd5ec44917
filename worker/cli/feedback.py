"""`cxrd feedback`: what readers say of the images, for the audit and for retraining."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from dicom_io.errors import InvalidData
from worker import settings

if TYPE_CHECKING:
    from worker.ledger.receipts import Ledger

feedback = typer.Typer(help="Enter and list readers' verdicts.", no_args_is_help=True, rich_markup_mode="markdown")

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", envvar="CXRD_CONFIG", help="Settings file")]


@feedback.command()
def add(
    verdict: Annotated[Literal["NORMAL", "PNEUMONIA"], typer.Option(help="What the reader says")],
    reader: Annotated[str, typer.Option(help="Who says so: a user name of the site")],
    sop: Annotated[str, typer.Option(help="SOP Instance UID of the radiograph")] = "",
    accession: Annotated[str, typer.Option(help="Or the accession number, for all its analysed images")] = "",
    agent: Annotated[Literal["bacteria", "virus", ""], typer.Option(help="With PNEUMONIA, where it is known")] = "",
    config: ConfigOption = None,
) -> None:
    """Enter one verdict. A later one on the same image counts instead; the audit keeps both."""
    from worker.clock import now
    from worker.ledger import feedback as said

    one = said.check(said.Verdict(verdict, reader, sop, accession, agent))
    count = said.enter(_ledger(config), [one], "command line", now())
    sys.stdout.write(f"{count} image(s)\n")


@feedback.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="CSV: verdict, reader, sop_instance_uid or accession_number, agent")],
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave faulty rows out instead of refusing all")] = False,
    config: ConfigOption = None,
) -> None:
    """Enter the verdicts of a CSV file: all of them, or none where a row is faulty."""
    from worker.clock import now
    from worker.ledger import feedback as said

    ledger = _ledger(config)
    rows = said.check_images(ledger, said.read_file(file))
    wrong = said.faults(file, rows)
    if wrong and not skip_bad:
        raise InvalidData(f"{wrong} (nothing was entered)")
    good = [verdict for _, verdict in rows if isinstance(verdict, said.Verdict)]
    count = said.enter(ledger, good, file.name[:128], now())
    sys.stdout.write(f"{len(good)} verdicts on {count} image(s); {len(rows) - len(good)} rows left out\n")
    if wrong:
        sys.stderr.write(f"{wrong}\n")


@feedback.command("list")
def list_(
    disagree: Annotated[bool, typer.Option("--disagree", help="Only where the model decided otherwise")] = False,
    style: Annotated[Literal["table", "csv", "json"], typer.Option("--format", help="Form of the answer")] = "table",
    config: ConfigOption = None,
) -> None:
    """List the last verdict on each image beside the model's decision."""
    from worker.ledger.feedback import verdicts
    from worker.ledger.queries import write

    rows = verdicts(_ledger(config), disagree=disagree)
    if style != "table":
        write(rows, style, sys.stdout)
        return
    shown = ("receipt_id", "accession_number", "verdict", "decision", "probability", "reader", "at")
    table = Table(*shown)
    for row in rows:
        table.add_row(*("" if row[name] is None else str(row[name]) for name in shown))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _ledger(config: Path | None) -> Ledger:
    from worker.ledger.database import open_ledger

    return open_ledger(settings.load(config))
