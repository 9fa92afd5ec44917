"""Delivery of notifications to a webhook: JSON, signed, over HTTP; and what `cxrd check` asks of it."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import socket
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from dicom_io.errors import AssociationLost, PeerUnavailable
from dicom_io.finding import Answer, Finding, ModelIdentity, bounded
from dicom_io.header.attributes import text
from dicom_io.header.source_image import SourceImage
from dicom_io.network.address import address, redirection
from dicom_io.network.deadline import Limited, deadline
from dicom_io.network.status import DATASET_MISMATCH, SUCCESS, Verdict
from dicom_io.network.storage_scu import CONNECT
from dicom_io.network.tls import client_context, secured
from dicom_io.uids import derived_uid
from worker import __version__
from worker.deliver.port import Observation, Outcome, refusal
from worker.destination_settings import WebhookDestination
from worker.ledger.records import DueDelivery, Replaced
from worker.settings import Settings
from worker.storage.blobs import Blobs

KIND = "notification"
SUFFIX = ".json"
"""Of a notification's file in the store."""
TEST = "cxrd.check"
SIGNATURE = "X-Cxrd-Signature"
_NEVER = (400, 410, 413, 415, 422)  # bad request, gone, too large, media type, unprocessable: it will not pass later


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_arguments: Any) -> None:
        """Follow no redirect: the answer stays an error."""


class _Connection(Limited, http.client.HTTPConnection):
    """A connection that keeps to a deadline."""


class _SecureConnection(Limited, http.client.HTTPSConnection):
    """The same with TLS."""


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, request)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, request)


_OPENER = urllib.request.build_opener(_NoRedirects, _Http, _Https)


def notification(
    source: SourceImage,
    finding: Finding,
    identity: ModelIdentity,
    results: list[str],
    earlier_answer: Answer | None = None,
    replaced: Replaced | None = None,
) -> tuple[str, bytes]:
    """Return a finding's notification: its UID, the same each time, and its JSON.

    It names study, image and accession number, and no person: who may know more looks that up. That of a later version
    of an image also names what it replaces.
    """
    uid = derived_uid(source.uid_seed, str(identity), KIND)
    answered = finding.answered
    contents: dict[str, Any] = {
        "id": uid,
        "type": "cxrd.finding",
        "finding": "PNEUMONIA",
        "answer": finding.answer.value,
        "answer_in_words": finding.answer.sentence,
        "caution": finding.caution,
        "earlier_answer": None if earlier_answer is None else earlier_answer.value,
        "regions": [{"place": each.place, "box": list(each.box)} for each in finding.regions],
        "orientation": finding.orientation.value,
        "probability": bounded(finding.probability) if answered else None,
        "threshold": bounded(finding.threshold) if answered else None,
        "operating_point": finding.operating_point if answered else None,
        "prediction_set": finding.prediction_set if answered else None,
        "out_of_distribution": finding.out_of_distribution,
        "accession_number": text(source.patient_and_study(), "AccessionNumber"),
        "study_instance_uid": source.study_uid,
        "sop_instance_uid": source.sop_instance_uid,
        "result_sop_instance_uids": results,
        "model": identity.label,
        "notice": "For research use. Not for diagnosis.",
    }
    if replaced is not None:
        contents |= {"version": source.version.number, "replaces": asdict(replaced)}
    return uid, json.dumps(contents, ensure_ascii=False, sort_keys=True).encode()


def test_notification() -> bytes:
    """Return the JSON that `cxrd check --store` sends: of a type of its own, about nothing."""
    return json.dumps({"id": derived_uid(str(uuid.uuid4()), "check", KIND), "type": TEST}, sort_keys=True).encode()


class WebhookSender:
    """A webhook."""

    def __init__(self, destination: WebhookDestination, settings: Settings) -> None:
        del settings
        self._url = destination.webhook
        self._secret = destination.secret.get_secret_value()
        self._timeout = destination.timeout

    @contextmanager
    def open(self, due: Sequence[DueDelivery], blobs: Blobs) -> Iterator[WebhookSession]:
        """Open what posts to the webhook."""
        del due
        yield WebhookSession(self, blobs)

    def post(self, body: bytes) -> Outcome:
        """Post one body. HTTP 2xx counts as status 0x0000, and what will never be taken as 0xA900.

        A redirect is a failure: what followed it would be a GET of another page, and our signature would go along.

        Raises
        ------
        AssociationLost
            It breaks off, does not answer, or answers with 500: this body may be why.
        PeerUnavailable
            Anything else. In both cases it is posted again, so the receiver must know an `id` that it has seen.
        """
        headers = {"Content-Type": "application/json", "User-Agent": f"cxrd/{__version__}"}
        if self._secret:
            headers[SIGNATURE] = signature(self._secret, body)
        # The scheme is held to http and https by the settings.
        request = urllib.request.Request(self._url, body, headers, method="POST")  # noqa: S310 - see above
        try:
            with deadline(self._timeout), _OPENER.open(request, timeout=self._timeout):
                pass
            return Outcome(Verdict.SENT, SUCCESS)
        except urllib.error.HTTPError as error:
            with error:
                if error.code in _NEVER:
                    return refusal(f"the webhook answers with HTTP status {error.code}", DATASET_MISMATCH)
                if 300 <= error.code < 400:
                    location = redirection(error.code, error.headers.get("Location", ""))
                    raise PeerUnavailable(f"the webhook {location}") from error
                kind = AssociationLost if error.code == HTTPStatus.INTERNAL_SERVER_ERROR else PeerUnavailable
                raise kind(f"the webhook answers with HTTP status {error.code}") from error
        except (TimeoutError, ConnectionError) as error:  # after the connection was made: else it is a URLError
            raise AssociationLost(f"the webhook broke off, or did not answer ({type(error).__name__})") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise PeerUnavailable(f"the webhook cannot be reached ({type(error).__name__})") from error

    def check(self, *, closely: bool, store: bool) -> Iterator[Observation]:
        """Connect, with TLS where the address says so: a call would set something off. With `store`, call it."""
        del closely
        url = urlsplit(self._url)
        secure = url.scheme == "https"
        host, port = url.hostname or "", url.port or (443 if secure else 80)
        where = address(host, port)
        try:
            with socket.create_connection((host, port), timeout=min(self._timeout, CONNECT)) as connection:
                if secure:
                    secured(connection, host, client_context(None), where).close()
        except OSError as error:
            raise PeerUnavailable(f"{where} cannot be reached ({type(error).__name__})") from error
        tls = "TLS " if secure else ""
        yield Observation(True, f"{where} takes {tls}connections; the webhook itself was not called")
        if store:
            ok = self.post(test_notification()).verdict is Verdict.SENT
            yield Observation(ok, f"a notification of type {TEST} is {'taken' if ok else 'refused'}")


class WebhookSession:
    """What posts notifications from the store to a webhook."""

    def __init__(self, webhook: WebhookSender, blobs: Blobs) -> None:
        self._webhook = webhook
        self._blobs = blobs

    def carries(self, delivery: DueDelivery) -> bool:
        """Tell that nothing is negotiated."""
        del delivery
        return True

    def send(self, delivery: DueDelivery) -> Outcome:
        """Post one notification; see `worker.deliver.port.Session`."""
        return self._webhook.post(self._blobs.read(delivery.sha256, SUFFIX))


def signature(secret: str, body: bytes) -> str:
    """Return `sha256=` and the HMAC-SHA-256 of a body, hexadecimal (RFC 2104), as receivers of webhooks expect it."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
