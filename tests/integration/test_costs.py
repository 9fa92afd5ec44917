"""What an image costs, counted and not timed: transactions, statements, fsyncs, bytes on disk, processes.

Times tell of the machine; these tell when a change makes every image dearer, on any machine.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from dicom_io.objects.common import encode
from tests.support.peers import chest, receiving, send, wait_for
from worker.engines import heartbeat
from worker.engines.daemon import Daemon

IMAGES = 10
OBJECTS = 3


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count what this process does within a block."""
    counts: Counter[str] = Counter()

    def on_statement(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        verb = statement.split(maxsplit=1)[0].upper()
        counts["writing transactions"] += statement == "BEGIN IMMEDIATE"
        counts["writing statements"] += verb in ("INSERT", "UPDATE", "DELETE")
        counts["queries"] += verb in ("SELECT", "WITH")

    fsync, started = os.fsync, subprocess.Popen.__init__

    def counting_fsync(descriptor: int) -> None:
        counts["fsyncs"] += 1
        fsync(descriptor)

    def counting_start(self: Any, *arguments: Any, **options: Any) -> None:
        counts["processes"] += 1
        started(self, *arguments, **options)

    with monkeypatch.context() as patches:
        patches.setattr(os, "fsync", counting_fsync)
        patches.setattr(subprocess.Popen, "__init__", counting_start)
        event.listen(Engine, "before_cursor_execute", on_statement)
        before = _io()
        try:
            yield counts
        finally:
            event.remove(Engine, "before_cursor_execute", on_statement)
    counts["bytes written"] = _io()["wchar"] - before["wchar"]
    counts["bytes read"] = _io()["rchar"] - before["rchar"]


def _io() -> dict[str, int]:
    """Return what this process has read from files and written to them (proc(5)); sockets do not count."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


def test_an_image_costs_no_more_than_it_has_to(
    daemon: Callable[..., Daemon], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [chest(f"cost-{number}", rows=1024, cols=1024) for number in range(IMAGES + 1)]
    size = len(encode(images[0]))
    with receiving() as receiver:
        # Leases that are long enough are prolonged by no heartbeat meanwhile, however slow the machine is.
        monkeypatch.setattr(heartbeat, "SEEN", 600)
        worker = daemon([("pacs", receiver.port, "RECEIVER")], worker={"threads": 1, "lease_seconds": 1800})

        def delivered(number: int) -> bool:
            with closing(sqlite3.connect(tmp_path / "data" / "ledger.sqlite")) as beside:  # it is not counted
                (count,) = beside.execute("SELECT count(*) FROM delivery WHERE state = 'sent'").fetchone()
                return bool(count == OBJECTS * number)

        assert send(worker.port, [images[0]]) == [0x0000]  # what happens once: the model, fonts, tables
        wait_for(lambda: delivered(1), 60)
        with counted(monkeypatch) as counts:
            assert send(worker.port, images[1:]) == [0x0000] * IMAGES
            wait_for(lambda: delivered(IMAGES + 1), 120)
        arrived = sum(len(encode(each)) for each in receiver.objects[OBJECTS:]) / IMAGES
    kept = sum(each.stat().st_size for each in (tmp_path / "data" / "objects").rglob("*.dcm")) / (IMAGES + 1)
    image = {name: count / IMAGES for name, count in counts.items()}
    print({name: round(value, 1) for name, value in image.items()}, f"{size=} {kept=:.0f} {arrived=:.0f}")
    # Received, taken in hand, answered, results taken in hand, and each of three entered as sent.
    assert image["writing transactions"] <= 7.5
    assert image["writing statements"] <= 31
    assert image["queries"] <= 66
    # File and folder, of the image and of each result that is new; folders are new at first.
    assert image["fsyncs"] <= 13
    # The node that stands for the PACS is in this process, and writes and reads what arrives there. The rest is what is
    # kept, and the ledger; and one look at the image and at each result.
    assert image["bytes written"] - arrived <= kept + 400_000
    assert image["bytes read"] - arrived <= kept + 1_000_000
    assert counts["processes"] == 0
