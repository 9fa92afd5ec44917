"""The gate: side by side, or one alone, and who wants to be alone is not put off for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.support.peers import wait_for
from worker.engines.gate import Gate


class Visitor:
    """A thread that goes through a gate, and stays inside until it is told to leave."""

    def __init__(self, gate: Callable[[], AbstractContextManager[None]]) -> None:
        self.inside, self.leave = threading.Event(), threading.Event()
        self._gate = gate
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def go(self) -> None:
        """Leave, and end."""
        self.leave.set()
        self.thread.join()

    def _run(self) -> None:
        with self._gate():
            self.inside.set()
            assert self.leave.wait(60)


def test_many_are_inside_together() -> None:
    gate = Gate()
    visitors = [Visitor(gate.together) for _ in range(3)]
    assert all(each.inside.wait(60) for each in visitors)
    for each in visitors:
        each.go()


def test_one_alone_waits_for_those_inside_and_keeps_the_others_out() -> None:
    gate = Gate()
    before = [Visitor(gate.together) for _ in range(2)]
    assert all(each.inside.wait(60) for each in before)
    alone = Visitor(gate.alone)
    wait_for(lambda: gate._wanting)
    late = Visitor(gate.together)
    before[0].go()
    assert not alone.inside.wait(0.05)
    assert not late.inside.is_set()  # it came later, though there is room
    before[1].go()
    assert alone.inside.wait(60)
    assert not late.inside.wait(0.05)
    alone.go()
    assert late.inside.wait(60)
    late.go()


def test_of_two_that_want_to_be_alone_each_is() -> None:
    gate = Gate()
    first = Visitor(gate.alone)
    assert first.inside.wait(60)
    second = Visitor(gate.alone)
    wait_for(lambda: gate._wanting)
    assert not second.inside.is_set()
    first.go()
    assert second.inside.wait(60)
    second.go()


@pytest.mark.parametrize("name", ["together", "alone"])
def test_one_that_fails_inside_leaves(name: str) -> None:
    gate = Gate()
    with pytest.raises(ValueError, match="no"), getattr(gate, name)():
        raise ValueError("no")
    with gate.alone():
        pass
    with gate.together():
        pass
