"""A real Orthanc for the tests: its own folder, free ports, ended by its own process id."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.peers import wait_for


def binary(*names: str) -> str:
    """Return the path of an outside program; skip where it is not installed, fail in CI."""
    for name in names:
        found = shutil.which(name) or shutil.which(f"/usr/sbin/{name}")
        if found:
            return found
    reason = f"{names[0]} is not installed (Debian: apt-get install orthanc dcmtk dicom3tools)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    """Return a port on the loopback address that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


PLUGINS = (Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so"),)


class Orthanc:
    """A running Orthanc that knows one modality, `cxrd`."""

    def __init__(self, folder: Path, cxrd_port: int) -> None:
        folder.mkdir()
        self.http, self.dicom = free_port(), free_port()
        settings = {
            "Name": "test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "HttpPort": self.http,
            "DicomPort": self.dicom,
            "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "SslEnabled": False,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "DicomModalities": {"cxrd": {"AET": "CXRD", "Host": "127.0.0.1", "Port": cxrd_port}},
            "Plugins": [str(path) for path in PLUGINS if path.exists()],
        }
        config = folder / "orthanc.json"
        config.write_text(json.dumps(settings))
        self._log = (folder / "orthanc.log").open("wb")
        self._process = subprocess.Popen([binary("Orthanc"), str(config)], stdout=self._log, stderr=self._log)
        wait_for(self._up, 30)

    def _up(self) -> bool:
        try:
            self.get("/system")
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """End the process that this object started."""
        self._process.terminate()
        self._process.wait(20)
        self._log.close()

    def get(self, path: str) -> Any:
        """GET JSON."""
        return json.loads(self.raw(path))

    def raw(self, path: str, body: bytes | None = None) -> bytes:
        """GET, or POST where there is a body."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", data=body)
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return bytes(answer.read())

    def upload(self, data: bytes) -> str:
        """Store an object over HTTP; return Orthanc's own identifier of the instance."""
        return str(json.loads(self.raw("/instances", data))["ID"])

    def send_to_cxrd(self, instances: list[str]) -> None:
        """Send instances by C-STORE to the modality `cxrd`; raises where any of them is not accepted."""
        self.raw("/modalities/cxrd/store", json.dumps(instances).encode())
