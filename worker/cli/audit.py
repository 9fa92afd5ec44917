"""`cxrd audit`: what was received, what was answered, and was it delivered?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from dicom_io.errors import CxrdError
from worker import settings

if TYPE_CHECKING:
    from worker.ledger.receipts import Ledger

audit = typer.Typer(help="Ask the audit database.", no_args_is_help=True, rich_markup_mode="markdown")

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", envvar="CXRD_CONFIG", help="Settings file")]
Since = Annotated[str | None, typer.Option(help="Received since: 7d, 12h, 2026-01-31, 2026-01-31T08:00")]
Until = Annotated[str | None, typer.Option(help="Received before, as --since")]
Status = Annotated[
    Literal["received", "working", "analysed", "not_analysed", "failed"] | None, typer.Option(help="Only this status")
]
Decision = Annotated[Literal["PNEUMONIA", "NORMAL"] | None, typer.Option(help="Only this decision")]
AtLeast = Annotated[float | None, typer.Option("--min", help="Probability of at least")]
Study = Annotated[str | None, typer.Option(help="Study Instance UID")]
Accession = Annotated[str | None, typer.Option(help="Accession number")]
Calling = Annotated[str | None, typer.Option("--from", help="Calling AE title")]
Undelivered = Annotated[bool, typer.Option("--undelivered", help="Only where a delivery has not succeeded")]
History = Annotated[
    bool, typer.Option("--history", help="The answers of all models, not only the one that stands for each image")
]
Limit = Annotated[int | None, typer.Option(help="At most so many, newest first")]

_SHOWN = (
    "receipt_id",
    "received_at",
    "status",
    "probability",
    "decision",
    "delivered",
    "calling_ae",
    "accession_number",
    "reason",
)


@audit.command("list")
def list_(
    since: Since = None,
    until: Until = None,
    status: Status = None,
    decision: Decision = None,
    at_least: AtLeast = None,
    study: Study = None,
    accession: Accession = None,
    calling: Calling = None,
    undelivered: Undelivered = False,
    history: History = False,
    limit: Limit = 50,
    style: Annotated[Literal["table", "csv", "json"], typer.Option("--format", help="Form of the answer")] = "table",
    config: ConfigOption = None,
) -> None:
    """List received images with their findings and deliveries, newest first."""
    from worker.ledger.queries import Filter, findings, moment, write

    wanted = Filter(
        since=moment(since) if since else None,
        until=moment(until) if until else None,
        status=status,
        decision=decision,
        at_least=at_least,
        study=study,
        accession=accession,
        calling_ae=calling,
        undelivered=undelivered,
        history=history,
        limit=limit,
    )
    rows = findings(_ledger(config), wanted)
    if style != "table":
        write(rows, style, sys.stdout)
        return
    columns = (*_SHOWN, "model") if history else _SHOWN
    table = Table(*columns)
    for row in rows:
        shown = row | {
            "received_at": row["received_at"][:19],
            "probability": "" if row["probability"] is None else f"{row['probability']:.3f}",
            "delivered": f"{row['delivered']}/{row['deliveries']}",
        }
        table.add_row(*("" if shown[name] is None else str(shown[name]) for name in columns))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@audit.command()
def show(
    key: Annotated[str, typer.Argument(help="A receipt's number, or a SOP Instance UID, received or produced")],
    config: ConfigOption = None,
) -> None:
    """Show all that is known of one image: finding, all models' answers, results, deliveries and steps (JSON)."""
    from worker.ledger.queries import story

    found = story(_ledger(config), key)
    if found is None:
        raise CxrdError(f"{key}: nothing of that number or UID was received")
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


@audit.command()
def export(
    out: Annotated[Path, typer.Argument(help="File to write: NAME.csv or NAME.json")],
    since: Since = None,
    until: Until = None,
    status: Status = None,
    decision: Decision = None,
    at_least: AtLeast = None,
    calling: Calling = None,
    undelivered: Undelivered = False,
    history: History = False,
    config: ConfigOption = None,
) -> None:
    """Write findings to a CSV or JSON file, all columns."""
    from worker.ledger.queries import Filter, findings, moment, write

    if out.suffix not in (".csv", ".json"):
        raise CxrdError(f"{out}: name a file that ends in .csv or .json")
    wanted = Filter(
        since=moment(since) if since else None,
        until=moment(until) if until else None,
        status=status,
        decision=decision,
        at_least=at_least,
        calling_ae=calling,
        undelivered=undelivered,
        history=history,
    )
    rows = findings(_ledger(config), wanted)
    try:
        with out.open("w", newline="", encoding="utf-8") as target:
            write(rows, out.suffix[1:], target)
    except OSError as error:
        raise CxrdError(f"{out}: {error.strerror}") from error
    sys.stdout.write(f"{len(rows)} findings in {out}\n")


@audit.command("refusals")
def refusals_(
    limit: Annotated[int, typer.Option(help="At most so many, newest first")] = 50, config: ConfigOption = None
) -> None:
    """Show objects that were refused with 0xA900 or 0xC000, and why (JSON, newest first).

    What was refused for want of space (0xA700) is in the log only; its sender tries again.
    """
    from worker.ledger.queries import refusals, write

    write(refusals(_ledger(config), limit), "json", sys.stdout)


@audit.command()
def verify(config: ConfigOption = None) -> None:
    """Recompute the hash chain over all events and hold the findings to it; exit code 2 if anything was altered."""
    from worker.ledger import event_chain

    with _ledger(config).reading() as connection:
        count, problems = event_chain.verify(connection)
    for problem in problems:
        sys.stdout.write(problem + "\n")
    sys.stdout.write(f"{count} events, {len(problems)} problems\n")
    if problems:
        raise typer.Exit(2)


def _ledger(config: Path | None) -> Ledger:
    from worker.ledger.database import open_ledger

    return open_ledger(settings.load(config))
