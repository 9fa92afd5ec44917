"""A few processes that decode compressed frames, kept for the next one; each is replaced when a frame ends it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dicom_io.errors import OutOfResources
from dicom_io.pixels import decoder

KEPT = 2
"""Processes that wait for the next frame; more are made while more frames come at once, and end afterwards."""
ATTEMPTS = 2
"""How often a frame is tried that ends a process: something else may have ended it."""
_PIPE = 1 << 20
_MOST_HEAD = 65_536


class DecoderFailed(Exception):
    """No picture came of a frame; the message says why, for the end of a sentence."""


class DecoderInterrupted(DecoderFailed):
    """No picture came, and that may be the machine's fault: too little memory, or too much else to do."""


class FrameDamaged(DecoderFailed):
    """The code stream is damaged: what came of it is not the picture."""


class FrameEndsEarly(DecoderFailed):
    """A frame's data end before its last pixel."""


class _Ended(Exception):
    """The process ended, or had to be ended."""

    def __init__(self, reason: str, *, by_system: bool = False) -> None:
        super().__init__(reason)
        self.by_system = by_system  # or for want of time, which a busy machine may be the reason of


@dataclass(frozen=True)
class DecodingLimits:
    """What decoding one frame may cost.

    Attributes
    ----------
    max_memory_mb
        Memory, in units of 1,000,000 bytes.
    seconds
        By the clock; of the processor's time, some seconds more.
    """

    max_memory_mb: int = 1000
    seconds: float = 60.0


@dataclass(frozen=True)
class Decoded:
    """Cells of a frame, and what is known of them: NumPy's name of their kind, and their shape."""

    cells: bytearray
    kind: str = ""
    shape: tuple[int, ...] = ()


class Decoders:
    """Decodes frames; safe to call from many threads.

    Parameters
    ----------
    limits
        What one frame may cost.
    """

    def __init__(self, limits: DecodingLimits = DecodingLimits()) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._end = weakref.finalize(self, _end_all, self._idle)

    def decode(self, frame: bytes, head: dict[str, Any]) -> Decoded:
        """Decode one frame.

        Parameters
        ----------
        frame
            The code stream; its own header has been checked.
        head
            What `dicom_io.pixels.decoder` needs to know: plugin, syntax and options.

        Raises
        ------
        DecoderFailed
            The code stream is damaged, or costs more than is allowed.
        OutOfResources
            The machine has no room for another process, or for the picture.
        """
        reason, failure = "", DecoderFailed
        for _ in range(ATTEMPTS):
            process = self._take()
            try:
                answer, cells = process.ask(head | {"seconds": self.limits.seconds}, frame, self.limits.seconds)
            except _Ended as error:
                process.kill()
                reason, failure = str(error), DecoderInterrupted if error.by_system else DecoderFailed
                continue
            except MemoryError as error:
                process.kill()
                raise OutOfResources("no memory for a decoded image") from error
            except BaseException:
                process.kill()
                raise
            self._give_back(process)
            if answer["error"] == "MemoryError":
                raise DecoderFailed(f"it needs more than {self.limits.max_memory_mb} MB of memory")
            if answer["error"] == decoder.DAMAGED:
                raise FrameDamaged("damaged")
            if answer["error"] == decoder.ENDS_EARLY:
                raise FrameEndsEarly("its data end early")
            if answer["error"]:
                raise DecoderFailed(answer["error"])
            return Decoded(cells, answer.get("kind", ""), tuple(answer.get("shape", ())))
        raise failure(reason)

    def close(self) -> None:
        """End the processes that wait."""
        with self._lock:
            _end_all(self._idle)

    @property
    def pids(self) -> list[int]:
        """The processes that wait."""
        return [each.pid for each in self._idle]

    def _take(self) -> _Process:
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.is_alive():
                    return process
                process.kill()
        try:
            return _Process(self.limits.max_memory_mb)
        except (OSError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise OutOfResources(f"no process can be started to decode an image: {reason}") from error

    def _give_back(self, process: _Process) -> None:
        with self._lock:
            if len(self._idle) < KEPT:
                self._idle.append(process)
                return
        process.kill()


class _Process:
    """One process of the program `dicom_io.pixels.decoder`."""

    def __init__(self, memory_mb: int) -> None:
        command = [sys.executable, "-I", decoder.__file__, str(memory_mb)]
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LD_LIBRARY_PATH", "LANG")}
        # One thread: a pool of threads of a library's own would count as memory, and gain nothing here.
        environment = kept | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
            cwd="/",
        )
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101, PT018 - pipes
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        for end in (self._to, self._from):
            with contextlib.suppress(OSError, AttributeError):
                fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, _PIPE)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, head: dict[str, Any], frame: bytes, seconds: float) -> tuple[dict[str, Any], bytearray]:
        """Have a frame decoded.

        Raises
        ------
        _Ended
            The process ended, or did not answer in time; the message says which.
        """
        deadline = time.monotonic() + seconds
        try:
            for part in decoder.message(head, frame):
                self._write(memoryview(part), deadline)
            (length,) = struct.unpack("<I", self._read(4, deadline))
            if length > _MOST_HEAD:
                raise _Ended("its decoder answers nonsense")
            answer: dict[str, Any] = json.loads(self._read(length, deadline))
            return answer, self._read(answer["size"], deadline)
        except TimeoutError as error:
            raise _Ended(f"it took longer than {seconds:g} s, {ATTEMPTS} times", by_system=True) from error
        except (OSError, EOFError) as error:
            raise self._how() from error

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()

    def _how(self) -> _Ended:
        """Return how the process ended by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(5)
            if code == -signal.SIGXCPU:
                return _Ended(f"it took too much of the processor's time, {ATTEMPTS} times")
            if code == -signal.SIGKILL:
                reason = f"its decoder was ended by the system (out of memory?), {ATTEMPTS} times"
                return _Ended(reason, by_system=True)
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return _Ended(f"its decoder ended with {name}, {ATTEMPTS} times")
        return _Ended(f"its decoder does not answer, {ATTEMPTS} times", by_system=True)

    def _write(self, data: memoryview, deadline: float) -> None:
        while len(data):
            self._wait([], [self._to], deadline)
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(self._to, data[:_PIPE]) :]

    def _read(self, size: int, deadline: float) -> bytearray:
        data = bytearray(size)
        view, at = memoryview(data), 0
        while at < size:
            self._wait([self._from], [], deadline)
            count = os.readv(self._from, [view[at:]])
            if not count:
                raise EOFError
            at += count
        return data

    @staticmethod
    def _wait(reading: list[int], writing: list[int], deadline: float) -> None:
        poll = select.poll()  # `select` takes no descriptor above 1023
        for each in reading:
            poll.register(each, select.POLLIN)
        for each in writing:
            poll.register(each, select.POLLOUT)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(1000 * left):
            raise TimeoutError


def _end_all(processes: list[_Process]) -> None:
    while processes:
        processes.pop().kill()


def shared() -> Decoders:
    """Return decoders of this process, for those who bring none."""
    return _shared(os.getpid())


@lru_cache(maxsize=1)
def _shared(pid: int) -> Decoders:
    """Return decoders by the process: one that was forked must not talk to those of its parent."""
    del pid
    return Decoders()
