"""`cxrd audit`: what was received, what was answered, and was it delivered?"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dicom_io.errors import CxrdError
from worker.cli import options, output

if TYPE_CHECKING:
    from worker.ledger.receipts import Ledger
    from worker.settings import Settings

audit = typer.Typer(help="Ask the audit database.", no_args_is_help=True, rich_markup_mode="markdown")

Status = Annotated[
    Literal["received", "analysed", "not_analysed", "failed"] | None, typer.Option(help="Only this status")
]
Answer = Annotated[
    Literal["flagged", "not-flagged", "uncertain", "outside"] | None, typer.Option(help="Only this answer")
]
AtLeast = Annotated[float | None, typer.Option("--min", help="Only this probability or a higher one")]
Study = Annotated[str | None, typer.Option(help="Study Instance UID")]
Calling = Annotated[str | None, typer.Option("--from", help="Calling AE title")]
Undelivered = Annotated[bool, typer.Option("--undelivered", help="Only images with a result that is not delivered")]
History = Annotated[bool, typer.Option("--history", help="The answers of all models, not only the current answer")]

Below = Annotated[
    int | None,
    typer.Option(
        "--below",
        min=1,
        max=options.LARGEST,
        metavar="NUMBER",
        help="Only lower receipt numbers, with --history lower finding_id: the next page after the last line",
    ),
]

_SHOWN = (
    "receipt_id",
    "version",
    "received_at",
    "status",
    "probability",
    "answer",
    "caution",
    "delivered",
    "calling_ae",
    "accession_number",
    "reason",
)


@audit.command("list")
def list_(
    since: options.Since = None,
    until: options.Until = None,
    status: Status = None,
    answer: Answer = None,
    at_least: AtLeast = None,
    study: Study = None,
    accession: options.Accession = None,
    calling: Calling = None,
    undelivered: Undelivered = False,
    history: History = False,
    below: Below = None,
    limit: Annotated[int | None, typer.Option(min=0, max=options.LARGEST, help="Only so many images, the newest")] = 50,
    form: options.Format = "table",
    config: options.Config = None,
) -> None:
    """List received images with their findings and deliveries, newest first."""
    from worker.ledger.queries import Filter, findings

    criteria = Filter(
        since=since,
        until=until,
        status=status,
        answer=_stored(answer),
        at_least=at_least,
        study=study,
        accession=accession,
        calling_ae=calling,
        undelivered=undelivered,
        history=history,
        below=below,
        limit=limit,
    )
    rows = findings(options.ledger_of(config), criteria)
    if form == "table":
        rows = [_shown(row) for row in rows]
    output.rows(rows, form, (*_SHOWN, "model") if history else _SHOWN, width=200)


def _stored(answer: str | None) -> str | None:
    """Return an answer as the ledger writes it."""
    return answer and answer.replace("-", " ")


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as the table shows it: times to the second, deliveries as a share."""
    return row | {
        "received_at": row["received_at"][:19],
        "delivered": f"{row['delivered']}/{row['deliveries']}",
    }


@audit.command()
def show(
    key: Annotated[
        str,
        typer.Argument(help="A receipt number, or the SOP Instance UID of an image (its newest version) or a result"),
    ],
    config: options.Config = None,
) -> None:
    """Show everything on one image as JSON: finding, answers of all models, results, deliveries, events."""
    from worker.ledger.queries import story

    record = story(options.ledger_of(config), key)
    if record is None:
        raise CxrdError(f"{key}: no received image has this number or UID")
    output.json_value(record)


@audit.command()
def export(
    out: Annotated[Path, typer.Argument(help="File to write: NAME.csv or NAME.json")],
    since: options.Since = None,
    until: options.Until = None,
    status: Status = None,
    answer: Answer = None,
    at_least: AtLeast = None,
    calling: Calling = None,
    undelivered: Undelivered = False,
    history: History = False,
    config: options.Config = None,
) -> None:
    """Write findings with all columns to a CSV or JSON file."""
    from worker.ledger.queries import Filter, export

    criteria = Filter(
        since=since,
        until=until,
        status=status,
        answer=_stored(answer),
        at_least=at_least,
        calling_ae=calling,
        undelivered=undelivered,
        history=history,
    )
    output.counts([("Findings written", export(options.ledger_of(config), criteria, out)), ("File", out)])


@audit.command()
def refusals(
    limit: Annotated[int, typer.Option(min=0, max=options.LARGEST, help="Only so many, the newest")] = 50,
    config: options.Config = None,
) -> None:
    """Show objects that were refused with status 0xA900, 0xC000 or 0x0111, and why, as JSON.

    Refusals for lack of space (0xA700) stand in the log only; the sender tries again.
    """
    from worker.ledger.queries import refusals as ask

    output.json_value(ask(options.ledger_of(config), limit))


@audit.command()
def verify(
    begin: Annotated[
        int,
        typer.Option(
            "--from", min=0, max=options.LARGEST, help="Only from this event on, and the images they are about"
        ),
    ] = 0,
    files: Annotated[
        bool, typer.Option("--files", help="Also read all stored files, and compute their digests")
    ] = False,
    anchor: Annotated[
        Path | None, typer.Option("--anchor", help="Also hold the chain to the lines of this file (audit.anchor)")
    ] = None,
    config: options.Config = None,
) -> None:
    """Check that nobody has altered the audit: recompute the hash chain, and compare all rows with it.

    Exit code 2 means that something was altered.
    """
    from worker import settings as own
    from worker.ledger.database import open_ledger
    from worker.ledger.verification import Verification

    settings = own.load(config)
    ledger = open_ledger(settings)
    blobs = None
    if files:
        from worker.ledger.stores import open_blobs

        blobs = open_blobs(settings, ledger)
    verification = Verification(ledger.reading, begin)
    anchors = _anchors(settings, ledger, anchor)
    problems, first = 0, ""
    with output.advancing("reading events") as (advance, end):
        for problem in chain(verification.problems(blobs, advance), anchors):
            end()
            output.line(problem)
            problems, first = problems + 1, first or problem
    counts = verification.counts
    rows: list[tuple[str, object]] = [("Events checked", counts.events), ("Images checked", counts.images)]
    if files:
        rows += [("Files checked", counts.files), ("Files in other stores, not checked", counts.elsewhere)]
    last, digest = counts.last
    output.counts([*rows, ("Last event", f"{last} {digest}"), ("Problems", problems)])
    if problems:
        _alert(settings, f"cxrd audit verify: {first}; problems: {problems}")
        raise typer.Exit(2)


def _alert(settings: Settings, description: str) -> None:
    """Tell the collector of audit messages of what was found, where there is one."""
    from worker.engines.reporter import tell_of_alteration
    from worker.ledger.database import schema

    if settings.audit.syslog.url:
        try:
            tell_of_alteration(settings, schema(settings).database, description)
        except CxrdError as error:
            output.line(f"No security alert was sent: {error}")


def _anchors(settings: Settings, ledger: Ledger, file: Path | None) -> Iterator[str]:
    """Yield what does not fit to the lines of a file of anchors."""
    from worker.ledger import anchor
    from worker.ledger.verification import lenient

    if file is None:
        return
    key = anchor.anchor_key(settings.anchor_key_file)
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            yield from anchor.problems(lambda: lenient(ledger.reading), lines, key)
    except OSError as error:
        raise CxrdError(f"{file}: {error.strerror}") from error
