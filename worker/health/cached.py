"""A value that costs a query or may never come: asked for now and then, by one thread, and waited for a short while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Cached(Generic[Value]):
    """What a function returned or raised last.

    However many ask, the function is called by one thread at a time: a database that hangs holds up one thread, and
    those who ask hear of it soon.

    Parameters
    ----------
    ask
        The function.
    lasts
        Seconds until it is called again, at the next question.
    patience
        Seconds that a question waits.
    """

    def __init__(self, ask: Callable[[], Value], lasts: float, patience: float = 3.0) -> None:
        self._ask = ask
        self._lasts = lasts
        self._patience = patience
        self._lock = threading.Lock()
        self._future: Future[Value] | None = None
        self._asked_at = 0.0

    def get(self) -> Value:
        """Return the value.

        Raises
        ------
        TimeoutError
            It did not come in time; the message says since when it is waited for.
        """
        with self._lock:
            future = self._future
            if future is None or (future.done() and time.monotonic() - self._asked_at >= self._lasts):
                future = self._future = Future()
                self._asked_at = time.monotonic()
                threading.Thread(target=self._fill, args=(future,), name="cached", daemon=True).start()
        try:
            return future.result(self._patience)
        except TimeoutError as error:
            if future.done():  # the function's own
                raise
            raise TimeoutError(f"no answer for {time.monotonic() - self._asked_at:.0f} s") from error

    def _fill(self, future: Future[Value]) -> None:
        try:
            future.set_result(self._ask())
        except BaseException as error:  # noqa: BLE001 - whoever asked gets it
            future.set_exception(error)
