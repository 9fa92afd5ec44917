"""The supervisor: starts the processes of cxrd on one machine, and starts again what has died.

It does none of the work, so that nothing that kills a process takes it along. Each child hears of its end by a pipe,
and gives signs of life through another: one that is silent for too long is killed.
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog
from prometheus_client.core import CounterMetricFamily, Metric

from dicom_io.errors import CxrdError
from worker import metrics
from worker.clock import now
from worker.config_file import text_of
from worker.engines import activity, systemd
from worker.engines.heartbeat import remove_process
from worker.engines.reload import open_text, read_again, settings_file
from worker.engines.watch import Watch
from worker.extras import lacking, require_ledger
from worker.ledger.database import make_folder, open_ledger
from worker.ledger.processes import ROLES
from worker.pulse import Pulse
from worker.queue.claim import Queue
from worker.queue.retry import backoff
from worker.settings import Settings
from worker.storage.lock import FolderLock

log = structlog.get_logger("cxrd.supervisor")

RELOADED = ("work", "deliver")
"""Those that take up new settings on SIGHUP by a start anew; the receiver is told, and receiving goes on."""
_TICK = 0.5
_STABLE = 60.0
"""Seconds after which a child that runs counts as well, whatever was before."""
_SILENT = 60.0
"""Seconds without a sign of life after which a child is killed."""
_STARTING = 300.0
"""Seconds after which a child is killed that has not become ready."""
_AHEAD = 2.0
"""Seconds, at most, that the others wait at first until the receiver listens: all at once they share few cores."""
_WATCHDOG = 5.0
"""Seconds between two signs of life to systemd, which waits for 90."""
_SILENCE = 30.0
"""Seconds without a turn of its loop after which the supervisor is stuck."""


@dataclass
class Child:
    """One child: its process while it runs, and how it has fared."""

    role: str
    process: subprocess.Popen[bytes] | None = None
    owner: str = ""
    ready: bool = False
    was_ready: bool = False
    failures: int = 0
    deaths: int = 0
    started_at: float = 0.0
    start_at: float = 0.0
    heard_at: float = 0.0
    pipe: int | None = None
    ends_by: float | None = None  # it is to start anew, and has until then to end
    is_to_reload: bool = False
    is_lost: bool = False


class Supervisor:
    """Runs the children until it is told to stop.

    Parameters
    ----------
    config
        The settings file, as it was given to the command; None for the one that it finds by itself.

    Raises
    ------
    InvalidSettings, OutOfResources
        When nothing can be started; the message says in one line what to change.
    """

    def __init__(self, settings: Settings, config: Path | None) -> None:
        self.role = "serve"
        self.settings = settings
        self._config = settings_file(config)
        # What children get, whenever they start: somebody may be editing the file.
        self._text = text_of(self._config) if self._config else None
        folder = settings.storage.folder
        require_ledger(settings)
        for fault in lacking(settings):  # images are received whatever else is missing
            log.error("extra_missing", reason=fault)
        make_folder(folder)
        self._lock = FolderLock(folder)
        self._ledger = open_ledger(settings)  # makes the database where there is none, before the children ask for it
        self._queue = Queue(self._ledger)
        self._children = [Child(role) for role in ROLES]
        self._ending = False
        self._reload = False
        self._told_ready, self._told_at = False, 0.0
        self._pulse = Pulse()
        self._watch = Watch(self, settings)

    def run(self) -> int:
        """Start the children, see to them until SIGTERM or Ctrl-C, and end them; return the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_end)
        signal.signal(signal.SIGHUP, self._on_reload)
        log.info("starting", roles=list(ROLES), pid=os.getpid())
        activity.record_event("started", self.role, self._ledger, self.settings)
        self._watch.start()
        self._watch.started()
        for child in self._children:
            child.start_at = 0.0 if child.role == "receive" else time.monotonic() + _AHEAD
        code = 0
        while not self._ending:
            self._pulse.beat()
            for child in self._children:
                code = code or self._tend(child)
            if code:
                break
            if self._reload:
                self._take_up_settings()
            self._tell_systemd()
            self._wait()
        systemd.notify("STOPPING=1")
        self._watch.ending()
        activity.record_event("stopped", self.role, self._ledger, self.settings)  # while there is who tells of it
        self._end_all()
        self._watch.stop()
        self._lock.close()
        log.info("stopped", **self._counts())
        return code

    def _on_end(self, *_: object) -> None:
        self._ending = True

    def _on_reload(self, *_: object) -> None:
        self._reload = True

    def _wait(self) -> None:
        """Wait for news of a child, a signal, or the next look."""
        pipes = [child.pipe for child in self._children if child.pipe is not None]
        ready, _, _ = select.select(pipes, [], [], _TICK)
        for child in self._children:
            if child.pipe in ready and child.pipe is not None:
                self._listen(child, child.pipe)

    def _listen(self, child: Child, pipe: int) -> None:
        """Take a child's sign of life; the first one says that it is ready. The pipe closes with its end."""
        if os.read(pipe, 64):
            if not child.was_ready and child.role == "receive":
                self._let_start()
            child.ready = child.was_ready = True
            child.heard_at = time.monotonic()
        else:
            os.close(pipe)
            child.pipe = None

    # ---- children ----------------------------------------------------------------------------------------------------

    def _let_start(self) -> None:
        """Let those start that waited for the receiver; what has died since has a wait of its own."""
        for each in self._children:
            if not each.failures and each.process is None:
                each.start_at = 0.0

    def _tend(self, child: Child) -> int:
        """Start a child that does not run, and see whether one has died; return a code where all must end."""
        if child.process is None:
            if time.monotonic() >= child.start_at:
                self._start(child)
            return 0
        code = child.process.poll()
        if code is None:
            self._see_to(child, child.process)
            if child.failures and time.monotonic() - child.started_at > _STABLE:
                child.failures = 0
            return 0
        self._on_death(child, code)
        # What cannot be followed is said by the child; where it never ran, a person stands before the screen.
        return code if code == 2 and not child.was_ready else 0

    def _see_to(self, child: Child, process: subprocess.Popen[bytes]) -> None:
        """Kill a child that does not go on, and pass on what was asked for."""
        moment = time.monotonic()
        silence = moment - (child.heard_at if child.ready else child.started_at)
        if child.ends_by is not None:
            is_lost = moment > child.ends_by
        else:
            is_lost = silence > (_SILENT if child.ready else _STARTING)
        if is_lost and not child.is_lost:
            child.is_lost = True
            log.error("child_silent", role=child.role, seconds=round(silence))
            process.kill()  # stopped, or held up by a library: it can end by no other means
        elif child.is_to_reload and child.ready:
            child.is_to_reload = False
            process.send_signal(signal.SIGHUP)

    def _start(self, child: Child) -> None:
        """Start a child; where the machine has no room for it now, the others go on, and it is tried again."""
        child.owner = f"{child.role}-{os.getpid()}-{secrets.token_hex(6)}"
        try:
            child.process, child.pipe = self._spawn(child)
        except OSError as error:
            child.failures += 1
            wait = backoff(child.failures, first=1.0, most=30.0, jitter=0.0)
            child.start_at = time.monotonic() + wait
            log.error("child_not_started", role=child.role, reason=str(error.strerror), starts_again_in=wait)
            return
        child.ready, child.is_lost = False, False
        child.started_at = time.monotonic()
        log.debug("child_started", role=child.role, child=child.process.pid)

    def _spawn(self, child: Child) -> tuple[subprocess.Popen[bytes], int]:
        """Return a new process, and the pipe that its signs of life come from. Raises OSError."""
        mine, theirs = os.pipe()
        command = [sys.executable, "-m", "worker", child.role, "--owner", child.owner, "--ready-fd", str(theirs)]
        try:
            with ExitStack() as stack:
                stack.callback(os.close, theirs)
                passed = [theirs]
                if self._config and self._text:
                    passed.append(stack.enter_context(open_text(self._text)))
                    command += ["--config", str(self._config), "--config-fd", str(passed[-1])]
                process = subprocess.Popen(  # noqa: S603 - our own program
                    command, stdin=subprocess.PIPE, pass_fds=passed
                )
        except OSError:
            os.close(mine)
            raise
        return process, mine

    def _on_death(self, child: Child, code: int) -> None:
        """Put a dead child's tasks back, and see when it may start again."""
        if child.process is not None and child.process.stdin is not None:
            child.process.stdin.close()
        if child.pipe is not None:
            os.close(child.pipe)
        child.process, child.pipe, child.ready = None, None, False
        if child.ends_by is not None:
            ended, child.ends_by, child.start_at = code == 0, None, 0.0
            if ended:
                return
        child.failures += 1
        child.deaths += 1
        wait = 0.0 if child.failures == 1 else backoff(child.failures - 1, first=1.0, most=30.0, jitter=0.0)
        child.start_at = time.monotonic() + wait
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        log.error("child_died", role=child.role, how=how, starts_again_in=wait)
        try:
            self._queue.release(child.owner, now())
            remove_process(self._ledger, child.owner)
        except CxrdError as error:
            log.warning("leases_not_ended", role=child.role, reason=str(error))  # they run out by themselves

    def _end_all(self) -> None:
        """End the children; what does not end in the set time is killed."""
        for child in self._children:
            if child.process is not None:
                child.process.terminate()
        for child in self._children:
            self._end(child)

    def _end(self, child: Child) -> None:
        process = child.process
        if process is None:
            return
        try:
            process.wait(self._time_to_end)
        except subprocess.TimeoutExpired:
            log.error("child_killed", role=child.role)
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()
        child.process = None

    # ---- settings and systemd ----------------------------------------------------------------------------------------

    def _take_up_settings(self) -> None:
        """Read the settings anew, and let those children start anew who can take them up."""
        self._reload = False
        systemd.notify("RELOADING=1", monotonic=True)
        try:
            change = read_again(self.settings, self._config)
        except CxrdError as error:
            log.error("settings_not_taken_up", reason=str(error))
        else:
            self.settings, self._text = change.settings, change.text
            log.info("settings_taken_up", changed=change.names, need_a_restart=change.fixed)
            for child in self._children:
                # The receiver hears of each: a certificate may have been renewed under the same name.
                if child.process is not None and (change.names or child.role not in RELOADED):
                    self._pass_on(child, child.process)
        systemd.notify("READY=1")

    def _pass_on(self, child: Child, process: subprocess.Popen[bytes]) -> None:
        """Let a child take up the settings."""
        if child.role not in RELOADED:
            child.is_to_reload = True
        elif child.ends_by is None:
            child.ends_by = time.monotonic() + self._time_to_end
            process.terminate()

    @property
    def _time_to_end(self) -> float:
        return self.settings.worker.stop_seconds + 10

    def _tell_systemd(self) -> None:
        if not self._told_ready and all(child.ready for child in self._children):
            self._told_ready = systemd.notify("READY=1", wait=0)
            if self._told_ready:
                log.info("ready", role="serve")
        receives = all(child.process is not None for child in self._children if child.role == "receive")
        if receives and time.monotonic() - self._told_at > _WATCHDOG:
            self._told_at = time.monotonic()
            systemd.notify("WATCHDOG=1", wait=0)

    # ---- how it is: see `worker.engines.watch.Watched` ---------------------------------------------------------------

    def stuck(self) -> list[str]:
        """Return why it does not see to its children."""
        return [f"the supervisor has not gone on for {each:.0f} s" for each in self._pulse.stuck(_SILENCE).values()]

    def faults(self) -> list[str]:
        """Return which children do not do their work."""
        down = [f"{each.role} does not run" for each in self._children if each.process is None]
        starting = [f"{each.role} is not ready" for each in self._children if each.process and not each.ready]
        return [*down, *starting, *self.stuck()]

    def gauges(self) -> Iterator[Metric]:
        """Yield what only it knows."""
        running = {each.role: each.process is not None for each in self._children}
        yield metrics.gauge("cxrd_child_running", "1 while this process of ours runs", running, "role")
        deaths = CounterMetricFamily("cxrd_child_deaths", "How often one has died", labels=["role"])
        for each in self._children:
            deaths.add_metric([each.role], each.deaths)
        yield deaths

    def _counts(self) -> dict[str, int]:
        try:
            return self._ledger.unfinished()
        except CxrdError:
            return {}
