"""How commands print: tables, counts, JSON, progress bars, and notes on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_io.errors import CxrdError
from dicom_io.finding import Answer, readable
from worker.printable import printable

if TYPE_CHECKING:
    from rich.progress import Progress

Advance = Callable[[int, int], None]
"""Called with the number of things done, and of all."""


def line(text: str) -> None:
    """Print one line on standard output."""
    sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """Print one line on standard error."""
    sys.stderr.write(f"cxrd: {text}\n")


def json_value(value: Any, indent: int | None = 2) -> None:
    """Print a value as JSON, at once."""
    sys.stdout.write(json.dumps(value, indent=indent) + "\n")
    sys.stdout.flush()


def counts(numbers: Iterable[tuple[str, object]]) -> None:
    """Print labels with a number each, below one another."""
    rows = [(f"{label}:", str(number)) for label, number in numbers]
    width = max(len(label) for label, _ in rows)
    for label, number in rows:
        line(f"{label:{width}} {number}")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], width: int = 140) -> None:
    """Print a table, as wide as the terminal, or `width` characters where there is none."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(*columns)
    for row in rows:
        drawn.add_row(*row)
    Console(width=None if sys.stdout.isatty() else width).print(drawn)


def rows(records: list[dict[str, Any]], form: str, columns: Sequence[str], width: int = 140) -> None:
    """Print rows of the ledger: as a table of some columns, or as CSV or JSON with all of them."""
    from rich.markup import escape

    from worker.ledger.queries import write

    if form == "table":
        # What senders wrote, such as an accession number, neither steers the terminal nor counts as our markup.
        table(columns, ([escape(printable(_cell(name, row))) for name in columns] for row in records), width)
    else:
        write(records, form, sys.stdout)


def _cell(name: str, row: dict[str, Any]) -> str:
    """Return a value as it stands in a table: a probability never as 0 or 1, and none beside no answer."""
    value = row[name]
    if name.endswith("probability") and isinstance(value, float):
        answer = row.get(f"{name.removesuffix('probability')}answer")
        return "" if answer == Answer.OUTSIDE else readable(value, 3)
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else str(value)


def progress() -> Progress:
    """Return a progress display on standard error, to be entered as a context; without a terminal it shows nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def advancing(description: str, total: int | None = None) -> Iterator[tuple[Advance, Callable[[], None]]]:
    """Show one progress bar; yield the function that moves it, and the one that ends it early."""
    with progress() as bar:
        task = bar.add_task(description, total=total)
        yield lambda done, of: bar.update(task, completed=done, total=of), bar.stop


def make_folder(folder: Path) -> None:
    """Make a folder for a command's files where there is none.

    Raises
    ------
    CxrdError
        It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CxrdError(f"{folder}: {error.strerror}") from error
