"""Questions to the pages of a process, as a probe and as Prometheus asks them."""

from __future__ import annotations

import contextlib
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

from tests.support.orthanc import free_port
from worker.demo.orthanc import DIRECT

Series = dict[tuple[str, ...], float]


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    """Return status and body."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with DIRECT.open(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def scrape(port: int) -> Series:
    """Return each series by its name and the values of its labels, these in the order of the labels' names."""
    status, body = get(port, "/metrics")
    assert status == 200, body
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


def labels(port: int) -> dict[str, set[str]]:
    """Return the series' names, each with the names of its labels."""
    _, body = get(port, "/metrics")
    names: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(body):
        names.setdefault(family.name if family.type != "counter" else f"{family.name}_total", set())
        for sample in family.samples:
            names.setdefault(sample.name, set()).update(sample.labels)
    return names


def free_ports(count: int) -> int:
    """Return the first of so many ports in a row that nobody listens on."""
    while True:
        first = free_port()
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(_bound(port))
            return first


@contextlib.contextmanager
def _bound(port: int) -> Iterator[None]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
        yield
