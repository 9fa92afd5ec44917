"""The program `cxrd`: the tree of its commands, and how it ends on an error."""

from __future__ import annotations

import gc
import os
import sys
from typing import Annotated

import typer

from dicom_io.errors import CxrdError
from worker import __version__
from worker.cli import output
from worker.cli.analyze import analyze
from worker.cli.audit import audit
from worker.cli.check import check, conformance
from worker.cli.db import db
from worker.cli.deliveries import redeliver, retry
from worker.cli.demo import demo
from worker.cli.drift import drift
from worker.cli.feedback import feedback
from worker.cli.models import models
from worker.cli.pull import pull
from worker.cli.purge import purge
from worker.cli.reanalyze import reanalyze
from worker.cli.serve import deliver, receive, serve, work
from worker.cli.status import status
from worker.cli.training import evaluate, retrain, train, train_lungs
from worker.storage.privacy import UMASK

app = typer.Typer(
    name="cxrd",
    help="A DICOM node that reads chest radiographs for pneumonia and sends a heatmap back into the study.\n\n"
    "For research and screening support, not for diagnosis.",
    epilog="Start with `cxrd check`, then `cxrd serve`. Settings: config.yaml, or CXRD_SCP__PORT=11113 and the like.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for panel, commands in {
    "Run": (serve, receive, work, deliver, status, check, conformance, analyze, demo),
    "Deliver, fetch, read again": (redeliver, retry, reanalyze, pull, purge),
    "Models": (train, train_lungs, evaluate, retrain, drift),
}.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(audit, name="audit", rich_help_panel="Run")
app.add_typer(db, name="db", rich_help_panel="Run")
app.add_typer(models, name="models", rich_help_panel="Models")
app.add_typer(feedback, name="feedback", rich_help_panel="Models")


def main() -> None:
    """Run the command line; an error that we know is one line on standard error, or one a mistake, and exit code 2."""
    # Imports make many objects and free few: looking for garbage after each 700 costs a third of a short command.
    gc.set_threshold(100_000, 10, 10)
    os.umask(UMASK)
    output.any_character_can_be_written()
    try:
        app()
    except CxrdError as error:
        output.fault(error)
        raise SystemExit(2) from error
    except BrokenPipeError:  # `cxrd audit list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except OSError as error:  # a disk that is full or read-only, met where nobody puts it in words
        output.note(_in_words(error))
        raise SystemExit(2) from error
    except UnicodeEncodeError as error:  # bytes of the command line that are no UTF-8, on their way to the database
        output.note("an argument holds characters that are no text in UTF-8")
        raise SystemExit(2) from error
    except Exception as error:  # noqa: BLE001 - the border of the process
        # A defect of ours. Its message may quote a value of a header, and where it came from is what helps.
        _tell_of_defect(error)
        raise SystemExit(70) from None


def _tell_of_defect(error: Exception) -> None:
    """Print where an error that nobody foresaw came from: types and places, no messages."""
    import traceback

    each: BaseException | None = error
    while each is not None:
        for frame in traceback.extract_tb(each.__traceback__):
            output.note(f"  {frame.filename}:{frame.lineno} in {frame.name}")
        output.note(f"unexpected {type(each).__name__}; please report these lines")
        each = each.__cause__ or each.__context__


def _in_words(error: OSError) -> str:
    if error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    from worker.logs import unexpected

    return f"{error.strerror or 'error of the system'} ({unexpected(error)})"


def _show_version(value: bool) -> None:
    if value:
        output.line(f"cxrd {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version")
    ] = False,
) -> None:
    """Take the options that stand before a command."""
    del version


if __name__ == "__main__":
    main()
