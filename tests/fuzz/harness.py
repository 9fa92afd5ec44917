"""What a harness is: it makes cases by chance, and runs one of them against a part of the program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Protocol

from dicom_io.errors import CxrdError

LONGEST_MESSAGE = 400
"""Characters of an error's message: it is to fit on a line."""


class Fault(Exception):
    """What a case must not do, in words."""


class Harness(Protocol):
    """One target.

    Attributes
    ----------
    bound_mb
        Megabytes by which the process may grow at most in one case, beyond what it had before the first.
    children
        Processes that it may keep.
    """

    bound_mb: float
    children: int

    def case(self, chance: Random) -> bytes:
        """Return the bytes of a case."""

    def run(self, data: bytes) -> str:
        """Run a case, and return in a few words how it ended.

        Raises
        ------
        Fault
            It did what it must not do. Any other exception is a fault too.
        """

    def leftovers(self) -> list[str]:
        """Return what is left between cases and should not be."""

    def close(self) -> None:
        """End what was started."""


@contextmanager
def promised(kind: type[CxrdError] = CxrdError) -> Iterator[list[str]]:
    """Let the error that an API promises pass, if its message fits on a line; yield a list that then names it."""
    ends: list[str] = []
    try:
        yield ends
    except kind as error:
        message = str(error)
        if not message or len(message) > LONGEST_MESSAGE or not message.isprintable():
            raise Fault(f"{type(error).__name__} with the message {message[:LONGEST_MESSAGE]!r}") from error
        ends.append(type(error).__name__)
