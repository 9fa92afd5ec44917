"""The memory that peers may make us hold: a budget that all of them share, so that many together cannot fill it.

Whoever is about to keep bytes of a peer's choosing takes them from the budget first, and is told where there are none.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from dicom_io.errors import OutOfResources


class MemoryBudget:
    """So many bytes for all its shares together.

    Parameters
    ----------
    most
        Bytes; None: any number.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._held = 0

    @property
    def held(self) -> int:
        """The bytes that all shares hold."""
        return self._held

    def share(self) -> Share:
        """Return a share that holds nothing yet."""
        return Share(self)

    def change(self, count: int) -> None:
        """Take so many bytes, or give them back where the number is below 0.

        Raises
        ------
        OutOfResources
            Too many would then be held; none were taken.
        """
        with self._lock:
            if count > 0 and self._most is not None and self._held + count > self._most:
                raise OutOfResources("peers take as much memory as they may (scp.max_memory_mb)")
            self._held += count


class Share:
    """What one connection, or the service of one message, holds of a budget; as a context manager it ends with nothing.

    One thread uses it at a time.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.hold(0)

    def hold(self, count: int) -> None:
        """Hold so many bytes, not more and not fewer. Raises as `MemoryBudget.change` does; then it holds as before."""
        self._budget.change(count - self._held)
        self._held = count

    def add(self, count: int) -> None:
        """Hold so many bytes more. Raises as `hold` does."""
        self.hold(self._held + count)


def unbounded() -> Share:
    """Return a share of a budget of its own that has no bound."""
    return MemoryBudget().share()
