"""What an image was answered before: by another model, or as an earlier version of itself."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from worker.clock import now
from worker.engines.analysis import Image
from worker.ledger.versions import AnsweredLater
from worker.results.kinds import KINDS, REPORT

if TYPE_CHECKING:
    from pydicom import Dataset

    from dicom_io.finding import ModelIdentity
    from worker.ledger.receipts import Ledger
    from worker.ledger.records import Claim, PreviousFinding

PATIENCE = 10.0
"""Seconds that a later version waits at most for an earlier one that is in hand."""


def previous_findings(
    ledger: Ledger, claim: Claim, identity: ModelIdentity, kinds: Collection[str]
) -> dict[str, PreviousFinding]:
    """Return what was answered before, by the kind of document that can point to it.

    Parameters
    ----------
    kinds
        Of results that are made (`results.kinds`).
    """
    answers = {
        name: ledger.previous_finding(claim.id, identity.digest, kind.sop_class)
        for name, kind in KINDS.items()
        if kind.names_predecessor and (kind is REPORT or name in kinds)
    }
    return {kind: each for kind, each in answers.items() if each}


def image_of(claim: Claim, dataset: Dataset, previous: Mapping[str, PreviousFinding]) -> Image:
    """Return what is analysed for a task."""
    return Image(
        dataset,
        # The time of receipt or of the request, so that the same work always gives the same bytes.
        created=claim.dated_at.astimezone(),
        predecessors={kind: each.report for kind, each in previous.items() if each.report},
        # A second reading that is left out needs no report: the first answer stands.
        report_not_analysed=not claim.model_sha256,
        again=bool(claim.model_sha256),
        version=claim.version,
    )


def replaced_by(ledger: Ledger, claim: Claim) -> str:
    """Return why an image must not be answered any more; nothing where it may, so far as is known before the work."""
    later = None if claim.model_sha256 else ledger.later_answer(claim.id)
    return str(AnsweredLater(later)) if later else ""


def wait_for_earlier(ledger: Ledger, claim: Claim) -> None:
    """Wait while a worker has an earlier version in hand: the results of this one come after its, and name them."""
    until = time.monotonic() + PATIENCE
    while claim.version.number > 1 and ledger.has_earlier_in_hand(claim.id, now()) and time.monotonic() < until:
        time.sleep(0.05)
