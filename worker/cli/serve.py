"""`cxrd serve`, and the processes that it consists of: `cxrd receive`, `cxrd work`, `cxrd deliver`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli import options
from worker.memory import give_back, keep_for_the_next
from worker.storage.privacy import tighten

if TYPE_CHECKING:
    from worker.settings import Settings

Owner = Annotated[str, typer.Option(hidden=True)]
ReadyFd = Annotated[int | None, typer.Option(hidden=True)]
ConfigFd = Annotated[int | None, typer.Option(hidden=True)]


def serve(config: options.Config = None) -> None:
    """Receive images, answer them and deliver the answers, until stopped by SIGTERM or Ctrl-C.

    Starts `receive`, `work` and `deliver` and watches over them. SIGHUP takes up changed settings.
    """
    from worker.engines.supervisor import Supervisor

    code = Supervisor(_settings(config), config).run()
    if code:
        raise typer.Exit(code)


def receive(
    config: options.Config = None, owner: Owner = "", ready_fd: ReadyFd = None, config_fd: ConfigFd = None
) -> None:
    """Only receive images, until stopped by SIGTERM or Ctrl-C."""
    settings = _settings(config, config_fd)
    give_back()
    from worker.engines import child
    from worker.engines.receiver import Receiver

    child.run(lambda: Receiver(settings, owner), ready_fd, config)


def work(
    config: options.Config = None, owner: Owner = "", ready_fd: ReadyFd = None, config_fd: ConfigFd = None
) -> None:
    """Only answer images that were received, until stopped by SIGTERM or Ctrl-C."""
    settings = _settings(config, config_fd)
    keep_for_the_next()
    from worker.engines import child
    from worker.engines.workers import Workers

    child.run(lambda: Workers(settings, owner), ready_fd, config)


def deliver(
    config: options.Config = None, owner: Owner = "", ready_fd: ReadyFd = None, config_fd: ConfigFd = None
) -> None:
    """Only deliver results that are there, until stopped by SIGTERM or Ctrl-C."""
    settings = _settings(config, config_fd)
    give_back()
    from worker.engines import child
    from worker.engines.couriers import Couriers

    child.run(lambda: Couriers(settings, owner), ready_fd, config)


def _settings(config: options.Config, config_fd: int | None = None) -> Settings:
    """Return the settings; from the text that the supervisor has read, where it hands one over."""
    from worker import logs

    text = None
    if config_fd is not None:
        with open(config_fd, encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            text = file.read()
    settings = options.load(config, text)
    logs.configure(settings.logging.level, settings.logging.format)
    logs.tell_of_threads()
    if left := tighten(settings.storage.folder):
        logs.log.warning("open_to_others", paths=[str(path) for path in left[:5]], count=len(left))
    return settings
