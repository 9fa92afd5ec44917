"""What `/metrics` says of the whole installation: the database is asked at the moment of the question, now and then.

Every process shows it, so that it is seen whichever of them still runs. Over several processes, take the maximum.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily

from dicom_io.errors import CxrdError
from worker.clock import now
from worker.health.cached import Cached
from worker.ledger import overview
from worker.ledger.processes import ROLES, processes
from worker.ledger.retention import oldest_kept
from worker.metrics import gauge
from worker.queue.breaker import Breakers
from worker.queue.task import Kind
from worker.storage.files import free_bytes

if TYPE_CHECKING:
    from worker.ledger.receipts import Ledger
    from worker.settings import Settings

LASTS = 5.0
"""Seconds that an answer of the database is shown."""


class InstallationGauges:
    """Queue, failures, breakers, processes and disk."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger
        self._database = Cached(self._ask, LASTS)
        self._disk = Cached(lambda: free_bytes(settings.storage.folder), LASTS)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges as they stand; without the database, that it does not answer."""
        yield gauge(
            "cxrd_disk_least_bytes",
            "Free bytes below which images are refused",
            self._settings.storage.min_free_mb * 1_000_000,
        )
        try:
            free = self._disk.get()
        except TimeoutError:
            free = None
        if free is not None:
            yield gauge("cxrd_disk_free_bytes", "Free bytes in the storage folder", free)
        families: Iterable[GaugeMetricFamily] = ()
        try:
            families = self._database.get()
        except (CxrdError, TimeoutError):
            up = 0
        else:
            up = 1
        yield gauge("cxrd_database_up", "Whether the database answers", up)
        yield from families

    def _ask(self) -> list[GaugeMetricFamily]:
        moment = now()
        names = [each.name for each in self._settings.destinations]
        with self._ledger.reading() as connection:
            groups = overview.task_groups(connection, moment)
            images = overview.failed_images(connection)
            deliveries = overview.failed_deliveries(connection, names)
            oldest = oldest_kept(connection)
            uncommitted = overview.uncommitted(connection)
        outbox = self._settings.outbox
        down = {each.name for each in Breakers(self._ledger, first=outbox.retry_first, most=outbox.retry_max).open()}
        running = [each.role for each in processes(self._ledger) if each.is_alive(moment)]
        return [
            *_queue(groups, names, moment),
            gauge(
                "cxrd_kept_oldest_seconds", "How long ago the oldest image was done that is kept", _age(oldest, moment)
            ),
            gauge("cxrd_failed_images", "Images that stand as failed", images),
            gauge(
                "cxrd_failed_deliveries",
                "Deliveries that stand as failed",
                deliveries,
                "destination",
            ),
            gauge(
                "cxrd_uncommitted_results",
                "Results that a node was asked to commit to, as often as it is asked, and never did",
                {name: each.given_up for name, each in uncommitted.items()},
                "destination",
            ),
            gauge(
                "cxrd_destination_down",
                "1 while nothing but a probe is sent there",
                {name: name in down for name in sorted({*names, *down})},
                "destination",
            ),
            gauge(
                "cxrd_processes",
                "Processes that were seen in the last half minute",
                {role: running.count(role) for role in sorted({*ROLES, *running})},
                "role",
            ),
        ]


def _queue(groups: list[overview.TaskGroup], names: list[str], moment: dt.datetime) -> Iterator[GaugeMetricFamily]:
    expected = [(Kind.ANALYSE.value, ""), (Kind.REANALYSE.value, ""), *((Kind.DELIVER.value, name) for name in names)]
    by_key = {(each.kind, each.destination): each for each in groups}
    labels = ["kind", "destination"]
    tasks = GaugeMetricFamily("cxrd_queue_tasks", "Tasks in the queue", labels=labels)
    leased = GaugeMetricFamily("cxrd_queue_leased_tasks", "Of these, in the hands of a process", labels=labels)
    oldest = GaugeMetricFamily("cxrd_queue_oldest_seconds", "Age of the oldest task", labels=labels)
    for key in sorted({*expected, *by_key}):
        each = by_key.get(key)
        tasks.add_metric(key, each.waiting + each.in_hand if each else 0)
        leased.add_metric(key, each.in_hand if each else 0)
        oldest.add_metric(key, max(0.0, (moment - each.oldest).total_seconds()) if each else 0)
    yield from (tasks, leased, oldest)


def _age(since: dt.datetime | None, moment: dt.datetime) -> float:
    return max(0.0, (moment - since).total_seconds()) if since else 0.0
