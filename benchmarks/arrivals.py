"""When each image has all its results: counted from what was sent and what arrived, without a clock or a network.

All moments are those of one clock (`time.monotonic`), in seconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Transfer:
    """One image's C-STORE."""

    begun: float
    answered: float | None = None  # None: no answer came
    status: str = ""  # as storescu names it

    @property
    def accepted(self) -> bool:
        """Whether the worker took the image; of any other image no result is due."""
        return self.status == "Success"


@dataclass(frozen=True)
class Arrival:
    """One result object that the receiver stored."""

    instance: str  # the receiver's name for it; the same object twice bears the same name
    study: str  # Study Instance UID; each image has a study of its own
    moment: float


@dataclass(frozen=True)
class Counts:
    """What a run's transfers and arrivals come to; times in seconds.

    An image is complete when all its result objects have arrived. `missing` are the accepted images that are not, and
    `refused` those that were not accepted. `seconds` is from the first C-STORE to the last object of the last complete
    image. `answer` is from the begin of a C-STORE to its answer. `results` is from that answer to the image's last
    object, and 0 where the object came before the answer.
    """

    images: int
    complete: int
    refused: int
    missing: int
    seconds: float
    images_per_second: float
    answer_p50: float
    results_p50: float
    results_p95: float


def completions(arrivals: Collection[Arrival], objects: int) -> dict[str, float]:
    """Return when each study had so many different objects; studies that have fewer are left out."""
    first: dict[str, dict[str, float]] = {}
    for each in sorted(arrivals, key=lambda arrival: arrival.moment):
        first.setdefault(each.study, {}).setdefault(each.instance, each.moment)
    return {study: list(moments.values())[objects - 1] for study, moments in first.items() if len(moments) >= objects}


def count(transfers: Mapping[str, Transfer], arrivals: Collection[Arrival], objects: int) -> Counts:
    """Count a run.

    Parameters
    ----------
    transfers
        The images that were sent, by Study Instance UID.
    arrivals
        What the receiver stored; objects of other studies do not count.
    objects
        How many result objects the worker makes of one image.

    Raises
    ------
    ValueError
        When no image is complete: there is nothing to measure.
    """
    complete = {study: moment for study, moment in completions(arrivals, objects).items() if study in transfers}
    if not complete:
        raise ValueError("no image has all its results")
    answers = [each.answered - each.begun for each in transfers.values() if each.answered is not None]
    waits = [max(0.0, moment - _answered(transfers[study])) for study, moment in complete.items()]
    seconds = max(complete.values()) - min(each.begun for each in transfers.values())
    return Counts(
        images=len(transfers),
        complete=len(complete),
        refused=sum(not each.accepted for each in transfers.values()),
        missing=sum(each.accepted and study not in complete for study, each in transfers.items()),
        seconds=seconds,
        images_per_second=len(complete) / seconds,
        answer_p50=statistics.median(answers),
        results_p50=float(np.percentile(waits, 50)),
        results_p95=float(np.percentile(waits, 95)),
    )


def _answered(transfer: Transfer) -> float:
    """Return when a C-STORE was answered; where no answer came, when it began."""
    return transfer.begun if transfer.answered is None else transfer.answered
