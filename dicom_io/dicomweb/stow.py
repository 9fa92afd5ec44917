"""Delivery to a DICOMweb server: STOW-RS (PS3.18 10.5), by dicomweb-client (the extra `dicomweb`)."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydicom import dcmread

from dicom_io.errors import InvalidSettings, PeerUnavailable
from dicom_io.header.attributes import integer, items
from dicom_io.network.status import Verdict, verdict_of
from dicom_io.objects.jpeg import decompress, is_jpeg_picture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydicom.dataset import Dataset

_OBJECT = (400, 409, 413, 415, 422)  # bad request, conflict, too large, media type, unprocessable: it is the object
_FAILED = 0xA900  # where the server gives no reason of its own


@dataclass(frozen=True)
class WebPeer:
    """A DICOMweb server: its base URL (before `/studies`), who we are there, and how long we wait (seconds)."""

    url: str
    username: str = ""
    password: str = field(default="", repr=False)
    timeout: float = 30.0


class StowSession:
    """A session that stores objects at one server; it answers with the statuses of C-STORE."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def accepts(self, sop_class_uid: str) -> bool:  # noqa: ARG002 - as `dicom_io.network.storage_scu.StorageAssociation`
        """Tell whether the server may take this SOP class: nothing is negotiated, so it is asked by sending."""
        return True

    def store(self, path: Path) -> int:
        """Send one object and return 0x0000, a warning, or the server's Failure Reason (PS3.18 table 10.5.3-1).

        Raises
        ------
        PeerUnavailable
            The server does not answer, is busy, or has nothing to do with us.
        """
        dataset = dcmread(path)
        status = self._send(dataset)
        if verdict_of(status) is Verdict.REFUSED and is_jpeg_picture(dataset):
            decompress(dataset)  # it may be the syntax that the server does not take
            status = self._send(dataset)
        return status

    def _send(self, dataset: Dataset) -> int:
        import requests

        try:
            answer = self._client.store_instances([dataset])
        except requests.HTTPError as error:
            return _refusal(error.response)
        except (requests.RequestException, OSError) as error:
            raise PeerUnavailable(f"the server cannot be reached ({type(error).__name__})") from error
        failed = items(answer, "FailedSOPSequence")
        if failed:
            return integer(failed[0], "FailureReason") or _FAILED
        warned = [integer(each, "WarningReason") for each in items(answer, "ReferencedSOPSequence")]
        return next((reason for reason in warned if reason), 0x0000)


def _refusal(response: Any) -> int:
    """Turn an HTTP status of 400 and up into a status of C-STORE where it is about the object, else into an error."""
    code = response.status_code
    if code in _OBJECT:
        try:  # the body may say why: Failed SOP Sequence, Failure Reason
            return int(response.json()["00081198"]["Value"][0]["00081197"]["Value"][0])
        except (ValueError, LookupError, TypeError):
            return _FAILED
    # Wrong credentials and addresses too: like an AE title that is not known, someone will put them right.
    raise PeerUnavailable(f"the server answers with HTTP status {code}")


def require() -> None:
    """Raise InvalidSettings where dicomweb-client is not installed."""
    try:
        import dicomweb_client  # noqa: F401
    except ModuleNotFoundError as error:
        raise InvalidSettings(f"a DICOMweb destination needs {error.name}: pip install 'cxrd[dicomweb]'") from error


@contextmanager
def stow_session(peer: WebPeer) -> Iterator[StowSession]:
    """Open a session with a server, and close it at the end."""
    client, session = open_client(peer)
    try:
        yield StowSession(client)
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
        with in_words():
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
            raise PeerUnavailable("the server does not answer as a DICOMweb server does") from error
        raise PeerUnavailable(f"the server cannot be reached ({type(error).__name__})") from error
    except (requests.RequestException, ValueError) as error:
        raise PeerUnavailable("the server does not answer as a DICOMweb server does") from error


def _plain_queries() -> Any:
    """Return what sends requests, with their queries as RFC 3986 has them.

    dicomweb-client writes them as forms are written: a space as a plus sign, which is one in a URI, and wild cards
    escaped, which some servers then do not know (Orthanc's plugin 1.7 decodes nothing).
    """
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def send(self, request: Any, *arguments: Any, **options: Any) -> Any:
            path, mark, query = request.url.partition("?")
            for form, plain in (("+", "%20"), ("%2A", "*"), ("%3F", "?")):
                query = query.replace(form, plain)
            request.url = path + mark + query
            return super().send(request, *arguments, **options)

    return Adapter()


def open_client(peer: WebPeer) -> tuple[Any, Any]:
    """Return a client of dicomweb-client for a server, and its session, to be closed by the caller."""
    from dicomweb_client import DICOMwebClient
    from dicomweb_client.session_utils import create_session, create_session_from_user_pass

    # Its log names UIDs, and tells each step; the outbox tells what counts.
    logging.getLogger("dicomweb_client").setLevel(logging.ERROR)
    login = (peer.username, peer.password)
    session = create_session_from_user_pass(*login) if peer.username else create_session()
    session.mount(peer.url, _plain_queries())
    # In one piece: some servers take no chunked requests. The outbox repeats what failed, at its own pace.
    client = DICOMwebClient(peer.url, session=session, chunk_size=1 << 31, timeout=peer.timeout, permissive_uid=True)
    client.set_http_retry_params(retry=False)
    return client, session
