"""The bell between processes."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from worker.engines.local import LocalEngine

from tests.support.peers import wait_for
from worker.queue.wake import WakeSignal


def test_a_ring_is_heard_once_and_by_others(tmp_path: Path) -> None:
    listener = WakeSignal(tmp_path)
    assert not listener.arrived()
    for _ in range(2):
        WakeSignal(tmp_path).send()
        assert listener.arrived()
        assert not listener.arrived()
        time.sleep(0.02)  # file systems keep time in ticks
    assert not WakeSignal(tmp_path).arrived()
    WakeSignal(tmp_path / "absent").send()  # a disk that takes nothing harms nobody


def test_a_ring_starts_a_sweep_long_before_it_is_due(tmp_path: Path) -> None:
    waiting: list[int] = []
    done: list[int] = []
    swept = threading.Event()

    def unfinished() -> list[int]:
        swept.set()
        return [each for each in waiting if each not in done]

    engine = LocalEngine(
        done.append,
        unfinished,
        lambda _id: None,
        threads=1,
        sweep_seconds=600,
        signal_arrived=WakeSignal(tmp_path).arrived,
    )
    engine.start()
    try:
        assert swept.wait(10)
        waiting.append(7)
        WakeSignal(tmp_path).send()
        wait_for(lambda: done == [7], 10)
    finally:
        engine.stop()
