"""Tells another system of a positive finding, so that a worklist can be re-ordered: JSON, signed, over HTTP."""

from __future__ import annotations

import hashlib
import hmac
import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import Dataset

from dicom_io.errors import PeerUnavailable
from dicom_io.finding import Finding, ModelIdentity
from dicom_io.header.attributes import text
from dicom_io.uids import derived_uid
from worker import __version__

KIND = "notification"
TEST = "cxrd.check"
SIGNATURE = "X-Cxrd-Signature"
_OURS = (400, 410, 413, 415, 422)  # bad request, gone, too large, media type, unprocessable: it will not pass later
_REFUSED = 0xA900


def notification(
    source: Dataset,
    finding: Finding,
    identity: ModelIdentity,
    results: list[str],
    earlier_decision: str | None = None,
) -> tuple[str, bytes]:
    """Return a finding's notification: its UID, the same each time, and its JSON.

    It names study, image and accession number, and no person: who may know more looks that up.
    """
    uid = derived_uid(text(source, "SOPInstanceUID"), str(identity), KIND)
    told: dict[str, Any] = {
        "id": uid,
        "type": "cxrd.finding",
        "finding": "PNEUMONIA",
        "decision": finding.decision,
        "earlier_decision": earlier_decision,
        "probability": round(finding.probability, 4),
        "threshold": round(finding.threshold, 4),
        "operating_point": finding.operating_point,
        "prediction_set": finding.prediction_set,
        "out_of_distribution": finding.out_of_distribution,
        "accession_number": text(source, "AccessionNumber"),
        "study_instance_uid": text(source, "StudyInstanceUID"),
        "sop_instance_uid": text(source, "SOPInstanceUID"),
        "result_sop_instance_uids": results,
        "model": identity.label,
        "notice": "For research use. Not for diagnosis.",
    }
    return uid, json.dumps(told, ensure_ascii=False, sort_keys=True).encode()


def test_notification() -> bytes:
    """Return the JSON that `cxrd check --store` sends: of a type of its own, about nothing."""
    return json.dumps({"id": derived_uid(str(uuid.uuid4()), "check", KIND), "type": TEST}, sort_keys=True).encode()


@dataclass(frozen=True)
class WebhookPeer:
    """Where notifications go, the secret that signs them, and how long we wait (seconds)."""

    url: str
    secret: str = field(default="", repr=False)
    timeout: float = 30.0


class WebhookDelivery:
    """Posts notifications to one address; it answers with the statuses of C-STORE."""

    def __init__(self, peer: WebhookPeer) -> None:
        self._peer = peer

    def accepts(self, sop_class_uid: str) -> bool:  # noqa: ARG002 - as `dicom_io.network.storage_scu.Delivery`
        """Tell that nothing is negotiated."""
        return True

    def store(self, path: Path) -> int:
        """Post one notification: 0x0000 for any HTTP 2xx, 0xA900 where it will never be taken.

        Raises
        ------
        PeerUnavailable
            Anything else: it is posted again later, so the receiver must know an `id` that it has seen.
        """
        return self.post(path.read_bytes())

    def post(self, body: bytes) -> int:
        """Post one body. Returns and raises as `store` does."""
        headers = {"Content-Type": "application/json", "User-Agent": f"cxrd/{__version__}"}
        if self._peer.secret:
            headers[SIGNATURE] = signature(self._peer.secret, body)
        # The scheme is held to http and https by the settings.
        request = urllib.request.Request(self._peer.url, body, headers, method="POST")  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=self._peer.timeout):  # noqa: S310
                return 0x0000
        except urllib.error.HTTPError as error:
            if error.code in _OURS:
                return _REFUSED
            raise PeerUnavailable(f"the webhook answers with HTTP status {error.code}") from error
        except (OSError, ValueError) as error:
            raise PeerUnavailable(f"the webhook cannot be reached ({type(error).__name__})") from error


@contextmanager
def deliver_hook(peer: WebhookPeer) -> Iterator[WebhookDelivery]:
    """Open what posts to a webhook."""
    yield WebhookDelivery(peer)


def signature(secret: str, body: bytes) -> str:
    """Return `sha256=` and the HMAC-SHA-256 of a body, hexadecimal (RFC 2104), as receivers of webhooks expect it."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
