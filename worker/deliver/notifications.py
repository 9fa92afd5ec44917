"""Notifications: messages about a flagged image, of each kind that a destination takes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dicom_io.errors import Unsuitable
from dicom_io.finding import Answer, Finding, ModelIdentity
from dicom_io.header.source_image import SourceImage
from worker.deliver import hl7_message, webhook
from worker.ledger.records import Replaced


@dataclass(frozen=True)
class FlaggedFinding:
    """What a notification tells.

    Attributes
    ----------
    source
        The radiograph.
    results
        SOP Instance UIDs of the result objects.
    earlier_answer
        What another model answered before, or an earlier version of the image was answered; None where there was none.
    replaced
        That earlier version; None where it is the same.
    created
        When the image was received, or when it was to be read again; aware.
    sender
        Our AE title.
    """

    source: SourceImage
    finding: Finding
    identity: ModelIdentity
    results: tuple[str, ...]
    earlier_answer: Answer | None
    created: dt.datetime
    sender: str
    replaced: Replaced | None = None


@dataclass(frozen=True)
class Notification:
    """A notification as it goes over the network: its kind, the suffix of its file, its UID, and its bytes."""

    kind: str
    suffix: str
    uid: str
    body: bytes


def _json(flagged: FlaggedFinding) -> Notification:
    uid, body = webhook.notification(
        flagged.source,
        flagged.finding,
        flagged.identity,
        list(flagged.results),
        flagged.earlier_answer,
        flagged.replaced,
    )
    return Notification(webhook.KIND, webhook.SUFFIX, uid, body)


def _hl7(flagged: FlaggedFinding) -> Notification:
    uid, body = hl7_message.message(
        flagged.source,
        flagged.finding,
        flagged.identity,
        created=flagged.created,
        sender=flagged.sender,
        earlier_answer=flagged.earlier_answer,
        replaced=flagged.replaced,
    )
    return Notification(hl7_message.KIND, hl7_message.SUFFIX, uid, body)


_MAKERS: dict[str, Callable[[FlaggedFinding], Notification]] = {webhook.KIND: _json, hl7_message.KIND: _hl7}


def make_notifications(flagged: FlaggedFinding, kinds: Iterable[str]) -> tuple[list[Notification], dict[str, str]]:
    """Return the notifications of these kinds; and the kinds that could not be made, with the reason.

    Made twice, they have the same UIDs and the same bytes.
    """
    notifications: list[Notification] = []
    left_out: dict[str, str] = {}
    for kind, make in _MAKERS.items():
        if kind in kinds:
            try:
                notifications.append(make(flagged))
            except Unsuitable as error:
                left_out[kind] = str(error)
    return notifications, left_out
