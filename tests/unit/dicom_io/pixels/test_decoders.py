"""Decoders under attack: what crashes, hangs or swells costs its own image, and no more than its limits."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from dicom_io.errors import OutOfResources, Permanent, Retryable, UnsupportedPixels
from dicom_io.pixels.decoders import KEPT, DecoderFailed, Decoders, DecodingLimits
from dicom_io.pixels.render import render
from tests.support.bombs import rle
from tests.support.peers import chest, wait_for

_ENCODER = threading.Lock()  # two images at once end the process (pylibjpeg-openjpeg 2.6.0)


def compressed(syntax: str = JPEG2000Lossless) -> Dataset:
    dataset = chest("an image")
    with _ENCODER:
        dataset.compress(syntax, generate_instance_uid=False)
    return dataset


@pytest.fixture
def decoders() -> object:
    made = Decoders(DecodingLimits(max_memory_mb=150, seconds=20.0))
    with contextlib.closing(made):
        yield made


def large(side: int) -> Dataset:
    """Return a radiograph of so many pixels to a side, as JPEG 2000."""
    dataset = chest("large", rows=side, cols=side)
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    return dataset


def test_a_bomb_is_decoded_no_further_than_to_its_last_pixel() -> None:
    dataset = rle(2000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.closing(Decoders(DecodingLimits(max_memory_mb=60))) as decoders:
        assert render(dataset, decoders=decoders).blank
        (pid,) = decoders.pids
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        assert next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) < 250_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000


def test_what_needs_too_much_memory_fails_and_the_next_image_is_read() -> None:
    frame = get_frame(large(2400).PixelData, 0, number_of_frames=1)
    options = {"rows": 2400, "columns": 2400, "samples_per_pixel": 1, "number_of_frames": 1, "bits_allocated": 16}
    options |= {"bits_stored": 12, "pixel_representation": 0, "photometric_interpretation": "MONOCHROME2"}  # type: ignore[dict-item]
    head = {"plugin": "pylibjpeg", "syntax": JPEG2000Lossless, "options": options | {"pixel_keyword": "PixelData"}}
    with contextlib.closing(Decoders(DecodingLimits(max_memory_mb=10))) as decoders:
        with pytest.raises(DecoderFailed):
            decoders.decode(frame, head)
        assert np.array_equal(render(compressed(), decoders=decoders).values, render(chest("an image")).values)
    with contextlib.closing(Decoders(DecodingLimits(max_memory_mb=200))) as decoders:
        assert decoders.decode(frame, head).shape == (2400, 2400)


def test_what_takes_too_long_is_tried_twice() -> None:
    with contextlib.closing(Decoders(DecodingLimits(1000, seconds=3.0))) as decoders:
        render(compressed(), decoders=decoders)
        decoders.limits = DecodingLimits(1000, seconds=0.05)
        with pytest.raises(Retryable, match=r"it took longer than 0\.05 s, 2 times"):
            render(large(2400), decoders=decoders)
        assert decoders.pids == []


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ("kill -KILL $$", Retryable, r"its decoder was ended by the system \(out of memory\?\), 2 times"),
        ("exec sleep 60", Retryable, r"it took longer than 0\.5 s, 2 times"),
        ("kill -SEGV $$", Permanent, "its decoder ended with SIGSEGV, 2 times"),
        ("kill -ABRT $$", Permanent, "its decoder ended with SIGABRT, 2 times"),
    ],
)
def test_only_what_an_image_does_itself_fails_it_for_good(
    line: str, kind: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{line}\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    with (
        contextlib.closing(Decoders(DecodingLimits(seconds=0.5))) as decoders,
        pytest.raises(kind, match=words) as seen,
    ):
        render(compressed(), decoders=decoders)
    assert not isinstance(seen.value, OutOfResources)


@pytest.mark.parametrize("error", [OSError(errno.ENOMEM, "Cannot allocate memory"), MemoryError()])
def test_no_room_for_a_process_is_the_machine_s_fault(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(subprocess, "Popen", fail)
    with contextlib.closing(Decoders()) as decoders, pytest.raises(OutOfResources, match="no process can be started"):
        render(compressed(), decoders=decoders)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_gone_or_does_not_answer_is_replaced(number: signal.Signals) -> None:
    with contextlib.closing(Decoders(DecodingLimits(1000, seconds=6.0))) as decoders:
        expected = render(compressed(), decoders=decoders).values
        (pid,) = decoders.pids
        os.kill(pid, number)
        assert np.array_equal(render(compressed(), decoders=decoders).values, expected)
        assert pid not in decoders.pids


def test_neighbours_are_answered_while_one_hangs() -> None:
    expected = render(chest("an image")).values
    with contextlib.closing(Decoders(DecodingLimits(1000, seconds=12.0))) as decoders, ThreadPoolExecutor(3) as pool:
        render(compressed(), decoders=decoders)
        os.kill(decoders.pids[0], signal.SIGSTOP)
        held = pool.submit(render, compressed(), decoders=decoders)
        wait_for(lambda: not decoders.pids)
        for syntax in [JPEG2000Lossless, JPEGLSLossless] * 4:
            assert np.array_equal(render(compressed(syntax), decoders=decoders).values, expected)
        assert not held.done()
        assert np.array_equal(held.result().values, expected)


def test_few_are_kept_and_none_stay_behind(decoders: Decoders) -> None:
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda _: render(compressed(), decoders=decoders), range(10)))
    pids = decoders.pids
    assert 1 <= len(pids) <= KEPT
    decoders.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_limits_are_those_of_the_process(decoders: Decoders) -> None:
    render(compressed(), decoders=decoders)
    lines = Path(f"/proc/{decoders.pids[0]}/limits").read_text(encoding="ascii").splitlines()
    limits = {line[:25].strip(): line[25:].split()[:2] for line in lines}
    assert limits["Max file size"] == ["0", "0"]
    assert limits["Max core file size"] == ["0", "0"]
    assert 150_000_000 < int(limits["Max data size"][1]) < 600_000_000
    assert 20 < int(limits["Max cpu time"][0]) < 60


def test_the_decoder_does_not_get_our_secrets(decoders: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRD_LEDGER__URL", "postgresql://user:secret@host/name")
    render(compressed(), decoders=decoders)
    assert b"secret" not in Path(f"/proc/{decoders.pids[0]}/environ").read_bytes()


def test_an_image_that_would_need_too_much_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoders, "decode", lambda *_, **__: pytest.fail("decoded"))
    dataset = compressed()
    dataset.Rows = dataset.Columns = 7000
    with pytest.raises(UnsupportedPixels, match=r"would need 29\d MB of memory, at most 150 are allowed"):
        render(dataset, decoders=Decoders(DecodingLimits(150)))


def test_a_kept_process_costs_no_start() -> None:
    with contextlib.closing(Decoders()) as decoders:
        render(compressed(), decoders=decoders)
        before = time.monotonic()
        for _ in range(20):
            render(compressed(JPEGLSLossless), decoders=decoders)
        assert time.monotonic() - before < 10
        assert len(decoders.pids) == 1
