"""The watch over a process: `/healthz`, `/readyz` and `/metrics`, beside its work and from the first moment on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from sqlalchemy import literal, select

from dicom_io.errors import CxrdError
from worker import __version__, metrics
from worker.health.cached import Cached
from worker.health.gauges import InstallationGauges
from worker.health.server import HealthServer, Page
from worker.printable import printable

if TYPE_CHECKING:
    from worker.ledger.receipts import Ledger
    from worker.settings import Settings

log = structlog.get_logger("cxrd.health")

PORTS = {"serve": 0, "receive": 1, "work": 2, "deliver": 3}
"""How far above `health.port` each process listens."""
_LASTS = 2.0
"""Seconds until what the work needs is looked at again."""
_AGAIN = 30.0
"""Seconds until a port that is taken is tried once more."""


class Watched(Protocol):
    """What a process does, and how it is."""

    role: str

    def stuck(self) -> list[str]:
        """Return why it does not go on, a line for each reason; nothing where it does, be it without success."""

    def faults(self) -> list[str]:
        """Return why it cannot do all of its work now, a line for each reason."""

    def gauges(self) -> Iterable[Metric]:
        """Return what only it knows of itself."""


class Watch:
    """Shows how a process is, from `start` to `stop`.

    A port that cannot be had holds up nothing: the log says so, and it is tried again.

    Parameters
    ----------
    ledger
        The database that the work needs; None for a process that can do without.
    check_store
        Raises an error where files cannot be read, or written, as the work needs.
    """

    def __init__(
        self,
        part: Watched,
        settings: Settings,
        ledger: Ledger | None = None,
        check_store: Callable[[], None] | None = None,
    ) -> None:
        self._part = part
        self._settings = settings
        self._state = "starting"
        self._needs: dict[str, Cached[None]] = {}
        if ledger:
            self._needs["the database"] = Cached(lambda: _ask(ledger), _LASTS)
        if check_store:
            self._needs["the storage folder"] = Cached(check_store, _LASTS)
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(self._own_gauges))
        if ledger:
            self._registry.register(_Collector(InstallationGauges(settings, ledger).collect))
        self._ending = threading.Event()
        self._server: HealthServer | None = None
        self._thread = threading.Thread(target=self._serve, name="health", daemon=True)

    @property
    def port(self) -> int:
        """The port that it listens on; 0 where it does not."""
        return self._server.port if self._server else 0

    def start(self) -> None:
        """Listen."""
        if self._settings.health.port:
            self._bind(first=True)
            self._thread.start()

    def started(self) -> None:
        """Say from now on how the work is; until then it is `starting`."""
        self._state = ""

    def ending(self) -> None:
        """Say from now on that the process is about to end."""
        self._state = "ending"

    def stop(self) -> None:
        """Listen no longer."""
        self._ending.set()
        if self._server:
            self._server.shutdown()
        if self._thread.ident is not None:
            self._thread.join()

    # ---- pages -------------------------------------------------------------------------------------------------------

    def faults(self) -> list[str]:
        """Return why the process cannot do its work now."""
        if self._state:
            return [self._state]
        return [*(fault for name, each in self._needs.items() if (fault := _fault(name, each))), *self._part.faults()]

    def _health(self) -> Page:
        return _page(self._state or "ok", [] if self._state else self._part.stuck())

    def _readiness(self) -> Page:
        return _page("ok", self.faults())

    def _metrics(self) -> Page:
        body = generate_latest(metrics.REGISTRY) + generate_latest(self._registry)
        return Page(True, body, CONTENT_TYPE_PLAIN_0_0_4)

    def _own_gauges(self) -> Iterator[Metric]:
        facts = {"role": self._part.role, "version": __version__}
        yield metrics.info("cxrd_process_info", "What this process does", facts)
        yield metrics.gauge("cxrd_ready", "1 while it can do its work", not self.faults())
        if not self._state:
            yield from self._part.gauges()

    # ---- the server --------------------------------------------------------------------------------------------------

    def _bind(self, *, first: bool = False) -> None:
        settings = self._settings.health
        port = settings.port + PORTS[self._part.role]
        pages = {"/healthz": self._health, "/readyz": self._readiness, "/metrics": self._metrics}
        try:
            self._server = HealthServer(settings.host, port, pages)
        except OSError as error:
            if first:
                log.error("health_not_served", host=settings.host, port=port, reason=error.strerror or str(error))
        else:
            log.debug("health_served", host=settings.host, port=port)

    def _serve(self) -> None:
        while self._server is None and not self._ending.wait(_AGAIN):
            self._bind()
        if self._server:
            self._server.serve_forever()
            self._server.server_close()


class _Collector:
    """What prometheus_client asks at each question."""

    def __init__(self, ask: Callable[[], Iterable[Metric]]) -> None:
        self._ask = ask

    def collect(self) -> Iterable[Metric]:
        return self._ask()


def _ask(ledger: Ledger) -> None:
    """Raise an error where the database does not answer."""
    with ledger.reading() as connection:
        connection.scalar(select(literal(1)))


def _fault(name: str, need: Cached[None]) -> str:
    """Return what is wrong with something that is needed; empty where nothing is."""
    try:
        need.get()
    except CxrdError as error:
        return str(error)
    except OSError as error:
        return f"{name}: {error.strerror or error}"
    return ""


def _page(well: str, reasons: list[str]) -> Page:
    lines = [printable(each) for each in reasons] or [well]
    return Page(not reasons, "".join(f"{line}\n" for line in lines).encode())
