"""Where the subject of a task is looked up, and where its outcome goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping, Sequence

    from worker.ledger.records import Claim, NewFinding, NewNotification, NewResult
    from worker.queue.task import Task


class Desk(Protocol):
    """The ledger, for one kind of task: `Receipts`, or `Reanalyses`.

    `leave_out`, `fail` and `record_finding` raise `AnsweredLater` where results may not go out any more.
    """

    def load(self, task: Task) -> Claim:
        """Return what is known of the image."""
        ...

    def postpone(self, claim: Claim, reason: str, now: dt.datetime, until: dt.datetime) -> None:
        """Put it back until later."""
        ...

    def hand_back(self, claim: Claim, reason: str) -> None:
        """Put it back as it was."""
        ...

    def leave_out(
        self,
        claim: Claim,
        reason: str,
        now: dt.datetime,
        *,
        results: Sequence[NewResult] = (),
        left_out: Mapping[str, str] | None = None,
        outside: NewFinding | None = None,
        remarks: Sequence[str] = (),
    ) -> None:
        """Enter that it is not analysed, the report on that, and the finding that does not count."""
        ...

    def fail(
        self,
        claim: Claim,
        reason: str,
        now: dt.datetime,
        *,
        results: Sequence[NewResult] = (),
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        """Enter that it cannot be analysed, and the report on that."""
        ...

    def record_finding(
        self,
        claim: Claim,
        finding: NewFinding,
        results: Sequence[NewResult],
        now: dt.datetime,
        *,
        notifications: Sequence[NewNotification] = (),
        left_out: Mapping[str, str] | None = None,
        remarks: Sequence[str] = (),
    ) -> None:
        """Enter finding, results, notifications and deliveries."""
        ...
