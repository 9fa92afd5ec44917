"""Turns: the threads of a process write to SQLite one after the other, in the order in which they asked.

SQLite lets one writer in at a time, and those that wait look again after a sleep: among many, some never meet the
moment. Here each is woken when it is its turn. What other processes hold, SQLite's own timeout waits for.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary


class Turns:
    """A lock that is handed on in the order of asking."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._taken = False

    @contextmanager
    def turn(self, timeout: float) -> Iterator[None]:
        """Wait for one's turn, and have it.

        Raises
        ------
        TimeoutError
            It did not come within `timeout` seconds.
        """
        if not self._take(timeout):
            raise TimeoutError
        try:
            yield
        finally:
            self._hand_on()

    def _take(self, timeout: float) -> bool:
        with self._lock:
            if not self._taken:
                self._taken = True
                return True
            own = threading.Event()
            self._waiting.append(own)
        if own.wait(timeout):
            return True
        with self._lock:
            if own.is_set():  # it came at the last moment
                return True
            self._waiting.remove(own)
            return False

    def _hand_on(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._taken = False


_turns: WeakValueDictionary[str, Turns] = WeakValueDictionary()
_turns_lock = threading.Lock()


def turns_at(database: str) -> Turns:
    """Return the turns at a database, the same for all who name it in this process."""
    with _turns_lock:
        return _turns.setdefault(database, Turns())
