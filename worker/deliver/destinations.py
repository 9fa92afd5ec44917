"""The kinds of destination: for each the sender that reaches it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worker.deliver.dicom import DicomSender
from worker.deliver.dicomweb import DicomwebSender
from worker.deliver.hl7 import Hl7Sender
from worker.deliver.port import Sender
from worker.deliver.webhook import WebhookSender
from worker.destination_settings import (
    BaseDestination,
    Destination,
    DicomDestination,
    DicomwebDestination,
    Hl7Destination,
    WebhookDestination,
)
from worker.settings import Settings

_SENDERS: dict[type[BaseDestination], Callable[[Any, Settings], Sender]] = {
    DicomDestination: DicomSender,
    DicomwebDestination: DicomwebSender,
    WebhookDestination: WebhookSender,
    Hl7Destination: Hl7Sender,
}


def sender_of(destination: Destination, settings: Settings) -> Sender:
    """Return what reaches a destination.

    Raises
    ------
    InvalidSettings
        A library is missing that its protocol or its compression needs, or its `ca_file` cannot be used.
    """
    return _SENDERS[type(destination)](destination, settings)
