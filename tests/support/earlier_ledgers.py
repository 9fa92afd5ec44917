"""Ledgers as earlier versions left them: the schema of a revision, and rows and events of its time, put in by SQL."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

from alembic import command
from sqlalchemy import Connection, Engine, text

from worker.ledger import migrations
from worker.ledger.event_chain import GENESIS, digest, record_unsealed

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010", "0011")
"""The revisions whose rows are known here. A new one is added to `_fill` together with its migration."""
AT = dt.datetime(2026, 1, 31, 10, 0, 0, 123456, tzinfo=dt.UTC)

_MODEL = {"model": "net-1.0.0", "model_sha256": "f" * 64}
_NEWER = {"model": "net-2.0.0", "model_sha256": "e" * 64}
# Columns that 0007 dropped: their content is in the table of tasks since.
_DROPPED = {
    "receipt": {"next_attempt_at", "crashes"},
    "delivery": {"next_attempt_at", "first_due_at"},
    "reanalysis": {"next_attempt_at", "attempts", "crashes"},
}
# What both versions of the answer have in common, from 0002 on.
_JUDGED = {
    "operating_point": "screening",
    "prediction_set": "PNEUMONIA",
    "outlier": 0.25,
    "agent": "bacteria",
    "agent_probability": 0.75,
    "input_mean": 0.5,
    "input_std": 0.25,
}
_SEEN = {"caution": "only one lung found", "score": 1.5, "lungs_share": 0.25, "lungs_count": 1, "lungs_cut": 0}


def make(engine: Engine, revision: str) -> None:
    """Give an empty database the schema of a revision, and rows of its time."""
    config = migrations._config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        _Rows(connection, revision).fill()


class _Rows:
    """Writes rows and events as a version with this revision did."""

    def __init__(self, connection: Connection, revision: str) -> None:
        self._connection = connection
        self._revision = revision
        self._previous = GENESIS

    def fill(self) -> None:
        """Put in one image in each state, with all that belongs to it.

        Receipts: 1 analysed and delivered to one of two destinations; 2 analysed, its delivery waits; 3 left out by a
        rule; 4 failed; 5 waiting; 6 in hand. From 0004 on: 7 left out as outside.
        """
        self._answered(1, 0.9375, ["2.25.11", "2.25.12"])
        self._deliver(1, "pacs", "sent", status=0, delivered_at=AT)
        self._event("delivered", 1, delivery=1, status=0, error="")
        self._deliver(1, "archive", "failed", status=0xA900, error="the peer refuses it with status 0xA900")
        self._event("delivery_failed", 1, delivery=2, status=0xA900, error="the peer refuses it with status 0xA900")
        self._answered(2, 0.125, ["2.25.21"])
        self._deliver(3, "pacs", "pending", status=0xA700, error="the peer answers with status 0xA700")
        self._event("delivery_postponed", 2, delivery=3, status=0xA700, error="the peer answers with status 0xA700")
        reason = "modality MR is not among rules.modalities"
        self._receipt(3, "not_analysed", reason=reason, finished_at=AT)
        report: dict[str, Any] = {}
        if self._revision >= "0005":
            self._result(3, "2.25.31", finding_id=None)
            report = {"results": ["2.25.31"]}
        self._event("not_analysed", 3, reason=reason, **report)
        self._receipt(4, "failed", reason="pixel data is cut off", finished_at=AT)
        self._event("failed", 4, reason="pixel data is cut off")
        self._receipt(5, "received")
        self._receipt(6, "received" if self._revision >= "0007" else "working", started_at=AT, attempts=1)
        self._event("refused", None, status="0xC000", reason="not a readable DICOM object", calling_ae="X", bytes=3)
        if self._revision >= "0002":
            self._second_opinions()
        if self._revision >= "0003":
            self._second_readings()
        if self._revision >= "0004":
            self._outside()
        if self._revision >= "0007":
            self._tasks()
        if self._revision >= "0008":
            self._commitments()
        if self._revision >= "0009":
            self._deletion()
        if self._revision >= "0010":
            self._connection.execute(text("UPDATE receipt SET content_sha256 = sha256 WHERE id = 4"))
        if self._revision >= "0011":
            record_unsealed(self._connection, AT)

    def _tasks(self) -> None:
        """Put in the tasks of what is not done: 5, 6 (in hand), the second reading of 2, and the delivery of 2."""
        left = {"state": "leased", "owner": "gone", "token": "t", "lease_until": AT}
        rows: tuple[tuple[str, int, str, dict[str, Any]], ...] = (
            ("analyse", 5, "", {}),
            ("analyse", 6, "", left),
            ("reanalyse", 2, "e" * 64, {}),
            ("deliver", 3, "pacs", {}),
        )
        for kind, subject, target, more in rows:
            values = {"priority": 2, "due_at": AT, "attempts": 0, "crashes": 0, "created_at": AT, "reason": ""}
            values |= {"state": "waiting", "owner": "", "token": "", "store": ""} | more
            self._insert("task", kind=kind, subject=subject, target=target, **values)

    def _commitments(self) -> None:
        """Ask the destination that has a result of image 1 to commit to it; its answer is still to come."""
        sent = text("SELECT id FROM delivery WHERE state = 'sent'")
        uids = {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.7", "sop_instance_uid": "2.25.11"}
        asked = {"transaction_uid": "2.25.9", "destination": "pacs", "asked_at": AT}
        self._insert("commitment", delivery_id=self._connection.scalar(sent), **asked, **uids)

    def _deletion(self) -> None:
        """Delete the file of image 3, as retention does."""
        self._connection.execute(
            text("UPDATE receipt SET deleted_at = :at WHERE id = 3"), {"at": AT.replace(tzinfo=None)}
        )
        self._event("deleted", 3, what=["received"], files=1, bytes=10, why="age")

    def _second_opinions(self) -> None:
        answer = {"answer": "flagged"} if self._revision >= "0006" else {"decision": "PNEUMONIA"}
        values = {**_NEWER, "probability": 0.875, "threshold": 0.5, "operating_point": "screening", **answer}
        values |= {"prediction_set": "PNEUMONIA", "outlier": 0.25}
        self._insert("shadow", receipt_id=1, at=AT, **values)
        self._event("shadow", 1, **values)
        verdict = {"verdict": "PNEUMONIA", "agent": None, "reader": "jd", "source": "command line"}
        self._insert("feedback", receipt_id=2, at=AT, **verdict)
        self._event("feedback", 2, **verdict)

    def _second_readings(self) -> None:
        asked = {"requested_by": "jd", "requested_at": AT, "next_attempt_at": AT, "attempts": 0, "crashes": 0}
        for receipt_id, state in ((1, "done"), (2, "waiting")):
            self._event("reanalysis_requested", receipt_id, by="jd", **_NEWER)
            self._insert("reanalysis", receipt_id=receipt_id, state=state, reason="", **_NEWER, **asked)
        facts = self._finding(1, 0.75, _NEWER)
        self._result(1, "2.25.13", finding_id=3)
        self._event("reanalysed", 1, results=["2.25.13"], **facts)

    def _outside(self) -> None:
        reason = "outside: not like the images the model was made for"
        if self._revision < "0006":
            reason = "out of distribution (score 2.0)"
        lungs = {"lungs_share": 0.0, "lungs_count": 0, "lungs_cut": 0} if self._revision >= "0006" else {}
        seen = {**_MODEL, "outlier": 2.0, "input_mean": 0.5, "input_std": 0.25, **lungs}
        self._receipt(7, "not_analysed", reason=reason, finished_at=AT)
        self._insert("outside", receipt_id=7, at=AT, **seen)
        self._event("not_analysed", 7, reason=reason, **seen)

    def _answered(self, number: int, probability: float, results: list[str]) -> None:
        """Enter an analysed image with its results."""
        if self._revision < "0003":  # one answer for each image, in the same row
            facts = self._answer(probability, _MODEL)
            self._receipt(number, "analysed", finished_at=AT, attempts=1, analysed_at=AT, **facts)
        else:
            self._receipt(number, "analysed", finished_at=AT, attempts=1)
            facts = self._finding(number, probability, _MODEL)
        for uid in results:
            self._result(number, uid, finding_id=number)
        self._event("analysed", number, reason="", results=results, **facts)

    def _finding(self, number: int, probability: float, model: Mapping[str, str]) -> dict[str, Any]:
        facts = self._answer(probability, model)
        self._insert("finding", receipt_id=number, analysed_at=AT, **facts)
        return facts

    def _answer(self, probability: float, model: Mapping[str, str]) -> dict[str, Any]:
        """Return an answer as it stood in its row and in its event."""
        flagged = probability >= 0.5
        facts: dict[str, Any] = {**model, "probability": probability, "threshold": 0.5}
        if self._revision >= "0002":
            facts |= _JUDGED if flagged else {**dict.fromkeys(_JUDGED), "input_mean": 0.5, "input_std": 0.25}
        if self._revision >= "0006":
            regions = json.dumps([{"place": "right lower", "box": [10, 20, 60, 90]}]) if flagged else None
            seen = _SEEN if flagged else dict.fromkeys(_SEEN)
            return facts | {"answer": "flagged" if flagged else "not flagged", "regions": regions, **seen}
        facts["decision"] = "PNEUMONIA" if flagged else "NORMAL"
        if self._revision >= "0002":
            facts["region"] = "10,20,60,90" if flagged else None
        return facts

    def _receipt(self, number: int, state: str, **columns: Any) -> None:
        values = {"attempts": 0, "crashes": 0, "reason": "", "received_at": AT, "next_attempt_at": AT} | columns
        self._insert(
            "receipt",
            sop_instance_uid=f"1.2.{number}",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
            study_instance_uid=f"1.3.{number}",
            series_instance_uid=f"1.4.{number}",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            modality="CR",
            accession_number=f"A{number}",
            patient_key="k",
            calling_ae="PACS",
            called_ae="CXRD",
            peer_address="127.0.0.1",
            sha256=f"{number}" * 64,
            size_bytes=10,
            state=state,
            **values,
        )
        self._event("received", number, sop_instance_uid=f"1.2.{number}", sha256=f"{number}" * 64, calling_ae="PACS")

    def _result(self, number: int, uid: str, finding_id: int | None) -> None:
        finding = {"finding_id": finding_id} if self._revision >= "0003" else {}
        uids = {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.7", "sop_instance_uid": uid, "series_instance_uid": "2.25.1"}
        values = {"kind": "secondary-capture", "sha256": "b" * 64, "size_bytes": 20, "created_at": AT}
        self._insert("result", receipt_id=number, **uids, **values, **finding)

    def _deliver(self, result_id: int, destination: str, state: str, **columns: Any) -> None:
        values = {"attempts": 1, "error": "", "created_at": AT, "first_due_at": AT, "next_attempt_at": AT} | columns
        self._insert("delivery", result_id=result_id, destination=destination, state=state, **values)

    def _event(self, kind: str, receipt_id: int | None, **facts: Any) -> None:
        detail = json.dumps(facts, sort_keys=True)
        seal = digest(self._previous, receipt_id, AT, kind, detail)
        values = {"receipt_id": receipt_id, "at": AT, "kind": kind, "detail": detail}
        self._insert("event", **values, previous=self._previous, digest=seal)
        self._previous = seal

    def _insert(self, table: str, **values: Any) -> None:
        gone = _DROPPED.get(table, set()) if self._revision >= "0007" else set()
        plain = {
            name: value.replace(tzinfo=None).isoformat(sep=" ") if isinstance(value, dt.datetime) else value
            for name, value in values.items()
            if name not in gone
        }
        names, places = ", ".join(plain), ", ".join(f":{name}" for name in plain)
        self._connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({places})"), plain)
