"""Received images that the serving model is to read again: requested, counted, cancelled."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicom_io.errors import InvalidSettings
from modeltrain.model.card import load_card
from worker.clock import now
from worker.inference.serving import model_folder
from worker.ledger.database import open_ledger
from worker.ledger.reanalyses import Criteria, Reanalyses, Selection
from worker.ledger.records import OUTSIDE

if TYPE_CHECKING:
    from worker.settings import Settings


@dataclass(frozen=True, slots=True)
class ReanalysisRequest:
    """Which images are to be read again, and who asks for it.

    Attributes
    ----------
    since, until
        Received from, and before.
    model
        Images whose answer is of this model: its name, or the beginning.
    everything
        All analysed images; goes with none of the others.
    include_not_analysed
        Also images that a model left out as outside.
    reason
        Only images that were not analysed, for a reason that begins so.
    """

    by: str
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    accession: str | None = None
    receipt_ids: tuple[int, ...] = ()
    model: str | None = None
    everything: bool = False
    include_not_analysed: bool = False
    reason: str | None = None

    @property
    def restricts(self) -> bool:
        """Whether it names images, other than by `everything`."""
        return bool(self.since or self.until or self.accession or self.receipt_ids or self.model or self.reason)


@dataclass(frozen=True, slots=True)
class ReanalysisResult:
    """Which model reads the images, how many were requested, and what the request selected."""

    model: str
    requested: int
    selection: Selection


def reanalyze(settings: Settings, request: ReanalysisRequest, *, dry_run: bool = False) -> ReanalysisResult:
    """Request that the serving model reads images again; the worker does it when no new image waits.

    With `dry_run` nothing is entered, and `requested` says how many images it would be.

    Raises
    ------
    InvalidSettings
        The request names no images, or names them in ways that exclude each other.
    """
    if not (request.restricts or request.everything):
        raise InvalidSettings("name the images by --since, --until, --accession, --receipt, --model, --reason or --all")
    if request.restricts and request.everything:
        raise InvalidSettings("--all goes with none of the options that name images")
    if request.model and (request.reason or request.include_not_analysed):
        raise InvalidSettings("--model selects by the answer; images that were not analysed have none")
    reanalyses = Reanalyses(open_ledger(settings))
    card = load_card(model_folder(settings))
    criteria = Criteria(
        request.since,
        request.until,
        request.accession,
        request.receipt_ids,
        request.model,
        request.reason,
        OUTSIDE if request.include_not_analysed else None,
    )
    selection = reanalyses.choose(criteria, card.sha256)
    if dry_run:
        return ReanalysisResult(card.label, len(selection.receipt_ids), selection)
    requested = reanalyses.request(selection.receipt_ids, card.label, card.sha256, request.by, now())
    return ReanalysisResult(card.label, requested, selection)


def counts(settings: Settings) -> list[tuple[str, str, int]]:
    """Return model, state and number of the requested images."""
    return Reanalyses(open_ledger(settings)).counts()


def cancel(settings: Settings, by: str) -> int:
    """Cancel all requests that still wait; return how many."""
    return Reanalyses(open_ledger(settings)).cancel(by, now())
