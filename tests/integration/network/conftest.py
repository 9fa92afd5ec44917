"""A node of our own, with what it logs and counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from dicom_io.network import status
from dicom_io.network.ending import Cause
from dicom_io.network.storage_scp import Arrival, StorageNode
from tests.support.peers import wait_for
from worker.engines.receiver import node_options
from worker.settings import Scp


class WatchedNode:
    """A node that takes everything, and remembers what came and how associations ended."""

    def __init__(self, folder: Path, lines: list[MutableMapping[str, Any]], **options: object) -> None:
        self.arrivals: list[Arrival] = []
        self.causes: list[Cause] = []
        self.rejected: list[tuple[str, str, str]] = []
        self._lines = lines
        tls: Any = options.pop("tls", None)
        scp = Scp.model_validate({"port": 0} | options)
        self.node = StorageNode(
            replace(node_options(scp), tls=tls),
            folder,
            self._receive,
            over=self.causes.append,
            rejected=lambda *about: self.rejected.append(about),
        )
        self.node.start()

    @property
    def port(self) -> int:
        return self.node.port

    def ends(self, count: int, seconds: float = 15) -> list[tuple[str, str]]:
        """Wait for so many ends; return cause and reason of their lines."""
        wait_for(lambda: len(self.causes) >= count, seconds)
        assert len(self.causes) == count
        lines = [line for line in self._lines if line["event"] == "association_ended"]
        return [(line["cause"], line["reason"]) for line in lines]

    @property
    def reasons(self) -> list[str]:
        """The reasons of all ends of all nodes of this test."""
        return [line["reason"] for line in self._lines if line["event"] == "association_ended"]

    def line(self) -> MutableMapping[str, Any]:
        """Wait for the one end that there is; return its line."""
        assert len(self.ends(1)) == 1
        return next(line for line in self._lines if line["event"] == "association_ended")

    def _receive(self, arrival: Arrival) -> int:
        self.arrivals.append(arrival)
        return status.SUCCESS if len(arrival.sop_instance_uid) in range(2, 65) else status.DATASET_MISMATCH


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Callable[..., WatchedNode]]:
    """Return what starts a node with settings of `scp`; it is stopped afterwards."""
    nodes: list[WatchedNode] = []
    with capture_logs() as lines:

        def start(**options: object) -> WatchedNode:
            nodes.append(WatchedNode(tmp_path / f"spool-{len(nodes)}", lines, **options))
            return nodes[-1]

        yield start
        for each in nodes:
            each.node.stop(grace=0.1)
