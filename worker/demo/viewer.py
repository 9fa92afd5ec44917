"""Shows studies in the OHIF viewer beside an Orthanc, for the demo and for the tests; not for the network.

The files are those of the npm package `@ohif/app` (its folder `dist`), which is not part of cxrd.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import mimetypes
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dicom_io.errors import InvalidSettings
from worker.demo.orthanc import DIRECT, LocalOrthanc

_PREFIX = "/dicom-web"
_PASSED_HEADERS = ("Accept", "Content-Type")


class ViewerServer:
    """A viewer on a free port of the loopback address, in a thread.

    Parameters
    ----------
    dist
        The viewer's built files.
    dicomweb
        Base URL of the DICOMweb server that it shows, without the last `/dicom-web`.

    Raises
    ------
    InvalidSettings
        `dist` holds no viewer.
    """

    def __init__(self, dist: Path, dicomweb: str) -> None:
        _require_viewer(dist)
        handler = type("Handler", (_Handler,), {"dist": dist.resolve(), "dicomweb": dicomweb})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        handler.url = self.url  # type: ignore[attr-defined]
        threading.Thread(target=self._server.serve_forever, name="viewer", daemon=True).start()

    @property
    def worklist(self) -> str:
        """The address of the list of studies."""
        return f"{self.url}/"

    def study(self, study_instance_uid: str) -> str:
        """Return the address at which a study opens."""
        return f"{self.url}/viewer?StudyInstanceUIDs={study_instance_uid}"

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


def _require_viewer(dist: Path) -> None:
    if not (dist / "index.html").is_file():
        raise InvalidSettings(f"{dist}: holds no built OHIF viewer (the folder dist of the npm package @ohif/app)")


@contextlib.contextmanager
def exhibition(dist: Path, folder: Path) -> Iterator[tuple[LocalOrthanc, ViewerServer]]:
    """Run an Orthanc in `folder`, emptied of an earlier one, and a viewer of its studies; end both on leaving.

    Raises
    ------
    InvalidSettings
        There is no viewer, no Orthanc, or no DICOMweb plugin for it.
    """
    _require_viewer(dist)  # before an Orthanc is started for it
    shutil.rmtree(folder, ignore_errors=True)
    orthanc = LocalOrthanc(folder)
    try:
        if not orthanc.has_dicomweb:
            raise InvalidSettings("Orthanc's DICOMweb plugin is not installed (Debian: apt install orthanc-dicomweb)")
        server = ViewerServer(dist, orthanc.url)
        try:
            yield orthanc, server
        finally:
            server.stop()
    finally:
        orthanc.stop()


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_arguments: Any) -> None:
        """Log nothing: an error may quote an address, and addresses hold names and UIDs."""


class _Handler(BaseHTTPRequestHandler):
    """Files of the viewer; its configuration; and everything under /dicom-web passed on."""

    dist: Path
    dicomweb: str
    url: str
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer a request."""
        path = self.path.partition("?")[0]
        try:
            if (
                f"http://{self.headers.get('Host')}" != self.url
            ):  # another site's page whose name resolves to this machine
                self._send(403, "text/plain", b"")
            elif path.startswith(f"{_PREFIX}/"):
                self._pass_on()
            elif path == "/app-config.js":
                self._send(200, "text/javascript", f"window.config = {json.dumps(_configuration(self.url))};".encode())
            else:
                self._file(path)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # a browser that changed its mind

    def _file(self, path: str) -> None:
        file = (self.dist / path.lstrip("/")).resolve()
        if not file.is_relative_to(self.dist) or not file.is_file():
            file = self.dist / "index.html"  # the viewer's own routes
        kind = "application/wasm" if file.suffix == ".wasm" else mimetypes.guess_type(file.name)[0]
        self._send(200, kind or "application/octet-stream", file.read_bytes())

    def _pass_on(self) -> None:
        headers = {name: self.headers[name] for name in _PASSED_HEADERS if name in self.headers}
        request = urllib.request.Request(f"{self.dicomweb}{self.path}", headers=headers)  # noqa: S310 - ours
        try:
            with DIRECT.open(request, timeout=60) as answer:
                reply = answer.status, answer.headers.get("Content-Type", ""), answer.read()
        except urllib.error.HTTPError as error:
            reply = error.code, "text/plain", b""
        except (OSError, ValueError, http.client.HTTPException):
            reply = 502, "text/plain", b"the DICOMweb server does not answer"
        self._send(*reply)

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        # Shared memory, which the viewer decodes with, is for isolated pages only.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        """Log nothing: addresses hold UIDs."""


def _configuration(url: str) -> dict[str, Any]:
    """Return the viewer's settings: one data source, behind the same address."""
    root = f"{url}{_PREFIX}"
    source = {
        "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
        "sourceName": "dicomweb",
        "configuration": {
            "friendlyName": "Orthanc",
            "name": "orthanc",
            "wadoUriRoot": root,
            "qidoRoot": root,
            "wadoRoot": root,
            "qidoSupportsIncludeField": False,
            "imageRendering": "wadors",
            "thumbnailRendering": "wadors",
            "enableStudyLazyLoad": True,
            "supportsFuzzyMatching": False,
            "supportsWildcard": True,
            "omitQuotationForMultipartRequest": True,
        },
    }
    return {
        "routerBasename": "/",
        "extensions": [],
        "modes": [],
        "showStudyList": True,
        "maxNumberOfWebWorkers": 2,
        "showWarningMessageForCrossOrigin": False,
        "showCPUFallbackMessage": False,
        "showLoadingIndicator": True,
        "investigationalUseDialog": {"option": "never"},
        "defaultDataSourceName": "dicomweb",
        "dataSources": [source],
    }
