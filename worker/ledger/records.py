"""The records that go into the ledger and come out of it: frozen, and without the database."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from dicom_io.finding import Answer, Finding, ModelIdentity
from dicom_io.header.version import FIRST, ImageVersion
from worker.queue.task import Priority, Task

OUTSIDE = "outside"
"""The first word of the reason why an image was not analysed that is not one the model was made for."""


@dataclass(frozen=True)
class NewReceipt:
    """What is known of an object when it has just been made durable.

    `sha256` is that of its file, `content_sha256` that of the data set in it (`dicom_io.network.content`).
    """

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    modality: str
    accession_number: str
    patient_key: str
    calling_ae: str
    called_ae: str
    peer_address: str
    sha256: str
    size_bytes: int
    received_at: dt.datetime
    priority: int = Priority.MEDIUM
    store: str = ""
    content_sha256: str | None = None


@dataclass(frozen=True)
class Claim:
    """A received object that this process has in hand for a task.

    `dated_at` is what its results bear as their time, the same each time the work is done; `model_sha256` names the
    only model that may answer, and is empty where any may. `deleted_at` is when the object's file was. `version` is
    which of the contents it is that came under this UID.
    """

    task: Task
    sop_instance_uid: str
    calling_ae: str
    sha256: str
    dated_at: dt.datetime
    model_sha256: str = ""
    deleted_at: dt.datetime | None = None
    version: ImageVersion = FIRST

    @property
    def id(self) -> int:
        """The receipt's number."""
        return self.task.subject


@dataclass(frozen=True)
class NewFinding:
    """What a model found in an object, and in which input.

    `input_mean` and `input_std`, 0 to 1, describe the network's input, for `cxrd drift`.
    """

    model: ModelIdentity
    finding: Finding
    input_mean: float
    input_std: float
    analysed_at: dt.datetime


@dataclass(frozen=True)
class NewResult:
    """A result object, already durable in the store, and the names of the destinations that take it."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    sha256: str
    size_bytes: int
    destinations: tuple[str, ...] = ()
    store: str = ""

    @property
    def uid(self) -> str:
        """What it goes by among results and notifications."""
        return self.sop_instance_uid


@dataclass(frozen=True)
class NewNotification:
    """A message about a finding, already durable in the store, and the names of the destinations that take it."""

    sop_class_uid: ClassVar[str] = ""
    series_instance_uid: ClassVar[str] = ""

    kind: str
    uid: str
    sha256: str
    size_bytes: int
    destinations: tuple[str, ...] = ()
    store: str = ""


@dataclass(frozen=True)
class DueDelivery:
    """One result or notification that this process has in hand for one destination.

    `is_replaced` tells that a later version of its image was answered before it was taken in hand.
    """

    task: Task
    receipt_id: int
    sop_class_uid: str
    sop_instance_uid: str
    sha256: str
    is_replaced: bool = False

    @property
    def delivery_id(self) -> int:
        """The delivery's number."""
        return self.task.subject


@dataclass(frozen=True)
class DueCommitment:
    """One delivery that this process has in hand to ask its destination whether it commits to keeping it.

    `sop_instance_uid` is the UID that it was sent under.
    """

    task: Task
    receipt_id: int
    sop_class_uid: str
    sop_instance_uid: str

    @property
    def delivery_id(self) -> int:
        """The delivery's number."""
        return self.task.subject


@dataclass(frozen=True)
class Replaced:
    """An earlier version of an object: by what a receiver that was told of it knows it."""

    version: int
    study_instance_uid: str
    accession_number: str


@dataclass(frozen=True)
class PreviousFinding:
    """What an object was answered before: the answer, and the report (four UIDs) where there is one.

    Without an answer the report says that the object was not analysed. `replaced` is the earlier version of the object
    that was so answered; None where it was this one, by another model.
    """

    answer: Answer | None
    report: Mapping[str, str] | None = None
    replaced: Replaced | None = None
