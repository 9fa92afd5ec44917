"""Turns: whoever asked first writes first, and nobody is forgotten."""

from __future__ import annotations

import threading
import time

import pytest

from tests.support.peers import wait_for
from worker.database.turns import Turns, turns_at


class Queued:
    """Threads that want a turn one after the other; `order` tells who had it."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.order: list[str] = []
        self.threads: list[threading.Thread] = []

    def ask(self, name: str, timeout: float = 60) -> threading.Thread:
        """Ask in a thread of its own, and return when it stands in the queue."""
        before = len(self.turns._waiting)
        thread = threading.Thread(target=self._take, args=(name, timeout))
        self.threads.append(thread)
        thread.start()
        wait_for(lambda: len(self.turns._waiting) > before or not thread.is_alive())
        return thread

    def end(self) -> None:
        """Wait for all."""
        for thread in self.threads:
            thread.join()

    def _take(self, name: str, timeout: float) -> None:
        try:
            with self.turns.turn(timeout):
                self.order.append(name)
        except TimeoutError:
            self.order.append(f"{name} too late")


def test_they_come_in_the_order_in_which_they_asked() -> None:
    turns = Turns()
    queued, names = Queued(turns), [f"thread {n}" for n in range(12)]
    with turns.turn(1):
        for name in names:
            queued.ask(name)
        assert queued.order == []
    queued.end()
    assert queued.order == names


def test_one_that_waits_too_long_gives_up_and_the_others_do_not_wait_for_it() -> None:
    turns = Turns()
    queued = Queued(turns)
    with turns.turn(1):
        queued.ask("first")
        queued.ask("impatient", timeout=0.01).join()
        queued.ask("last")
        assert queued.order == ["impatient too late"]
        begin = time.monotonic()
        with pytest.raises(TimeoutError), turns.turn(0.05):
            pass
        assert time.monotonic() - begin >= 0.05
    queued.end()
    assert queued.order[1:] == ["first", "last"]
    with turns.turn(0):
        pass


def test_a_turn_that_fails_is_handed_on() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="no"), turns.turn(1):
        raise ValueError("no")
    with turns.turn(0):
        pass


def test_all_who_name_a_database_take_turns_at_it() -> None:
    first = turns_at("/a")
    assert turns_at("/a") is first
    assert turns_at("/b") is not first
