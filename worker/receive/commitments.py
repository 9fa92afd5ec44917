"""Storage commitment at our own node: reports on what we asked are entered, and senders are told what we keep."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence

import structlog

from dicom_io.network import status
from dicom_io.network.commitment_messages import Report
from dicom_io.network.commitment_scp import Address
from dicom_io.uids import digest
from worker import metrics
from worker.clock import now
from worker.destination_settings import DicomDestination
from worker.ledger.commitments import Commitments, ReportOutcome
from worker.ledger.receipts import Ledger
from worker.settings import Settings
from worker.storage.blobs import Blobs

log = structlog.get_logger("cxrd.commitment")


class ReportIntake:
    """Enters the reports that come in, on an association that we opened or on one that the node opens.

    Parameters
    ----------
    send_again
        Called when results are to be sent again.
    """

    def __init__(
        self, ledger: Ledger, send_again: Callable[[], object], clock: Callable[[], dt.datetime] = now
    ) -> None:
        self._commitments = Commitments(ledger)
        self._clock = clock
        self._send_again = send_again

    def receive(self, report: Report) -> int:
        """Enter a report; return 0x0000 when it is durable, 0x0115 where it is on no transaction of ours.

        Raises
        ------
        OutOfResources
            The ledger cannot take it now: the node is to report again.
        """
        about = {"calling_ae": report.sender, "transaction": digest(report.transaction_uid)}
        outcome = self._commitments.enter_report(report, self._clock())
        if outcome is None:
            log.warning("commitment_report_unknown", **about)
            return status.INVALID_ARGUMENT
        self._count(outcome)
        counts = {"committed": outcome.committed, "sent_again": outcome.sent_again, "failed": outcome.failed}
        log.info("commitment_report", destination=outcome.destination, **counts, **about)
        if outcome.reasons:
            reason = "; ".join(sorted(outcome.reasons))
            log.warning("results_not_committed", destination=outcome.destination, reason=reason, **counts, **about)
        if outcome.sent_again:
            self._send_again()
        return status.SUCCESS

    @staticmethod
    def _count(outcome: ReportOutcome) -> None:
        for name, count in (("committed", outcome.committed), ("failed", outcome.failed)):
            if count:
                metrics.delivery(outcome.destination, name, count)


class Keeper:
    """Says which of the images that senders ask about we keep: what was answered 0x0000, and whose file is there."""

    def __init__(self, ledger: Ledger, blobs: Blobs) -> None:
        self._commitments = Commitments(ledger)
        self._blobs = blobs

    def held(self, uids: Sequence[str]) -> Mapping[str, str]:
        """Return the SOP class of those of these SOP instances that are kept, by SOP Instance UID.

        Raises
        ------
        OutOfResources
            The ledger or the store cannot be asked now.
        """
        self._blobs.check_there()
        received = self._commitments.received(uids)
        # Nobody tells which version a sender has: where one that was not deleted is lost, none counts as kept.
        return {
            uid: files[-1][0]
            for uid, files in received.items()
            if all(self._blobs.is_whole(sha256, size) for _, sha256, size in files)
        }


def addresses(settings: Settings) -> dict[str, Address]:
    """Return where requestors listen for our reports, by AE title: those of the settings, then the destinations.

    A destination that is reached by TLS is so for reports too.
    """
    nodes = [each for each in settings.destinations if isinstance(each, DicomDestination)]
    peers = {each.ae_title: Address(each.host, each.port, each.tls.client if each.tls else None) for each in nodes}
    return peers | {each.ae_title: Address(each.host, each.port) for each in settings.commitment.report_to}
