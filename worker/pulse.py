"""The pulse of a process: when each of its threads last turned its loop, so that one that is stuck shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pulse:
    """The beats of some threads.

    Parameters
    ----------
    clock
        Returns seconds that only go on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beats: dict[str, float] = {}

    def beat(self) -> None:
        """Enter that the thread that calls this goes on."""
        self._beats[threading.current_thread().name] = self._clock()

    def stuck(self, limit: float) -> dict[str, float]:
        """Return the threads that have not beaten for more than `limit` seconds, each with its seconds."""
        now = self._clock()
        return {name: now - at for name, at in sorted(dict(self._beats).items()) if now - at > limit}
