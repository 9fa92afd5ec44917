"""The pulse: a thread that goes on beats, and one that does not shows."""

from __future__ import annotations

import threading

from worker.pulse import Pulse


def test_a_thread_that_does_not_go_on_is_named() -> None:
    time = [0.0]
    pulse = Pulse(lambda: time[0])
    first = threading.Thread(target=pulse.beat, name="first")
    first.start()
    first.join()
    time[0] = 200.0
    second = threading.Thread(target=pulse.beat, name="second")
    second.start()
    second.join()
    time[0] = 310.0
    assert pulse.stuck(300) == {"first": 310.0}
    assert pulse.stuck(400) == {}
