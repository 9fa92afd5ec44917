"""What a process counts and times, for its `/metrics`. docs/operations.md explains each name.

The numbers begin at 0 with each process. What the database knows is asked there (`worker.health.gauges`).
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily

from dicom_io.finding import Answer
from dicom_io.network.ending import Cause
from worker.clock import now
from worker.queue.task import Kind, Task

disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()
"""What is counted here, and the memory, CPU time and open files of the process."""
ProcessCollector(registry=REGISTRY)

OTHER = "other"
"""The label of all values that are not among the few that have one of their own."""
_MOST = 50
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
_CAUSES = {
    "UnsupportedPixels": "pixels",
    "UnreadableObject": "unreadable",
    "ObjectCutShort": "unreadable",
    "InvalidResult": "result",
    "EngineFault": "model",
}
CRASHED, UNFORESEEN = "crashed", "unforeseen"


class Few:
    """Keeps the values of a label few, whatever peers send: the first ones that are seen keep their own.

    A value that is not of printable ASCII never has one.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._own: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, value: str) -> str:
        """Return the label for a value."""
        with self._lock:
            if value not in self._own and len(self._own) < self._most and value.isascii() and value.isprintable():
                self._own.add(value)
            return value if value in self._own else OTHER


def _counter(name: str, text: str, label: str = "", values: Sequence[str] = ()) -> Counter:
    """Return a counter whose known labels begin at 0: else the first count of each would be no increase."""
    counter = Counter(name, text, [label] if label else [], registry=REGISTRY)
    for value in values:
        counter.labels(value)
    return counter


_senders = Few()
RECEIVED = _counter("cxrd_received", "Objects that were stored", "calling_ae")
RECEIVED_BYTES = _counter("cxrd_received_bytes", "Their bytes")
RECEIVED_AGAIN = _counter("cxrd_received_again", "Objects that were known already")
REFUSED = _counter("cxrd_refused", "Objects that were not stored", "status", ("0xA700", "0xA900", "0xC000", "0x0111"))
ASSOCIATIONS = _counter("cxrd_associations", "Associations of peers that ended", "cause", tuple(Cause))
ANSWERED = _counter("cxrd_answered", "Images that a model answered", "answer", tuple(Answer))
NOT_ANALYSED = _counter(
    "cxrd_not_analysed",
    "Images that were left out",
    "reason",
    ("rules", "outside", "own output", "deleted", "replaced"),
)
FAILED = _counter(
    "cxrd_failed", "Images that could not be analysed", "reason", (CRASHED, UNFORESEEN, *_CAUSES.values())
)
PUT_BACK = _counter("cxrd_put_back", "Images that are tried again later", "reason", ("image", "system"))
READ_AGAIN = _counter("cxrd_read_again", "Of all these, images that were read again by a newer model")
DELIVERIES = Counter(
    "cxrd_deliveries", "Attempts at a delivery and what became of them", ["destination", "outcome"], registry=REGISTRY
)
_OUTCOMES = ("sent", "committed", "failed", "postponed", "withdrawn")
DELETED_BYTES = _counter("cxrd_deleted_bytes", "Bytes of deleted files", "why", ("age", "space", "unowned"))
STAGES = Histogram("cxrd_stage_seconds", "How long each stage took", ["stage"], buckets=_BUCKETS, registry=REGISTRY)


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """Time a block, or each call of a function, as one stage."""
    start = time.perf_counter()
    try:
        yield
    finally:
        STAGES.labels(stage).observe(time.perf_counter() - start)


def took(stage: str, seconds: float) -> None:
    """Enter how long a stage took, where that is known already."""
    STAGES.labels(stage).observe(max(0.0, seconds))


def received(calling_ae: str, size: int) -> None:
    """Count an object that was stored."""
    RECEIVED.labels(_senders(calling_ae)).inc()
    RECEIVED_BYTES.inc(size)


def association_over(cause: Cause) -> None:
    """Count the end of an association that a peer opened."""
    ASSOCIATIONS.labels(cause).inc()


def entered(counted: Counter, task: Task, received_at: dt.datetime, *, answered: bool) -> None:
    """Count the outcome of an image's task, and how long it was waited for."""
    counted.inc()
    if task.kind is Kind.REANALYSE:
        READ_AGAIN.inc()
    elif task.attempts == 1:
        took("queue", (task.claimed_at - task.created_at).total_seconds())
        if answered:
            took("answer", (now() - received_at).total_seconds())


def cause_of(error: BaseException) -> str:
    """Return the word for why an image failed."""
    return _CAUSES.get(type(error).__name__, UNFORESEEN)


def expect_destination(name: str) -> None:
    """Let the counts of a destination begin at 0."""
    for outcome in _OUTCOMES:
        DELIVERIES.labels(name, outcome)


def delivery(destination: str, outcome: str, count: int = 1) -> None:
    """Count deliveries: sent, committed, failed, postponed or withdrawn."""
    DELIVERIES.labels(destination, outcome).inc(count)


def deleted(why: str, size: int) -> None:
    """Count the bytes of files that were deleted."""
    DELETED_BYTES.labels(why).inc(size)


def gauge(name: str, text: str, values: Mapping[str, float] | float, label: str = "") -> GaugeMetricFamily:
    """Return a gauge as it stands now: one number, or one for each value of a label."""
    family = GaugeMetricFamily(name, text, labels=[label] if label else [])
    for value, number in values.items() if isinstance(values, Mapping) else [("", values)]:
        family.add_metric([value] if label else [], number)
    return family


def info(name: str, text: str, facts: Mapping[str, str]) -> GaugeMetricFamily:
    """Return a gauge that is always 1, and bears facts as its labels."""
    family = GaugeMetricFamily(name, text, labels=list(facts))
    family.add_metric(list(facts.values()), 1)
    return family
