"""Delivery to a DICOMweb server: STOW-RS (PS3.18 10.5), and what all requests to one have in common.

No redirect is followed, since credentials and patients' data would go along. Answers are read up to a size.
"""

from __future__ import annotations

import io
import logging
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pydicom import dcmread, dcmwrite

from dicom_io.dicomweb.store_response import store_response
from dicom_io.errors import AssociationLost, InvalidSettings, NotNow, PeerUnavailable
from dicom_io.network.address import redirection
from dicom_io.network.deadline import Deadline, Limited, deadline
from dicom_io.network.status import SUCCESS, Verdict, verdict_of
from dicom_io.objects.jpeg import decompress, is_jpeg_picture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydicom.dataset import Dataset

_OBJECT = (400, 409, 413, 415, 422)  # bad request, conflict, too large, media type, unprocessable: it is the object
_FAILED = 0xA900  # where the server gives no reason of its own
_MOST_STORED = 4 * 1024 * 1024
"""Bytes of an answer to a store transaction, at most: it is about one object."""
_MOST_FOUND = 32 * 1024 * 1024
"""Bytes of an answer to a search, at most: some servers give all matches at once."""
_CHUNK = 1 << 16
_NO_SERVER = "the server does not answer as a DICOMweb server does"


@dataclass(frozen=True)
class WebPeer:
    """A DICOMweb server: its base URL (before `/studies`), who we are there, and how long we wait (seconds)."""

    url: str
    username: str = ""
    password: str = field(default="", repr=False)
    timeout: float = 30.0


class StowSession:
    """A session that stores objects at one server; it answers with the statuses of C-STORE."""

    def __init__(self, session: Any, peer: WebPeer) -> None:
        self._session = session
        self._peer = peer

    def accepts(self, sop_class_uid: str) -> bool:  # noqa: ARG002 - as `dicom_io.network.storage_scu.StorageAssociation`
        """Tell whether the server may take this SOP class: nothing is negotiated, so it is asked by sending."""
        return True

    def store(self, path: Path) -> int:
        """Send one object and return 0x0000, a warning, or the server's Failure Reason (PS3.18 table 10.5.3-1).

        It is 0x0000 or a warning only if the server names our object among those that it has stored.

        Raises
        ------
        AssociationLost
            The server breaks off, does not answer, or answers with 500: this object may be why.
        PeerUnavailable
            It cannot be reached, is busy, points elsewhere, or is no DICOMweb server.
        NotNow
            It answers, but not about this object.
        """
        dataset = dcmread(path)
        status = self._send(dataset, path.read_bytes())
        if verdict_of(status) is Verdict.REFUSED and is_jpeg_picture(dataset):
            decompress(dataset)  # it may be the syntax that the server does not take
            with io.BytesIO() as file:
                dcmwrite(file, dataset)
                status = self._send(dataset, file.getvalue())
        return status

    def _send(self, dataset: Dataset, data: bytes) -> int:
        boundary = uuid.uuid4().hex
        body = b"\r\n".join(
            (f"--{boundary}".encode(), b"Content-Type: application/dicom", b"", data, f"--{boundary}--\r\n".encode())
        )
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
        }
        place = f"{self._peer.url.rstrip('/')}/studies"
        timeout = self._peer.timeout
        with deadline(timeout) as limit:
            with _lost_or_unavailable(), in_words():
                # In one piece: some servers take no chunked requests.
                answer = self._session.post(place, data=body, headers=headers, timeout=timeout, stream=True)
            with answer:
                return _status_of(answer, str(dataset.SOPInstanceUID), limit)


def _status_of(answer: Any, uid: str, limit: Deadline) -> int:
    """Turn an answer about an object into a status of C-STORE. Raises as `StowSession.store` does."""
    code = answer.status_code
    if code in _OBJECT:
        return _refusal(answer, uid, limit)
    if not 200 <= code < 300:
        # Wrong credentials and addresses too: like an AE title that is not known, someone will put them right.
        kind = AssociationLost if code == HTTPStatus.INTERNAL_SERVER_ERROR else PeerUnavailable
        raise kind(f"the server answers with HTTP status {code}")
    try:
        response = store_response(answer.headers.get("Content-Type", ""), _body(answer, limit))
    except ValueError as error:  # the page of somebody who stands between, such as a login
        raise PeerUnavailable(_NO_SERVER) from error
    reason = response.failed.get(uid, response.failed.get(""))
    if reason is not None:
        if reason and verdict_of(reason) is Verdict.SENT:
            raise NotNow(f"the server counts this object as failed, and gives status 0x{reason:04X}")
        return reason or _FAILED
    if uid not in response.stored:
        raise NotNow("the server does not say that it has stored this object")
    warning = response.stored[uid]
    return warning if verdict_of(warning) is Verdict.SENT else SUCCESS  # it has the object, whatever it warns of


def _refusal(answer: Any, uid: str, limit: Deadline) -> int:
    """Return why an object was refused, by an answer that is about it."""
    try:  # the body may say why: Failed SOP Sequence, Failure Reason
        failed = store_response(answer.headers.get("Content-Type", ""), _body(answer, limit)).failed
    except (ValueError, PeerUnavailable):
        return _FAILED
    reason = failed.get(uid) or failed.get("") or _FAILED
    return _FAILED if verdict_of(reason) is Verdict.SENT else reason


def _body(answer: Any, limit: Deadline) -> bytes:
    """Return the body of an answer to a store transaction.

    Raises
    ------
    AssociationLost
        It does not come in time, or not whole.
    PeerUnavailable
        It is too long.
    """
    from urllib3.exceptions import HTTPError

    body = bytearray()
    try:
        while piece := answer.raw.read1(_CHUNK, decode_content=True):
            body += piece
            if len(body) > _MOST_STORED:
                raise PeerUnavailable(f"the server's answer is longer than {_MOST_STORED} bytes")
    except (HTTPError, OSError) as error:
        if limit.is_over:
            raise AssociationLost("the server's answer does not come in time") from error
        raise AssociationLost(f"the server's answer broke off ({type(error).__name__})") from error
    return bytes(body)


@contextmanager
def _lost_or_unavailable() -> Iterator[None]:
    """Tell a server that broke off, or did not answer, from one that could not be reached."""
    import requests
    from urllib3.exceptions import ProtocolError

    try:
        yield
    except PeerUnavailable as error:
        cause = error.__cause__
        broke_off = isinstance(cause, requests.ConnectionError) and isinstance(
            next(iter(cause.args), None), ProtocolError
        )
        if broke_off or isinstance(cause, requests.ReadTimeout):
            raise AssociationLost(f"the server broke off, or did not answer ({type(cause).__name__})") from error
        raise


def require() -> None:
    """Raise InvalidSettings where dicomweb-client is not installed."""
    try:
        import dicomweb_client  # noqa: F401
    except ModuleNotFoundError as error:
        raise InvalidSettings(f"a DICOMweb destination needs {error.name}: pip install 'cxrd[dicomweb]'") from error


@contextmanager
def stow_session(peer: WebPeer) -> Iterator[StowSession]:
    """Open a session with a server, and close it at the end."""
    with in_words():
        _, session = open_client(peer)
    try:
        yield StowSession(session, peer)
    finally:
        session.close()


def reach(peer: WebPeer) -> None:
    """Verify that the server answers a search for studies (QIDO-RS, PS3.18 10.6).

    Raises
    ------
    PeerUnavailable
        It does not, or not with success.
    """
    client, session = open_client(peer)
    try:
        with in_words(), deadline(peer.timeout):
            client.search_for_studies(limit=1)
    finally:
        session.close()


@contextmanager
def in_words() -> Iterator[None]:
    """Turn what a request raises into PeerUnavailable; never quoting an address, which may hold a patient's ID."""
    import requests

    try:
        yield
    except requests.HTTPError as error:
        code = getattr(error.response, "status_code", None)
        raise PeerUnavailable(f"the server answers with HTTP status {code}") from error
    except (requests.ConnectionError, requests.Timeout, OSError) as error:
        # A requests.JSONDecodeError is an OSError too.
        if isinstance(error, ValueError):
            raise PeerUnavailable(_NO_SERVER) from error
        raise PeerUnavailable(f"the server cannot be reached ({type(error).__name__})") from error
    except (requests.RequestException, ValueError, RecursionError) as error:  # the last: JSON in itself, too deep
        raise PeerUnavailable(_NO_SERVER) from error


def _adapter() -> Any:
    """Return what sends requests: queries as RFC 3986 has them, no redirects, answers up to a size and in time.

    dicomweb-client writes queries as forms are written: a space as a plus sign, which is one in a URI, and wild cards
    escaped, which some servers then do not know (Orthanc's plugin 1.7 decodes nothing).
    """
    from requests.adapters import HTTPAdapter
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Connection(Limited, HTTPConnection):
        pass

    class SecureConnection(Limited, HTTPSConnection):
        pass

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = SecureConnection

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            super().init_poolmanager(*arguments, **options)
            self.poolmanager.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}

        def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
            manager = super().proxy_manager_for(*arguments, **options)
            manager.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}
            return manager

        def send(self, request: Any, stream: bool = False, *arguments: Any, **options: Any) -> Any:
            path, mark, query = request.url.partition("?")
            for form, plain in (("+", "%20"), ("%2A", "*"), ("%3F", "?")):
                query = query.replace(form, plain)
            request.url = path + mark + query
            answer = super().send(request, stream, *arguments, **options)
            if 300 <= answer.status_code < 400:
                answer.close()
                raise PeerUnavailable(
                    f"the server {redirection(answer.status_code, answer.headers.get('Location', ''))}"
                )
            if not stream:  # it is about to be read whole
                answer.raw = _Bounded(answer.raw)
            return answer

    return Adapter()


class _Bounded:
    """The body of an answer, which ends with an error where it is too long; all else is as it was."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def stream(self, amount: int, decode_content: bool | None = None) -> Iterator[bytes]:
        """Yield pieces as `urllib3.response.HTTPResponse.stream` does."""
        length = 0
        for piece in self._raw.stream(amount, decode_content=decode_content):
            length += len(piece)
            if length > _MOST_FOUND:
                raise PeerUnavailable(f"the server's answer is longer than {_MOST_FOUND} bytes")
            yield piece

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def open_client(peer: WebPeer) -> tuple[Any, Any]:
    """Return a client of dicomweb-client for a server, and its session, to be closed by the caller."""
    from dicomweb_client import DICOMwebClient
    from dicomweb_client.session_utils import create_session, create_session_from_user_pass

    # Its log names UIDs, and tells each step; the outbox tells what counts.
    logging.getLogger("dicomweb_client").setLevel(logging.ERROR)
    login = (peer.username, peer.password)
    session = create_session_from_user_pass(*login) if peer.username else create_session()
    for scheme in ("http://", "https://"):  # whatever is asked for
        session.mount(scheme, _adapter())
    # The outbox repeats what failed, at its own pace.
    client = DICOMwebClient(peer.url, session=session, timeout=peer.timeout, permissive_uid=True)
    client.set_http_retry_params(retry=False)
    return client, session
