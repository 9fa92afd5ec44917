"""Harnesses on what servers answer us: HL7 acknowledgements, STOW-RS, QIDO-RS, WADO-RS and webhooks."""

from __future__ import annotations

import json
import socket
import tempfile
from pathlib import Path
from random import Random

from dicom_io.dicomweb.stow import WebPeer, stow_session
from dicom_io.dicomweb.wado import web_archive
from dicom_io.errors import CxrdError
from dicom_io.network import status
from dicom_io.network.query_retrieve import Query, Receipt, Series
from dicom_io.network.spool_file import Limits
from dicom_io.network.storage_scp import Arrival
from tests.fuzz.harness import Fault, promised
from tests.fuzz.listener import Listener
from tests.fuzz.mutation import WORDS, damaged
from tests.fuzz.samples import data_set, file_of, names
from tests.support.mllp import acknowledgement
from worker.deliver.mllp import Hl7Peer, connect
from worker.deliver.webhook import WebhookSender
from worker.destination_settings import WebhookDestination
from worker.settings import Settings

SECONDS = 5.0
"""That we wait for an answer; the server closes the connection when it has sent its own."""
CONTROL = "CONTROL1"
_MESSAGE = f"MSH|^~\\&|CXRD||RIS||20260101||ORU^R01^ORU_R01|{CONTROL}|P|2.5.1\rPID|1\r".encode()
_STATUSES = (100, 101, 200, 200, 200, 202, 204, 206, 301, 304, 307, 400, 401, 406, 409, 413, 500, 503, 599, 999)


class Server(Listener):
    """Answers each connection with the same bytes, whatever comes, when a request seems to be complete."""

    def __init__(self) -> None:
        self.answer = b""
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        """Answer once."""
        connection.settimeout(SECONDS)
        self._read(connection)
        connection.sendall(self.answer)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(0.05)
        connection.recv(1 << 16)  # the client's end, or its next request, for which there is a next connection

    @staticmethod
    def _read(connection: socket.socket) -> None:
        data = b""
        while more := connection.recv(1 << 16):
            data += more
            head, blank, body = data.partition(b"\r\n\r\n")
            length = next(
                (int(each[15:]) for each in head.lower().split(b"\r\n") if each[:15] == b"content-length:"), 0
            )
            if data.endswith(b"\x1c\r") or (blank and len(body) >= length):
                return


class _Asked:
    """What these harnesses have in common."""

    bound_mb = 100.0
    children = 0

    def __init__(self) -> None:
        self._server = Server()
        self._folder = tempfile.TemporaryDirectory(dir=Path.cwd().parent)

    def run(self, data: bytes) -> str:
        """Ask the server that answers so."""
        self._server.answer = data
        with promised(CxrdError) as ends:
            ends.append(self.ask())
        return ends[0]

    def ask(self) -> str:
        """Ask, and return how it ended."""
        raise NotImplementedError

    def leftovers(self) -> list[str]:
        """Return files of transfers that are over."""
        return [each.name for each in Path(self._folder.name).iterdir()]

    def close(self) -> None:
        """Stop the server."""
        self._server.close()
        self._folder.cleanup()


class Acknowledgements(_Asked):
    """HL7 acknowledgements."""

    def case(self, chance: Random) -> bytes:
        """Return a framed acknowledgement with damage."""
        code = chance.choice(("AA", "AE", "AR", "CA", "CE", "CR", "XX"))
        more = chance.choice(("", "ERR|||207^x^HL70357|E\r", "ERR|PID^1^5^101&x\r", "ERR|" + "|" * 99 + "\r"))
        answer = acknowledgement(code, CONTROL, more, field=chance.choice("||||^*\x1c"))
        words = (
            *WORDS[:30],
            b"\x0b",
            b"\x1c\r",
            b"\x1c",
            b"\r",
            b"MSH|",
            b"MSA|AA|" + CONTROL.encode(),
            b"ERR",
            b"|" * 999,
        )
        return damaged(answer * chance.choice((1, 1, 1, 2)), chance, words) if chance.random() < 0.95 else answer

    def ask(self) -> str:
        """Send a message."""
        with connect(Hl7Peer("127.0.0.1", self._server.port, "RIS", timeout=SECONDS)) as connection:
            return connection.send(_MESSAGE)


def http(chance: Random, kind: str, body: bytes) -> bytes:
    """Return an answer of HTTP; its head may be odd."""
    code = chance.choice(_STATUSES) if chance.random() < 0.4 else 200
    lines = [f"HTTP/1.1 {code} x".encode(), b"Content-Type: " + kind.encode()]
    way = chance.randrange(8)
    if way < 5:
        length = chance.choice((0, 1, len(body) + 1, 2**63, -1)) if way == 4 else len(body)
        lines.append(f"Content-Length: {length}".encode())
    elif way == 5:
        lines.append(b"Transfer-Encoding: chunked")
        body = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    if chance.random() < 0.15:
        lines.append(b"Content-Encoding: " + chance.choice((b"gzip", b"deflate", b"x", b"gzip, gzip")))
    if chance.random() < 0.2:
        lines.append(b"Location: " + chance.choice((b"/", b"http://[", b"http://127.0.0.1:1/x", b"\xff")))
    whole = b"\r\n".join([*lines, b"", body])
    if chance.random() < 0.3:
        head = len(b"\r\n".join(lines))
        whole = damaged(whole[:head], chance, _HTTP) + whole[head:]
    return whole


_HTTP = (
    *WORDS[:30],
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b": ",
    b"HTTP/0.9",
    b"Set-Cookie: " + b"x" * 5000,
    b"\r\n" + b"x: y\r\n" * 200,
)
_JSON = (
    *WORDS[:30],
    b"[" * 2000,
    b"{",
    b"}",
    b"null",
    b"1e999",
    b'"',
    b'"\\ud800"',
    b"NaN",
    b'"Value":',
    b"[]",
    b'"vr":"SQ"',
)


class Stow(_Asked):
    """Answers to STOW-RS."""

    def __init__(self) -> None:
        super().__init__()
        self._file = tempfile.TemporaryDirectory(dir=Path.cwd().parent)
        self._path = Path(self._file.name, "object.dcm")
        self._path.write_bytes(file_of(data_set()))
        self._uid = names()[1]
        self._peer = WebPeer(f"http://127.0.0.1:{self._server.port}/dicom-web", timeout=SECONDS)

    def case(self, chance: Random) -> bytes:
        """Return a Store Instances Response with damage."""
        tag, reason = chance.choice((("00081199", "00081196"), ("00081198", "00081197")))
        code = chance.choice((0, 0xB000, 0x0110, 0xA700, 0xC000, 0xFFFFFFFFFF))
        uid = chance.choice((self._uid, self._uid, "", "1.2.3"))
        if chance.random() < 0.6:
            about = {"00081155": {"vr": "UI", "Value": [uid]}, reason: {"vr": "US", "Value": [code]}}
            body = json.dumps({tag: {"vr": "SQ", "Value": [about]}}).encode()
            return http(chance, "application/dicom+json", damaged(body, chance, _JSON))
        kind = chance.choice(("application/dicom+xml", "text/xml", "text/html"))
        attribute = '<DicomAttribute tag="{}" vr="{}"><Value number="1">{}</Value></DicomAttribute>'
        item = attribute.format("00081155", "UI", uid) + attribute.format(reason, "US", code)
        body = (
            '<?xml version="1.0" encoding="UTF-8"?><NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/Native'
            f'DICOM"><DicomAttribute tag="{tag}" vr="SQ"><Item number="1">{item}</Item></DicomAttribute>'
            "</NativeDicomModel>"
        ).encode()
        words = (
            *WORDS[:30],
            b"<!DOCTYPE x [<!ENTITY a 'b'>]>",
            b"&a;",
            b"<a>" * 2000,
            b"<![CDATA[",
            b"]]>",
            b'encoding="utf-7"',
        )
        return http(chance, kind, damaged(body, chance, words))

    def ask(self) -> str:
        """Store an object."""
        with stow_session(self._peer) as session:
            code = session.store(self._path)
        if not 0 <= code <= 0xFFFF:
            raise Fault(f"a status of {code}")
        return f"0x{code:04X}"

    def close(self) -> None:
        """Stop the server."""
        super().close()
        self._file.cleanup()


def _match(chance: Random) -> bytes:
    """Return a search's answer, of several matches."""
    uid = {f"0020000{each}": {"vr": "UI", "Value": [f"1.2.{each}"]} for each in "DE"}
    about = {"00080018": {"vr": "UI", "Value": ["1.2.8"]}, "00080060": {"vr": "CS", "Value": ["DX"]}}
    odd = {
        "00101010": {"vr": "AS", "Value": ["004Y"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "A^B"}]},
        "00081140": {"vr": "SQ", "Value": [uid]},
        "7FE00010": {"vr": "OW", "InlineBinary": "AAAA"},
        "00280030": {"vr": "DS", "Value": [0.1, "x"]},
        "00080061": {"vr": "CS", "Value": ["DX", "CR"]},
        "00280010": {"vr": "US", "BulkDataURI": "http://127.0.0.1:1/x"},
    }
    some = dict(chance.sample(list(odd.items()), chance.randrange(4)))
    return json.dumps([uid | about | some] * chance.choice((1, 1, 2))).encode()


class Qido(_Asked):
    """Answers to a search by QIDO-RS."""

    def __init__(self) -> None:
        super().__init__()
        self._peer = WebPeer(f"http://127.0.0.1:{self._server.port}/dicom-web", timeout=SECONDS)

    def case(self, chance: Random) -> bytes:
        """Return the answer to a search with damage."""
        body = damaged(_match(chance), chance, _JSON) if chance.random() < 0.9 else _match(chance)
        return http(chance, chance.choice(("application/dicom+json", "application/json", "text/html")), body)

    def ask(self) -> str:
        """Search for studies, series and instances."""
        receipt = Receipt(lambda _: status.SUCCESS, Path(self._folder.name), "CXRD")
        with web_archive(self._peer, receipt, "WEB") as archive:
            found = list(archive.series(Query(), ("DX", "CR")))
            for each in found[:1]:
                archive.instances(each)
        return f"{min(len(found), 2)} series"


class Wado(_Asked):
    """Answers to a retrieval by WADO-RS."""

    def __init__(self) -> None:
        super().__init__()
        self._peer = WebPeer(f"http://127.0.0.1:{self._server.port}/dicom-web", timeout=SECONDS)

    def case(self, chance: Random) -> bytes:
        """Return an object in a multipart answer, with damage to either."""
        data = file_of(data_set(16, 16))
        if chance.random() < 0.4:
            data = damaged(data, chance)
        body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n--b--\r\n"
        if chance.random() < 0.6:
            words = (b"--b", b"--b--", b"\r\n--b\r\n", b"\r\n\r\n", b"--", b"\r\n")
            body = damaged(body[:60], chance, words) + damaged(body[60:], chance, words)
        quoted = chance.choice(("b", '"b"', "", '"', "b" * 2000, "\u00ff"))
        kind = f'multipart/related; type="application/dicom"; boundary={quoted if chance.random() < 0.3 else "b"}'
        return http(chance, chance.choice((kind, kind, kind, "application/dicom", "text/html")), body)

    def ask(self) -> str:
        """Fetch an object."""
        sizes: list[int] = []

        def receive(arrival: Arrival) -> int:
            sizes.append(arrival.file.size)
            return status.SUCCESS

        receipt = Receipt(receive, Path(self._folder.name), "CXRD", Limits(1, lambda: None))
        with web_archive(self._peer, receipt, "WEB") as archive:
            fault = archive.fetch(Series("1.2.1", "1.2.2", "DX"), ["1.2.8"])
        return "not fetched" if fault else "fetched"


class Webhooks(_Asked):
    """Answers of a webhook."""

    def __init__(self) -> None:
        super().__init__()
        about = {"name": "hook", "webhook": f"http://127.0.0.1:{self._server.port}/x", "timeout": SECONDS}
        self._sender = WebhookSender(WebhookDestination.model_validate(about), Settings())

    def case(self, chance: Random) -> bytes:
        """Return an answer of HTTP."""
        return http(chance, "text/plain", chance.choice(WORDS))

    def ask(self) -> str:
        """Post a notification."""
        return str(self._sender.post(b"{}").verdict)
