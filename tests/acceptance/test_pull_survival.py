"""A pull that is killed in the middle: nothing half is kept, and the next one brings the rest."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from tests.acceptance.program import CXRD, Service, run
from tests.support.archive import pacs
from tests.support.dicomweb import dicomweb
from tests.support.orthanc import free_port
from tests.support.peers import chest, wait_for
from tests.support.printed import labelled
from worker.ledger.database import open_ledger
from worker.ledger.queries import Filter, findings
from worker.settings import load

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Archive:
    """What the test needs to know of either kind of archive, with `uid` as the image to stop at."""

    destination: dict[str, Any]
    stall_at: Callable[[str], None]
    stalled: Callable[[float], bool]
    go_on: Callable[[], None]
    sent: Callable[[], list[str]]


@contextmanager
def archive(way: str, images: list[Dataset], port: int) -> Iterator[Archive]:
    """Run an archive that is asked in this way."""
    if way == "web":
        with dicomweb(images) as server:

            def forget() -> None:
                server.faults.clear()
                server.go.set()
                server.requests.clear()

            yield Archive(
                {"name": "archive", "url": server.url},
                lambda uid: server.faults.__setitem__(uid, "stall"),
                server.stalled.wait,
                forget,
                server.retrieved,
            )
        return
    with pacs(images, port) as node:

        def resume() -> None:
            node.stall = ""
            node.go.set()
            node.sent.clear()

        yield Archive(
            {"name": "archive", "host": "127.0.0.1", "port": node.port, "ae_title": "PACS"},
            lambda uid: setattr(node, "stall", uid),
            node.stalled.wait,
            resume,
            lambda: node.sent,
        )


# By C-MOVE the images come to the node, not to the command that is killed: there is nothing half.
@pytest.mark.parametrize(("way", "halves"), [("web", 1), ("get", 1), ("move", 0)])
def test_a_pull_killed_in_the_middle_goes_on_where_it_was(
    way: str, halves: int, tmp_path: Path, serve: Callable[..., Service]
) -> None:
    # Each of them is larger than a PDU that cxrd accepts (131,072 bytes): it comes in parts.
    images = [chest(f"killed-{number}", rows=500, cols=420, AccessionNumber=f"K{number}") for number in range(5)]
    port = free_port()
    with archive(way, images, port) as there:
        service = serve(scp={"port": port}, destinations=[{**there.destination, "for_calling": ["NOBODY"]}])
        incoming = service.folder / "data" / "objects" / "incoming"
        if way == "move":
            service.start()
        there.stall_at(images[2].SOPInstanceUID)
        asked = ["pull", "archive", "--date", "19000101-", "--config", service.config]
        asked += ["--get"] if way == "get" else []
        with (tmp_path / "said").open("wb") as said:
            process = subprocess.Popen([str(CXRD), *map(str, asked)], stdout=said, stderr=said)
        try:
            assert there.stalled(200), (tmp_path / "said").read_text()
            wait_for(lambda: len(list(incoming.rglob("*.part"))) == halves)  # sent is not yet arrived
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert len(list(incoming.rglob("*.part"))) == halves
        ledger = open_ledger(load(service.config))
        assert {row["accession_number"] for row in findings(ledger, Filter())} == {"K0", "K1"}
        there.go_on()
        done = run(*asked)
        assert done.returncode == 0, done.stderr
        assert list(labelled(done.stdout).values()) == ["5", "3", "2", "0"], done.stdout
        assert there.sent() == [each.SOPInstanceUID for each in images[2:]]
        assert len(findings(ledger, Filter())) == 5
        assert list(incoming.rglob("*.part")) == []
        assert not any(str(each.SOPInstanceUID) in done.stdout + done.stderr for each in images)
