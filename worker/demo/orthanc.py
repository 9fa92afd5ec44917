"""Runs an Orthanc for the demo and the tests: on free ports, all in one folder.

Its HTTP server answers the loopback address only. Orthanc cannot bind its DICOM port to one address: while it runs,
whoever reaches this machine can store objects there.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from dicom_io.errors import InvalidSettings, OutOfResources

PLUGINS = ("libOrthancDicomWeb.so",)
_PLUGIN_FOLDERS = (Path("/usr/share/orthanc/plugins"), Path("/usr/local/share/orthanc/plugins"))
_PATIENCE = 60.0
_PORTS = random.SystemRandom()
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens addresses of this machine without the proxy that the environment may name."""


def program() -> str | None:
    """Return the path of the Orthanc program, or None where it is not installed."""
    return shutil.which("Orthanc") or shutil.which("/usr/sbin/Orthanc")


def free_port() -> int:
    """Return a port on the loopback address that nobody listens on at the moment.

    It lies below those that systems hand out for outgoing connections (RFC 6335: from 49152, Linux: from 32768), so
    that none of these takes it before it is listened on; and it is drawn, so that neither does another program that
    looks for one in the same way.
    """
    while True:
        port = _PORTS.randrange(15000, 32000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


_running: list[LocalOrthanc] = []


def stop_all() -> None:
    """End every Orthanc that this process has started; may be called from a signal's handler."""
    for each in _running:
        each.stop()


class LocalOrthanc:
    """A running Orthanc with its DICOMweb plugin, where that is installed; it takes whatever is sent to it.

    Parameters
    ----------
    folder
        Made by the call; holds the configuration, the objects and the log.
    modalities
        The DICOM nodes that it knows: Orthanc's `DicomModalities`.

    Raises
    ------
    InvalidSettings
        Orthanc is not installed.
    OutOfResources
        It does not come up within a minute.
    """

    def __init__(self, folder: Path, modalities: dict[str, Any] | None = None) -> None:
        path = program()
        if path is None:
            raise InvalidSettings("Orthanc is not installed (Debian: apt install orthanc orthanc-dicomweb)")
        folder.mkdir(parents=True)
        self.http, self.dicom = free_port(), free_port()
        plugins = [str(each / name) for each in _PLUGIN_FOLDERS for name in PLUGINS if (each / name).exists()]
        self.has_dicomweb = bool(plugins)
        self.url = f"http://127.0.0.1:{self.http}"
        config = folder / "orthanc.json"
        config.write_text(json.dumps(self._settings(folder, plugins, modalities or {})))
        self._log = (folder / "orthanc.log").open("wb")
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = False
        self._start([path, str(config)], folder / "orthanc.log")

    def _settings(self, folder: Path, plugins: list[str], modalities: dict[str, Any]) -> dict[str, Any]:
        return {
            "Name": "cxrd",
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
            "DicomModalities": modalities,
            "Plugins": plugins,
        }

    def _start(self, command: list[str], log: Path) -> None:
        """Start the process so that it is ended even where a signal's handler interrupts this.

        A handler runs in the main thread, at any moment. In a thread of its own, the start surely comes to the line
        that notes the process.
        """

        def run() -> None:
            try:
                self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)  # noqa: S603 - `Orthanc`
            finally:
                self._starting = False

        _running.append(self)
        try:
            self._starting = True
            threading.Thread(target=run, name="orthanc", daemon=True).start()
            self._wait(log)
        except BaseException:
            self.stop()
            raise

    def _wait(self, log: Path) -> None:
        end = time.monotonic() + _PATIENCE
        self._wait_for_start()
        while time.monotonic() < end and self._process is not None and self._process.poll() is None:
            try:
                self.get("/system")
            except (OSError, ValueError, http.client.HTTPException):
                time.sleep(0.1)
            else:
                return
        raise OutOfResources(f"Orthanc did not start; {log} says why")

    def _wait_for_start(self) -> None:
        # No lock and no event: `stop` may interrupt this very line, in the same thread.
        end = time.monotonic() + 10
        while self._starting and time.monotonic() < end:
            time.sleep(0.005)

    def stop(self) -> None:
        """End the process that this object started; a second call does nothing."""
        self._wait_for_start()
        process = self._process
        if process is not None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()
        if self in _running:
            _running.remove(self)

    def get(self, path: str) -> Any:
        """GET JSON."""
        return json.loads(self.raw(path))

    def raw(self, path: str, body: bytes | None = None) -> bytes:
        """GET, or POST where there is a body."""
        request = urllib.request.Request(f"{self.url}{path}", data=body)  # noqa: S310 - our own, on the loopback
        with DIRECT.open(request, timeout=60) as answer:
            return bytes(answer.read())

    def upload(self, data: bytes) -> str:
        """Store an object over HTTP; return Orthanc's own identifier of the instance."""
        return str(json.loads(self.raw("/instances", data))["ID"])
