"""The outbox's rows: which results are due where, and what became of each attempt."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, func, select, update

from worker.ledger import event_chain
from worker.ledger.receipts import Ledger, in_batches
from worker.ledger.records import DueDelivery
from worker.ledger.tables import DeliveryRow, DeliveryState, ResultRow


class Deliveries:
    """Reading and settling of deliveries; each method is one transaction, unless it says otherwise."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def due(self, destination: str, now: dt.datetime, limit: int) -> list[DueDelivery]:
        """Return what is to be sent to a destination now: what answers new images first, then oldest first."""
        query = (
            select(
                DeliveryRow.id,
                ResultRow.receipt_id,
                ResultRow.sop_class_uid,
                ResultRow.sop_instance_uid,
                ResultRow.sha256,
                DeliveryRow.attempts,
                DeliveryRow.first_due_at,
            )
            .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
            .where(
                DeliveryRow.destination == destination,
                DeliveryRow.state == DeliveryState.PENDING,
                DeliveryRow.next_attempt_at <= now,
            )
            .order_by(DeliveryRow.priority, DeliveryRow.id)
            .limit(limit)
        )
        with self._ledger.reading() as connection:
            return [DueDelivery(*row) for row in connection.execute(query)]

    def mark_sent(self, delivery: DueDelivery, status: int, now: dt.datetime, sent_as: str = "") -> None:
        """Enter that the destination has taken a result (success, or stored with a warning).

        `sent_as` is the SOP Instance UID of the lossy copy that went in its place.
        """
        with self._ledger.writing() as connection:
            values = {"state": DeliveryState.SENT, "status": status, "error": "", "delivered_at": now}
            more = {"sent_as": sent_as} if sent_as else {}
            self._settle(connection, delivery, "delivered", now, values, **more)

    def postpone(
        self, delivery: DueDelivery, status: int | None, error: str, now: dt.datetime, until: dt.datetime
    ) -> None:
        """Enter that an attempt failed and when the next one is due."""
        with self._ledger.writing() as connection:
            values = {"status": status, "error": error, "next_attempt_at": until}
            self._settle(connection, delivery, "delivery_postponed", now, values)

    def mark_failed(self, delivery: DueDelivery, status: int | None, error: str, now: dt.datetime) -> None:
        """Enter that a delivery has failed for good."""
        with self._ledger.writing() as connection:
            values = {"state": DeliveryState.FAILED, "status": status, "error": error}
            self._settle(connection, delivery, "delivery_failed", now, values)

    @staticmethod
    def _settle(
        connection: Connection, delivery: DueDelivery, kind: str, now: dt.datetime, values: dict[str, Any], **more: str
    ) -> None:
        row = update(DeliveryRow).where(DeliveryRow.id == delivery.delivery_id)
        connection.execute(row.values(attempts=DeliveryRow.attempts + 1, **values))
        facts = {"delivery": delivery.delivery_id, "status": values["status"], "error": values["error"], **more}
        event_chain.append(connection, kind, now, delivery.receipt_id, **facts)

    def redeliver(
        self,
        now: dt.datetime,
        *,
        destination: str | None = None,
        receipt_ids: Collection[int] = (),
        include_sent: bool = False,
    ) -> int:
        """Make failed deliveries pending once more; return how many.

        Some at a time, with a breath between two transactions: new images arrive meanwhile. Broken off, what was made
        pending stays so.

        Parameters
        ----------
        destination, receipt_ids
            Only these; all where not given.
        include_sent
            Send again what was already delivered.
        """
        states = [DeliveryState.FAILED, DeliveryState.PENDING] + [DeliveryState.SENT] * include_sent
        query = (
            select(DeliveryRow.id, ResultRow.receipt_id)
            .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
            .where(DeliveryRow.state.in_(states))
        )
        if destination is not None:
            query = query.where(DeliveryRow.destination == destination)
        if receipt_ids:
            query = query.where(ResultRow.receipt_id.in_(receipt_ids))
        values = {"state": DeliveryState.PENDING, "attempts": 0, "first_due_at": now, "next_attempt_at": now}
        with self._ledger.reading() as connection:
            rows = connection.execute(query.order_by(DeliveryRow.id)).all()
        count = 0
        for some in in_batches(rows):
            with self._ledger.writing() as connection:
                for delivery_id, receipt_id in some:
                    # What has been delivered since it was looked up stays so.
                    row = update(DeliveryRow).where(DeliveryRow.id == delivery_id, DeliveryRow.state.in_(states))
                    if connection.execute(row.values(**values)).rowcount:
                        event_chain.append(connection, "redelivery", now, receipt_id, delivery=delivery_id)
                        count += 1
        return count

    def pending_counts(self) -> dict[str, int]:
        """Return how many results wait for each destination."""
        pending = DeliveryRow.state == DeliveryState.PENDING
        query = select(DeliveryRow.destination, func.count()).where(pending).group_by(DeliveryRow.destination)
        with self._ledger.reading() as connection:
            return {str(name): int(count) for name, count in connection.execute(query)}
