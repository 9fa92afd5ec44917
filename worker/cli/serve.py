"""`cxrd serve`: the daemon."""

from __future__ import annotations

import signal
import threading

from worker.cli import options


def serve(config: options.Config = None) -> None:
    """Receive images and answer them, until stopped by SIGTERM or Ctrl-C.

    What was received and not finished is in the ledger; the next start takes it up again.
    """
    from worker import logs
    from worker.engines.daemon import Daemon

    settings = options.load(config)
    logs.configure(settings.logging.level, settings.logging.format)
    daemon = Daemon(settings)
    end = stop_event()
    daemon.start()
    end.wait()
    daemon.stop()


def stop_event() -> threading.Event:
    """Return an event that SIGTERM or Ctrl-C sets from now on."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
