"""Requests to the worker that go through the ledger: deliver again, analyse again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dicom_io.errors import InvalidSettings
from worker.clock import now
from worker.ledger.database import open_ledger
from worker.ledger.deliveries import Deliveries
from worker.ledger.queries import Filter, deliveries_to, findings
from worker.ledger.tables import State
from worker.queue.wake import ring

if TYPE_CHECKING:
    from worker.ledger.receipts import Ledger
    from worker.settings import Settings


@dataclass(frozen=True, slots=True)
class RedeliveryRequest:
    """Which results are to be sent again; what is None or empty does not restrict.

    `include_sent`: also those that were delivered.
    """

    destination: str | None = None
    receipt_ids: tuple[int, ...] = ()
    include_sent: bool = False


def redeliver(settings: Settings, request: RedeliveryRequest) -> tuple[int, int]:
    """Make deliveries due now, with all their attempts before them.

    Return how many, and of how many others the result was deleted.

    Raises
    ------
    InvalidSettings
        There is no such destination or receipt, or all results of one were deleted; then nothing is made due.
    """
    ledger = open_ledger(settings)
    if request.destination is not None:
        _check_destination(request.destination, settings, ledger)
    states = ledger.states(request.receipt_ids)
    gone = Deliveries(ledger).deleted(request.receipt_ids)
    faults = [f"receipt {number}: its results were deleted on {at:%Y-%m-%d}" for number, at in sorted(gone.items())]
    if faults := [*_absent(request.receipt_ids, states), *faults]:
        raise InvalidSettings("; ".join(faults))
    chosen: dict[str, Any] = {
        "destination": request.destination, "receipt_ids": request.receipt_ids, "include_sent": request.include_sent
    }  # fmt: skip
    count = Deliveries(ledger).redeliver(now(), **chosen)
    ring(settings.storage.folder, "deliver")
    return count, Deliveries(ledger).count_deleted(**chosen)


def retry(settings: Settings, receipt_ids: tuple[int, ...] = ()) -> int:
    """Give failed images to the worker once more; return how many.

    Parameters
    ----------
    receipt_ids
        Only these; all failed images where empty.

    Raises
    ------
    InvalidSettings
        One of these does not exist or has not failed; then none is given to the worker.
    """
    ledger = open_ledger(settings)
    _check_failed(receipt_ids, ledger)
    failed = receipt_ids or tuple(row["receipt_id"] for row in findings(ledger, Filter(status="failed")))
    count = ledger.requeue(failed, now())
    ring(settings.storage.folder, "work")
    return count


def _check_destination(name: str, settings: Settings, ledger: Ledger) -> None:
    """Tell a name that was never there from one that is no longer configured: nobody would send its results."""
    if name not in {each.name for each in settings.destinations} and (count := deliveries_to(ledger, name)):
        raise InvalidSettings(
            f"{name}: not in the configuration, so nothing can be sent there (deliveries in the audit: {count}); "
            "put it back under destinations, restart cxrd, give the command again"
        )
    settings.destination(name)


def _absent(receipt_ids: tuple[int, ...], states: dict[int, str]) -> list[str]:
    return [f"receipt {number} does not exist" for number in receipt_ids if number not in states]


def _deleted(ledger: Ledger, receipt_ids: tuple[int, ...]) -> list[str]:
    gone = ledger.deleted(receipt_ids)
    return [f"receipt {number}: its file was deleted on {at:%Y-%m-%d}" for number, at in sorted(gone.items())]


def _check_failed(receipt_ids: tuple[int, ...], ledger: Ledger) -> None:
    states = ledger.states(receipt_ids)
    faults = [*_absent(receipt_ids, states)]
    faults += [
        f"receipt {number} has not failed: its status is {states[number]}"
        for number in receipt_ids
        if states.get(number, State.FAILED) != State.FAILED
    ]
    faults += _deleted(ledger, tuple(number for number in receipt_ids if states.get(number) == State.FAILED))
    if faults:
        raise InvalidSettings("; ".join(faults))
