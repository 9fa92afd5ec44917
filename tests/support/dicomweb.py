"""A small DICOMweb server for the tests: QIDO-RS and WADO-RS over objects in memory, and faults to be chosen."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydicom import Dataset

from dicom_io.objects.common import encode

BOUNDARY = "=_part 1"


class WebServer:
    """Answers from `objects`; what stands in `faults` for a SOP instance decides how it is given away.

    Faults: an HTTP status; `cut` (the connection ends in the middle), `open` (no last delimiter), `garbage`, `empty`,
    `bare` (no multipart), `plain-only` (406 for any transfer syntax), `stall` (half of it, then silence until `go`); or
    bytes, sent in place of the object.
    """

    def __init__(self, objects: list[Dataset]) -> None:
        self.objects = {str(each.SOPInstanceUID): (each, encode(each)) for each in objects}
        self.faults: dict[str, Any] = {}
        self.login = ""
        self.page = 1000  # matches in an answer, at most
        self.knows_offset = True
        self.requests: list[str] = []
        self.accept_headers: list[str] = []
        self.stalled, self.go = threading.Event(), threading.Event()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"server_": self}))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/dicom-web"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def retrieved(self) -> list[str]:
        """Return the SOP instances that were requested, in order."""
        return [path.rpartition("/")[2] for path in self.requests if "/instances/" in path]

    def stop(self) -> None:
        """Stop serving."""
        self.go.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server_: WebServer

    def do_GET(self) -> None:
        self.server_.requests.append(self.path)
        self.server_.accept_headers.append(self.headers["Accept"])
        expected = "Basic " + base64.b64encode(self.server_.login.encode()).decode()
        if self.server_.login and self.headers.get("Authorization") != expected:
            self.give(401, "text/plain", b"")
            return
        parts = urlsplit(self.path).path.removeprefix("/dicom-web/").split("/")
        if len(parts) == 6:
            self.instance(parts[5])
        else:
            self.matches(parts, parse_qs(urlsplit(self.path).query))

    def matches(self, parts: list[str], query: dict[str, list[str]]) -> None:
        level = {"studies": "StudyInstanceUID", "series": "SeriesInstanceUID", "instances": "SOPInstanceUID"}
        keyword = level[parts[-1]]
        matching: dict[str, dict[str, Any]] = {}
        for each, _ in self.server_.objects.values():
            within = [each.StudyInstanceUID, each.SeriesInstanceUID][: len(parts) // 2]
            if parts[1::2] != within or not fits(each, query):
                continue
            match = Dataset()
            match.StudyInstanceUID, match.SeriesInstanceUID = each.StudyInstanceUID, each.SeriesInstanceUID
            match.SOPInstanceUID, match.Modality = each.SOPInstanceUID, each.Modality
            matching[each[keyword].value] = match.to_json_dict()
        first = int(query.get("offset", ["0"])[0]) if self.server_.knows_offset else 0
        some = list(matching.values())[first : first + min(self.server_.page, int(query.get("limit", ["9999"])[0]))]
        self.give(200, "application/dicom+json", json.dumps(some).encode())

    def instance(self, uid: str) -> None:
        fault = self.server_.faults.get(uid)
        if uid not in self.server_.objects or isinstance(fault, int):
            self.give(fault or 404, "text/plain", b"")
            return
        if fault == "plain-only" and "transfer-syntax" in self.headers["Accept"]:
            self.give(406, "text/plain", b"")
            return
        data = self.server_.objects[uid][1]
        data = fault if isinstance(fault, bytes) else {"garbage": b"x" * 999, "empty": b""}.get(str(fault), data)
        if fault == "bare":
            self.give(200, "application/dicom", data)
            return
        end = b"" if fault == "open" else f"\r\n--{BOUNDARY}--\r\n".encode()
        body = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + data + end
        kind = f'multipart/related; type="application/dicom"; boundary="{BOUNDARY}"'
        self.give(200, kind, body, broken=fault if fault in ("cut", "stall") else "")

    def give(self, status: int, kind: str, body: bytes, broken: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if broken else body)
        if broken == "stall":
            self.wfile.flush()
            self.server_.stalled.set()
            self.server_.go.wait(60)
            self.wfile.write(body[len(body) // 2 :])

    def log_message(self, *_arguments: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_arguments: Any) -> None:
        pass


def fits(dataset: Dataset, query: dict[str, list[str]]) -> bool:
    """Tell whether a dataset matches what a query says of these attributes."""
    for keyword in ("PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        if keyword in query and str(dataset.get(keyword, "")) != query[keyword][0]:
            return False
    low, dash, high = query.get("StudyDate", [""])[0].partition("-")
    if not low and not high:
        return True
    return low <= str(dataset.StudyDate) <= (high or ("99999999" if dash else low))


@contextmanager
def dicomweb(objects: list[Dataset]) -> Iterator[WebServer]:
    """Run a `WebServer` for the length of a block."""
    server = WebServer(objects)
    try:
        yield server
    finally:
        server.stop()
