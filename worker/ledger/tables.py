"""The ledger's tables: one row for a received object, for each result, each delivery, and each step that was taken.

The views that people query (``findings``, ``answers``, ``deliveries``, ``refusals``) are made by the migrations; see
docs/audit.md.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    func,
    select,
    text,
)
from sqlalchemy.orm import Mapped, aliased, mapped_column

from worker.database.columns import BigNumber, Table
from worker.queue.task import Priority


class State(StrEnum):
    """Where a received object stands."""

    RECEIVED = "received"  # acknowledged to the sender; its task waits, or a worker has it in hand
    ANALYSED = "analysed"  # a finding stands, results are in the outbox
    NOT_ANALYSED = "not_analysed"  # left out by the rules or as outside; the reason says why
    FAILED = "failed"  # it should have been analysed and could not be; the reason says why


class DeliveryState(StrEnum):
    """Where one result stands on its way to one destination."""

    PENDING = "pending"  # its task waits, or a courier has it in hand
    SENT = "sent"  # the destination answered with success or a warning
    COMMITTED = "committed"  # and has committed to keeping it (PS3.4 J)
    FAILED = "failed"  # refused for good, or given up after outbox.give_up_after_hours
    WITHDRAWN = "withdrawn"  # not sent: a later version of the image was answered first


class ReanalysisState(StrEnum):
    """Where the second reading of an image by a newer model stands."""

    WAITING = "waiting"  # until its model serves and nothing new is to be analysed, or a worker has it in hand
    DONE = "done"  # the model's finding stands, its results are in the outbox
    LEFT_OUT = "left_out"  # left out by the rules or as outside; the earlier finding stands
    FAILED = "failed"  # it could not be read; the earlier finding stands
    WITHDRAWN = "withdrawn"  # by `cxrd reanalyze --cancel`


_KEPT = text("deleted_at IS NULL")


class ReceiptRow(Table):
    """One received SOP instance and its life; another content under the same UID is a further version, and row."""

    __tablename__ = "receipt"
    __table_args__ = (
        Index("ix_receipt_state", "state"),
        Index("ix_receipt_received_at", "received_at"),
        Index("ix_receipt_kept", "finished_at", sqlite_where=_KEPT, postgresql_where=_KEPT),
        Index("ix_receipt_sha256", "sha256"),
        UniqueConstraint("sop_instance_uid", "version"),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64))
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    study_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    transfer_syntax_uid: Mapped[str] = mapped_column(String(64))
    modality: Mapped[str] = mapped_column(String(16))
    accession_number: Mapped[str] = mapped_column(String(64), index=True)
    patient_key: Mapped[str] = mapped_column(String(128))
    calling_ae: Mapped[str] = mapped_column(String(16))
    called_ae: Mapped[str] = mapped_column(String(16))
    peer_address: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    received_at: Mapped[dt.datetime]
    started_at: Mapped[dt.datetime | None]
    finished_at: Mapped[dt.datetime | None]
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    priority: Mapped[int] = mapped_column(Integer, default=Priority.MEDIUM)
    store: Mapped[str] = mapped_column(String(32), default="")  # where its file lies, `worker.storage.blobs`
    state: Mapped[str] = mapped_column(String(16), default=State.RECEIVED)
    reason: Mapped[str] = mapped_column(Text, default="")
    deleted_at: Mapped[dt.datetime | None]  # when its file was; the row stays
    version: Mapped[int] = mapped_column(Integer, default=1)  # of this SOP instance; it replaces the one before
    content_sha256: Mapped[str | None] = mapped_column(String(64))  # of the data set alone; NULL before 0010
    restored_at: Mapped[dt.datetime | None]  # when its file, which had been deleted or lost, was stored anew


class FindingColumns:
    """The columns of a model's answer; `worker.ledger.findings.finding_values` makes their values."""

    model: Mapped[str] = mapped_column(String(128))
    model_sha256: Mapped[str] = mapped_column(String(64))
    probability: Mapped[float] = mapped_column(Float)
    answer: Mapped[str] = mapped_column(String(16))  # a value of `dicom_io.finding.Answer`
    threshold: Mapped[float] = mapped_column(Float)
    operating_point: Mapped[str | None] = mapped_column(String(32))
    prediction_set: Mapped[str | None] = mapped_column(String(32))  # the classes with a space between them
    outlier: Mapped[float | None] = mapped_column(Float)


class LungColumns:
    """What a model found of the lungs, see `dicom_io.finding.Lungs`; NULL where it does not look for them."""

    lungs_share: Mapped[float | None] = mapped_column(Float)
    lungs_count: Mapped[int | None] = mapped_column(Integer)
    lungs_cut: Mapped[int | None] = mapped_column(Integer)  # 1 where one is cut off by the image's edge


class FindingRow(FindingColumns, LungColumns, Table):
    """What one model found in one received object; the one that was entered last stands."""

    __tablename__ = "finding"
    __table_args__ = (UniqueConstraint("receipt_id", "model_sha256"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    receipt_id: Mapped[int] = mapped_column(ForeignKey("receipt.id"))
    analysed_at: Mapped[dt.datetime]
    agent: Mapped[str | None] = mapped_column(String(16))
    agent_probability: Mapped[float | None] = mapped_column(Float)
    caution: Mapped[str | None] = mapped_column(Text)
    regions: Mapped[str | None] = mapped_column(Text)  # JSON, see `worker.ledger.findings.regions_text`
    score: Mapped[float | None] = mapped_column(Float)
    input_mean: Mapped[float | None] = mapped_column(Float)
    input_std: Mapped[float | None] = mapped_column(Float)


class ResultRow(Table):
    """One DICOM object that answers a received one."""

    __tablename__ = "result"
    __table_args__ = (
        Index("ix_result_kept", "created_at", sqlite_where=_KEPT, postgresql_where=_KEPT),
        Index("ix_result_sha256", "sha256"),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    receipt_id: Mapped[int] = mapped_column(ForeignKey("receipt.id"), index=True)
    # NULL for the report of an object that was not analysed.
    finding_id: Mapped[int | None] = mapped_column(ForeignKey("finding.id"), index=True)
    kind: Mapped[str] = mapped_column(String(32))
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    store: Mapped[str] = mapped_column(String(32), default="")
    created_at: Mapped[dt.datetime]
    deleted_at: Mapped[dt.datetime | None]


_UNCOMMITTED = text("state = 'sent' AND error <> ''")
_UNFINISHED = text("state IN ('pending', 'failed')")


UNFINISHED = text("delivery.state IN ('pending', 'failed')")
"""What waits or has failed, in the words of ix_delivery_unfinished: a query needs them beside its own condition."""


class DeliveryRow(Table):
    """One result on its way to one destination."""

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("result_id", "destination"),
        Index("ix_delivery_state", "destination", "state"),
        Index("ix_delivery_uncommitted", "destination", sqlite_where=_UNCOMMITTED, postgresql_where=_UNCOMMITTED),
        Index("ix_delivery_unfinished", "state", "destination", sqlite_where=_UNFINISHED, postgresql_where=_UNFINISHED),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    result_id: Mapped[int] = mapped_column(ForeignKey("result.id"))
    destination: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16), default=DeliveryState.PENDING)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    status: Mapped[int | None] = mapped_column(Integer)
    error: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[dt.datetime]
    delivered_at: Mapped[dt.datetime | None]
    committed_at: Mapped[dt.datetime | None]
    sent_as: Mapped[str] = mapped_column(String(64), default="")  # UID of the lossy copy that went in its place


_UNANSWERED = text("answered_at IS NULL")


class CommitmentRow(Table):
    """One delivery that its destination was asked to commit to keeping, under a transaction's UID (PS3.4 J)."""

    __tablename__ = "commitment"
    __table_args__ = (
        UniqueConstraint("transaction_uid", "delivery_id"),
        Index("ix_commitment_delivery", "delivery_id"),
        Index("ix_commitment_unanswered", "destination", sqlite_where=_UNANSWERED, postgresql_where=_UNANSWERED),
    )

    id: Mapped[int] = mapped_column(BigNumber, primary_key=True)
    transaction_uid: Mapped[str] = mapped_column(String(64))
    delivery_id: Mapped[int] = mapped_column(ForeignKey("delivery.id", ondelete="CASCADE"))
    destination: Mapped[str] = mapped_column(String(64))
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    sop_instance_uid: Mapped[str] = mapped_column(String(64))
    asked_at: Mapped[dt.datetime]
    answered_at: Mapped[dt.datetime | None]
    reason: Mapped[int | None] = mapped_column(Integer)  # Failure Reason (0008,1197), where it changed anything


class ReanalysisRow(Table):
    """The request to have a received object read by a newer model, and its outcome; a later request replaces it."""

    __tablename__ = "reanalysis"
    __table_args__ = (Index("ix_reanalysis_state", "state", "model_sha256"),)

    receipt_id: Mapped[int] = mapped_column(ForeignKey("receipt.id"), primary_key=True)
    model: Mapped[str] = mapped_column(String(128))
    model_sha256: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16), default=ReanalysisState.WAITING)
    reason: Mapped[str] = mapped_column(Text, default="")
    requested_by: Mapped[str] = mapped_column(String(64))
    requested_at: Mapped[dt.datetime]
    started_at: Mapped[dt.datetime | None]
    finished_at: Mapped[dt.datetime | None]


class ShadowRow(FindingColumns, Table):
    """What a candidate model answered beside the current one; it stands in the audit only."""

    __tablename__ = "shadow"
    __table_args__ = (UniqueConstraint("receipt_id", "model_sha256"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    receipt_id: Mapped[int] = mapped_column(ForeignKey("receipt.id"), index=True)
    at: Mapped[dt.datetime]


class OutsideRow(LungColumns, Table):
    """What a model saw in an image that is not one it was made for and was therefore not analysed: no finding."""

    __tablename__ = "outside"
    __table_args__ = (UniqueConstraint("receipt_id", "model_sha256"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    receipt_id: Mapped[int] = mapped_column(ForeignKey("receipt.id"))
    model: Mapped[str] = mapped_column(String(128))
    model_sha256: Mapped[str] = mapped_column(String(64))
    outlier: Mapped[float | None] = mapped_column(Float)
    input_mean: Mapped[float] = mapped_column(Float)
    input_std: Mapped[float] = mapped_column(Float)
    at: Mapped[dt.datetime]


class ProcessRow(Table):
    """One process of cxrd that runs, or ran until it was last seen."""

    __tablename__ = "process"

    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int] = mapped_column(Integer)
    started_at: Mapped[dt.datetime]
    seen_at: Mapped[dt.datetime]
    detail: Mapped[str] = mapped_column(Text, default="{}")


class FeedbackRow(Table):
    """A reader's verdict on a received object; the last one counts."""

    __tablename__ = "feedback"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    receipt_id: Mapped[int] = mapped_column(ForeignKey("receipt.id"), index=True)
    verdict: Mapped[str] = mapped_column(String(32))
    agent: Mapped[str | None] = mapped_column(String(16))
    reader: Mapped[str] = mapped_column(String(64))
    source: Mapped[str] = mapped_column(String(128))
    at: Mapped[dt.datetime]


_REFUSED = text("kind = 'refused'")


class EventRow(Table):
    """One step that was taken, chained by hash to the one before it, so that an alteration shows."""

    __tablename__ = "event"
    __table_args__ = (
        Index("uq_event_previous", "previous", unique=True),
        Index("ix_event_refused", "kind", "id", sqlite_where=_REFUSED, postgresql_where=_REFUSED),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    receipt_id: Mapped[int | None] = mapped_column(ForeignKey("receipt.id"), index=True)
    at: Mapped[dt.datetime]
    kind: Mapped[str] = mapped_column(String(32))
    detail: Mapped[str] = mapped_column(Text)
    previous: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64))
    rows: Mapped[str | None] = mapped_column(Text)  # of its receipt, `worker.ledger.row_digests`; NULL before 0011


def is_latest_finding() -> ColumnElement[bool]:
    """Return what joins a `ReceiptRow` with the `FindingRow` that stands: the one that was entered last."""
    later = aliased(FindingRow)
    last = select(func.max(later.id)).where(later.receipt_id == ReceiptRow.id).correlate(ReceiptRow)
    return FindingRow.id == last.scalar_subquery()
