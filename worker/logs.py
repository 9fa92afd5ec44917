"""The daemon's log: structured lines with ids, counts and durations, and never a word about a patient."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Literal, TextIO, cast

import structlog

from worker.printable import printable_all

log = structlog.get_logger("cxrd")


def configure(level: str, style: Literal["auto", "json", "console"]) -> None:
    """Send the log of cxrd to standard error, as JSON lines or for a person's eyes.

    What libraries log or warn of is left out, since it may quote a data set.
    """
    console = style == "console" or (style == "auto" and _is_terminal())
    warnings.simplefilter("ignore")
    for name in ("pydicom", "pynetdicom", "alembic", "sqlalchemy", "py.warnings"):
        library = logging.getLogger(name)
        library.handlers = [logging.NullHandler()]
        library.propagate = False
    # JSON has escapes of its own for what steers a terminal.
    renderer: list[structlog.types.Processor] = (
        [_steering_nothing, structlog.dev.ConsoleRenderer(colors=_is_terminal())]
        if console
        else [structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        # One write a line: a process that is killed leaves no half line for the next one to continue.
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _StandardError())),
        cache_logger_on_first_use=False,
    )


def _steering_nothing(_logger: object, _method: str, line: structlog.types.EventDict) -> structlog.types.EventDict:
    """Write out what others' texts hold that a terminal would obey."""
    return {name: printable_all(value) for name, value in line.items()}


def tell_of_threads() -> None:
    """Have a line in the log where an error ends a thread; Python would print a traceback in the middle of it."""
    threading.excepthook = _tell_of_thread


def _tell_of_thread(failure: threading.ExceptHookArgs) -> None:
    """Write one line, without the error's text: it may quote a value."""
    if failure.exc_value is not None and not isinstance(failure.exc_value, SystemExit):
        log.error("thread_ended", reason=unexpected(failure.exc_value))


class _StandardError:
    """Standard error as it is at the moment, be it gone: a log that cannot be written must not end the work."""

    def write(self, words: str) -> int:
        """Write what can be written; return the number of characters."""
        if sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):  # a broken pipe or a full disk; a closed file
                sys.stderr.write(words)
        return len(words)

    def flush(self) -> None:
        """Flush what can be flushed."""
        if sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.flush()


def _is_terminal() -> bool:
    """Whether a person reads standard error; it may be closed or, where it was at the start, not there at all."""
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:
        return False


def unexpected(error: BaseException) -> str:
    """Say where an error that nobody foresaw came from, without its message, which may quote a value."""
    frames = traceback.extract_tb(error.__traceback__)
    here = Path(__file__).resolve().parents[1]
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(here) and ".venv" not in frame.filename]
    where = (own or frames)[-1:]
    return f"unexpected {type(error).__name__}" + "".join(
        f" at {Path(frame.filename).parent.name}/{Path(frame.filename).name}:{frame.lineno}" for frame in where
    )
