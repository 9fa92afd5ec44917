"""The one door of what commands print: lines, tables, counts, JSON, progress bars, and notes on standard error.

What comes through it steers no terminal, and its brackets are no markup of ours, whoever wrote it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_io.errors import CxrdError
from dicom_io.finding import Answer, readable
from worker.printable import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress
    from rich.text import Text

Advance = Callable[[int, int], None]
"""Called with the number of things done, and of all."""
Cell = str | tuple[str, str]
"""A text of a table, or a text and its style."""


def line(text: str) -> None:
    """Print one line on standard output."""
    sys.stdout.write(f"{printable(text)}\n")


def page(text: str) -> None:
    """Print a text of several lines on standard output."""
    sys.stdout.writelines(f"{printable(each)}\n" for each in text.removesuffix("\n").split("\n"))


def note(text: str) -> None:
    """Print one line on standard error."""
    sys.stderr.write(f"cxrd: {printable(text)}\n")


def fault(error: Exception) -> None:
    """Print each line of an error's text on standard error."""
    for each in str(error).split("\n"):
        note(" ".join(each.split()))


def json_value(value: Any, indent: int | None = 2) -> None:
    """Print a value as JSON, in ASCII, at once."""
    page(json.dumps(value, indent=indent).replace("\x7f", "\\u007f"))
    flush()


def flush() -> None:
    """Have what was printed seen at once."""
    sys.stdout.flush()


def any_character_can_be_written() -> None:
    """Write what the terminal's encoding lacks as its code, instead of ending with an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def counts(numbers: Iterable[tuple[str, object]]) -> None:
    """Print labels with a number each, below one another."""
    rows = [(f"{label}:", str(number)) for label, number in numbers]
    width = max(len(label) for label, _ in rows)
    for label, number in rows:
        line(f"{label:{width}} {number}")


def styled(words: str, style: str = "") -> Text:
    """Return words as they are: what peers said neither steers the terminal nor counts as our markup."""
    from rich.text import Text

    return Text(printable(words), style)


def screen(width: int = 140) -> Console:
    """Return standard output as a console, as wide as the terminal, or `width` characters where there is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else width, highlight=False, markup=False, emoji=False)


def drawing(what: RenderableType, width: int = 140) -> None:
    """Print what was put together of `styled` texts."""
    screen(width).print(what)


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], width: int = 140) -> None:
    """Print a table, as wide as the terminal, or `width` characters where there is none."""
    from rich.table import Table

    drawn = Table()
    for name in columns:
        drawn.add_column(styled(name))
    for row in rows:
        drawn.add_row(*(styled(*((each,) if isinstance(each, str) else each)) for each in row))
    drawing(drawn, width)


def rows(records: list[dict[str, Any]], form: str, columns: Sequence[str], width: int = 140) -> None:
    """Print rows of the ledger: as a table of some columns, or as CSV or JSON with all of them."""
    from worker.ledger.queries import write

    if form == "table":
        table(columns, ([_cell(name, row) for name in columns] for row in records), width)
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

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True, markup=False, emoji=False)
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
