"""DCMTK's storage SCP for the tests: on a free port, ended by its own process id."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.orthanc import free_port
from tests.support.tools import tool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def storescp(inbox: Path, title: str, *options: str, port: int = 0) -> Iterator[int]:
    """Run it, with a folder for what comes; yield its port, a free one where none is given."""
    inbox.mkdir()
    port = port or free_port()
    command = [tool("storescp"), *options, "-od", str(inbox), "-aet", title, str(port)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        running.terminate()
        running.wait(10)
