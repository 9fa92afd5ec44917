"""`cxrd redeliver` and `cxrd retry`: send results again, analyse failed images again."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli import options, output


def redeliver(
    destination: Annotated[str | None, typer.Option("--to", help="Only to this destination")] = None,
    receipt: options.Receipts = None,
    sent: Annotated[bool, typer.Option("--sent", help="Also results that were delivered")] = False,
    config: options.Config = None,
) -> None:
    """Send results again: those whose delivery failed or waits for its next attempt.

    They are due at once and start with all their attempts. A running worker begins within a second.
    """
    from worker.ledger import requests

    request = requests.RedeliveryRequest(destination, tuple(receipt or ()), sent)
    count, deleted = requests.redeliver(options.load(config), request)
    output.line(f"Deliveries due now: {count}")
    if deleted:
        output.line(f"Not sent again, since their results were deleted: {deleted}")


def retry(receipt: options.Receipts = None, config: options.Config = None) -> None:
    """Analyse failed images again, for instance after an upgrade.

    A running worker begins at once.
    """
    from worker.ledger import requests

    output.line(f"Images to analyse again: {requests.retry(options.load(config), tuple(receipt or ()))}")
