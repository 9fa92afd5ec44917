"""A cached question: asked once however many ask, and waited for only a short while."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dicom_io.errors import OutOfResources
from worker.health.cached import Cached


def test_many_who_ask_are_answered_by_one_question() -> None:
    calls: list[int] = []
    go = threading.Event()

    def ask() -> int:
        calls.append(1)
        assert go.wait(10)
        return 7

    cached = Cached(ask, lasts=60, patience=10)
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(cached.get) for _ in range(5)]
        go.set()
        assert [each.result() for each in answers] == [7] * 5
    assert cached.get() == 7
    assert len(calls) == 1


def test_it_is_asked_again_when_the_answer_is_old() -> None:
    numbers = iter(range(5))
    cached = Cached(lambda: next(numbers), lasts=0)
    assert [cached.get(), cached.get()] == [0, 1]


def test_a_question_that_hangs_holds_up_one_thread_and_nobody_else() -> None:
    go = threading.Event()
    asked: list[str] = []

    def ask() -> str:
        asked.append(threading.current_thread().name)
        go.wait(30)
        return "there"

    cached = Cached(ask, lasts=0, patience=0.01)
    for _ in range(3):
        with pytest.raises(TimeoutError, match=r"no answer for \d+ s"):
            cached.get()
    assert len(asked) == 1
    go.set()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: Cached(ask, 0, 10).get()).result() == "there"


@pytest.mark.parametrize("error", [OutOfResources("full"), TimeoutError("its own")])
def test_an_error_is_everybodys(error: Exception) -> None:
    def ask() -> None:
        raise error

    cached = Cached(ask, lasts=60)
    for _ in range(2):
        with pytest.raises(type(error), match=str(error)):
            cached.get()
