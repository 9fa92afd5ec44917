"""What storage commitment says: requests, reports and reasons, and their data sets (PS3.4 J.3, PS3.3 C.14)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from pydicom.dataset import Dataset
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from dicom_io.errors import NotNow, UnreadableObject
from dicom_io.header.attributes import integer, items, text

PUSH_MODEL = StorageCommitmentPushModel
PUSH_INSTANCE = StorageCommitmentPushModelInstance
"""The one well-known instance that every request and report is about (PS3.4 J.3.5)."""
REQUEST = 1
"""Action Type ID of a request (PS3.4 J.3.2)."""
COMPLETE, WITH_FAILURES = 1, 2
"""Event Type IDs of a report (PS3.4 J.3.3): all instances are kept, or some are not."""
_UID = re.compile(r"[0-9.]{1,64}")


class FailureReason(IntEnum):
    """Why a node does not commit to an instance (PS3.3 C.14.1.1)."""

    PROCESSING_FAILURE = 0x0110  # a general failure
    NO_SUCH_INSTANCE = 0x0112  # it does not have it
    CLASS_CONFLICT = 0x0119  # it has it with another SOP class
    CLASS_NOT_SUPPORTED = 0x0122  # it commits to no instance of this SOP class
    DUPLICATE_TRANSACTION = 0x0131  # the transaction's UID is in use
    RESOURCE_LIMITATION = 0x0213  # it lacks the room, now


_WORDS: dict[int, str] = {
    FailureReason.PROCESSING_FAILURE: "a failure in processing",
    FailureReason.NO_SUCH_INSTANCE: "the node does not have it",
    FailureReason.CLASS_CONFLICT: "the node has it with another SOP class",
    FailureReason.CLASS_NOT_SUPPORTED: "the node does not commit to this SOP class",
    FailureReason.DUPLICATE_TRANSACTION: "the transaction UID is in use",
    FailureReason.RESOURCE_LIMITATION: "the node lacks the resources",
}


class Reference(NamedTuple):
    """An instance that a request or a report names."""

    sop_class_uid: str
    sop_instance_uid: str


class Failed(NamedTuple):
    """An instance that a node does not commit to, and the Failure Reason (0008,1197) that it gives."""

    reference: Reference
    reason: int


@dataclass(frozen=True)
class Request:
    """What a requestor asks for: references to instances, under the transaction's UID."""

    transaction_uid: str
    references: tuple[Reference, ...]


@dataclass(frozen=True)
class Report:
    """What a node says of a request.

    Attributes
    ----------
    transaction_uid
        The request's.
    committed, failed
        What the node keeps, and what it does not. No instance is in both: one that the node names in both has failed.
    sender
        The AE title that says so; empty where the report is ours.
    """

    transaction_uid: str
    committed: tuple[Reference, ...]
    failed: tuple[Failed, ...] = ()
    sender: str = ""


def failure_words(reason: int) -> str:
    """Return a Failure Reason in words, with its number."""
    words = _WORDS.get(reason, "a reason that the standard does not name")
    return f"{words} (0x{reason:04X})"


# ---- data sets -------------------------------------------------------------------------------------------------------


def request_dataset(request: Request) -> Dataset:
    """Return the Action Information of a request (PS3.4 table J.3-1)."""
    dataset = Dataset()
    dataset.TransactionUID = request.transaction_uid
    dataset.ReferencedSOPSequence = [_item(each) for each in request.references]
    return dataset


def report_dataset(report: Report) -> Dataset:
    """Return the Event Information of a report (PS3.4 table J.3-2)."""
    dataset = Dataset()
    dataset.TransactionUID = report.transaction_uid
    if report.committed:
        dataset.ReferencedSOPSequence = [_item(each) for each in report.committed]
    if report.failed:
        dataset.FailedSOPSequence = [_item(each.reference, each.reason) for each in report.failed]
    return dataset


def request_of(dataset: Dataset, most: int) -> Request:
    """Read the Action Information of a request.

    Parameters
    ----------
    most
        References to be taken at most.

    Raises
    ------
    UnreadableObject
        It lacks the transaction's UID or references, or one of them is none.
    NotNow
        There are too many references.
    """
    members = items(dataset, "ReferencedSOPSequence")
    if not members:
        raise UnreadableObject("there is no Referenced SOP Sequence")
    if len(members) > most:
        raise NotNow(f"more than {most} references")
    references = tuple(dict.fromkeys(_reference(each) for each in members))
    return Request(_transaction_uid(dataset), references)


def report_of(dataset: Dataset, sender: str = "") -> Report:
    """Read the Event Information of a report.

    What it does not name has not been committed to, whatever the event's type says.

    Raises
    ------
    UnreadableObject
        It lacks the transaction's UID, names no instance, or names one by what is no UID.
    """
    failed = {
        _reference(each): _or_processing_failure(integer(each, "FailureReason"))
        for each in items(dataset, "FailedSOPSequence")
    }
    committed = dict.fromkeys(_reference(each) for each in items(dataset, "ReferencedSOPSequence"))
    if not failed and not committed:
        raise UnreadableObject("it names no instance")
    return Report(
        _transaction_uid(dataset),
        tuple(each for each in committed if each not in failed),
        tuple(Failed(*each) for each in failed.items()),
        sender,
    )


def judge(request: Request, held: Mapping[str, str]) -> Report:
    """Return what we say of a request.

    Parameters
    ----------
    held
        SOP class of each instance that is safely kept, by SOP Instance UID.
    """
    committed = tuple(each for each in request.references if held.get(each.sop_instance_uid) == each.sop_class_uid)
    failed = tuple(
        Failed(each, FailureReason.CLASS_CONFLICT if each.sop_instance_uid in held else FailureReason.NO_SUCH_INSTANCE)
        for each in request.references
        if held.get(each.sop_instance_uid) != each.sop_class_uid
    )
    return Report(request.transaction_uid, committed, failed)


def all_failed(request: Request, reason: FailureReason) -> Report:
    """Return that nothing that a request names is committed to."""
    return Report(request.transaction_uid, (), tuple(Failed(each, reason) for each in request.references))


def _or_processing_failure(reason: int | None) -> int:
    return FailureReason.PROCESSING_FAILURE if reason is None or not 0 < reason <= 0xFFFF else reason


def _item(reference: Reference, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference
    if reason is not None:
        item.FailureReason = int(reason)
    return item


def _reference(item: Dataset) -> Reference:
    return Reference(_uid(item, "ReferencedSOPClassUID"), _uid(item, "ReferencedSOPInstanceUID"))


def _transaction_uid(dataset: Dataset) -> str:
    return _uid(dataset, "TransactionUID")


def _uid(dataset: Dataset, keyword: str) -> str:
    value = text(dataset, keyword)
    if not _UID.fullmatch(value):
        raise UnreadableObject(f"{keyword} is absent, or no UID")
    return value
