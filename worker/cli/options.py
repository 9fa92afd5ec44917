"""What several commands share: their options, each declared once, and how the settings are read."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from worker.ledger.receipts import Ledger
    from worker.settings import Settings


def _moment(text: str) -> dt.datetime:
    from worker.ledger.queries import moment

    return moment(text)


Config = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", envvar="CXRD_CONFIG", help="Settings file [default: ./config.yaml, or the built-in one]"
    ),
]
Since = Annotated[
    dt.datetime | None,
    typer.Option(parser=_moment, metavar="TIME", help="Received since: 30d, 12h, 2026-01-31 or 2026-01-31T08:00"),
]
Until = Annotated[
    dt.datetime | None, typer.Option(parser=_moment, metavar="TIME", help="Received before; written like --since")
]
Before = Annotated[
    dt.datetime | None, typer.Option(parser=_moment, metavar="TIME", help="Received before; written like --since")
]
Accession = Annotated[str | None, typer.Option(help="Accession number")]
LARGEST = 2**31 - 1
"""The largest number that goes into a question to the database."""
Receipts = Annotated[
    list[int] | None,
    typer.Option("--receipt", min=1, max=LARGEST, help="Only this receipt number; may be repeated"),
]
Format = Annotated[Literal["table", "csv", "json"], typer.Option("--format", help="Form of the output")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output")]
Reason = Annotated[str, typer.Option(help="Why; it is recorded in the audit")]

_LABELLED = "a folder with NORMAL/ and PNEUMONIA/, a CSV file, or AUDIT (received images with a reader's verdict)"
TestData = Annotated[str, typer.Option("--data", help=f"Labelled radiographs: {_LABELLED}")]
LockedData = Annotated[
    str | None, typer.Option("--data", help=f"Labelled radiographs that no model was trained on: {_LABELLED}")
]
TrainingData = Annotated[str, typer.Option("--data", help=f"Labelled radiographs to learn from: {_LABELLED}")]

RunFolder = Annotated[
    Path, typer.Option("--out", "-o", help="Folder of the run: checkpoints, TensorBoard logs, the finished model")
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Number of epochs [default: the recipe's]")]
Seed = Annotated[int | None, typer.Option(help="Random seed [default: the recipe's]")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out after its last finished epoch")]
ModelVersion = Annotated[str, typer.Option(help="Version of the new model: numbers with dots")]
Ages = Annotated[
    tuple[float, float] | None,
    typer.Option(metavar="MIN MAX", help="Youngest and oldest patients of the training images, in completed years"),
]


def load(config: Path | None, text: str | None = None) -> Settings:
    """Return the settings of a command; from now on warnings and errors are logged to standard error.

    `text` is that of the settings file, where somebody has read it before.
    """
    from worker import logs, settings

    logs.configure("warning", "auto")
    return settings.load(config, text)


def ledger_of(config: Path | None) -> Ledger:
    """Return the ledger that a command's settings name. Nothing there logs, so the log's library is not waited for."""
    from worker import settings
    from worker.ledger.database import open_ledger

    return open_ledger(settings.load(config))
