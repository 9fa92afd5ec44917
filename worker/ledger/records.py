"""What goes into the ledger and comes out of it: frozen records, without the database."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class NewReceipt:
    """What is known of an object when it has just been made durable."""

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


@dataclass(frozen=True)
class Claim:
    """A received object that this worker now has in hand.

    `dated_at` is what its results bear as their time, the same each time the work is done; `model_sha256` names the
    only model that may answer, and is empty where any may.
    """

    id: int
    sop_instance_uid: str
    calling_ae: str
    sha256: str
    dated_at: dt.datetime
    attempts: int
    model_sha256: str = ""


@dataclass(frozen=True)
class NewFinding:
    """What the model said (see `dicom_io.finding.Finding`), and of which input.

    `prediction_set` is the classes with a space between them, `region` the box as left,top,right,bottom; `input_mean`
    and `input_std` describe the network's input, for `cxrd drift`.
    """

    model: str
    model_sha256: str
    probability: float
    decision: str
    threshold: float
    analysed_at: dt.datetime
    operating_point: str | None = None
    prediction_set: str | None = None
    outlier: float | None = None
    agent: str | None = None
    agent_probability: float | None = None
    region: str | None = None
    input_mean: float | None = None
    input_std: float | None = None


@dataclass(frozen=True)
class NewOutside:
    """What the model's gate saw in an image that it left out: its score, and the network's input as in `NewFinding`."""

    model: str
    model_sha256: str
    outlier: float
    input_mean: float
    input_std: float


@dataclass(frozen=True)
class NewResult:
    """A result object, already durable in the store."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class DueDelivery:
    """One result or notification that is due at one destination."""

    delivery_id: int
    receipt_id: int
    sop_class_uid: str
    sop_instance_uid: str
    sha256: str
    attempts: int
    first_due_at: dt.datetime


@dataclass(frozen=True)
class Earlier:
    """What was said of the same object before: the decision, and the report (four UIDs) where there is one.

    Without a decision the report says that the object was not analysed.
    """

    decision: str | None
    report: Mapping[str, str] | None = None
