"""Drift: do the live images and answers still look like those on which the model was judged?"""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import kstest
from sqlalchemy import ColumnElement, distinct, func, select

from dicom_io.errors import InvalidModel
from modeltrain.registry import Card
from worker.ledger import Ledger
from worker.tables import FindingRow, ReceiptRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

MEASURES = {"probability": "probability", "input_mean": "mean of the input", "input_std": "contrast of the input"}
LEAST = 50  # images, below which no verdict is given
_WATCH, _DRIFT = 0.1, 0.25  # the customary limits of the population stability index
_BINS = 10


@dataclass(frozen=True)
class Measure:
    """One measure of a period against the reference.

    ``psi`` is the population stability index over the reference's deciles; ``ks`` and ``p_value`` are those of
    Kolmogorov and Smirnov's test; ``verdict`` is stable, watch, drift or too few images.
    """

    name: str
    psi: float
    ks: float
    p_value: float
    verdict: str


@dataclass(frozen=True)
class Drift:
    """A period's drift. ``others`` counts the images that only other models have answered."""

    model: str
    n: int
    others: int
    measures: tuple[Measure, ...]
    ood_rate: float | None
    reference_ood_rate: float | None
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Period:
    """What the ledger holds of the current model's images in a period: one array for each measure, and outlier."""

    values: dict[str, NDArray[np.float64]]
    outlier: NDArray[np.float64]
    others: int


def period(ledger: Ledger, card: Card, since: dt.datetime | None, until: dt.datetime | None) -> Period:
    """Read a period from the ledger: what this model said of its images, whether or not another one spoke later."""
    limits: list[ColumnElement[bool]] = []
    limits += [ReceiptRow.received_at >= since] if since else []
    limits += [ReceiptRow.received_at < until] if until else []
    said = FindingRow.receipt_id == ReceiptRow.id
    own = said & (FindingRow.model_sha256 == card.sha256)
    columns = [getattr(FindingRow, name) for name in MEASURES]
    images = select(func.count(distinct(ReceiptRow.id))).join(FindingRow, said)
    with ledger.reading() as connection:
        query = select(*columns, FindingRow.outlier).join(ReceiptRow, own).where(*limits)
        rows = connection.execute(query.order_by(ReceiptRow.id)).all()
        others = (connection.scalar(images.where(*limits)) or 0) - len(rows)
    table = np.array([[np.nan if value is None else value for value in row] for row in rows], dtype=np.float64)
    table = table.reshape(len(rows), len(MEASURES) + 1)
    values = {name: table[:, place][~np.isnan(table[:, place])] for place, name in enumerate(MEASURES)}
    return Period(values, table[:, -1][~np.isnan(table[:, -1])], others)


def drift(seen: Period, card: Card) -> Drift:
    """Hold a period to the model's reference.

    Raises
    ------
    InvalidModel
        The model's card has no reference (models of cxrd 1.0).
    """
    reference = reference_of(card)
    measures = tuple(_measure(name, seen.values[name], reference[name]) for name in MEASURES)
    rate = float((seen.outlier >= 1).mean()) if seen.outlier.size else None
    known = reference["ood_rate"]
    verdicts = [measure.verdict for measure in measures]
    if rate is not None and known is not None and seen.outlier.size >= LEAST:
        # Three standard errors above the reference's rate, or twice that rate, whichever is more.
        spread = 3 * float(np.sqrt(max(known, 0.01) * (1 - known) / seen.outlier.size))
        verdicts.append("drift" if rate > max(known + spread, 2 * known) else "stable")
    worst = next((each for each in ("drift", "watch", "stable") if each in verdicts), "too few images")
    return Drift(card.label, len(seen.values["probability"]), seen.others, measures, rate, known, worst)


def reference_of(card: Card) -> dict[str, Any]:
    """Return the card's reference: a hundred and one quantiles for each measure."""
    reference = card.raw.get("reference")
    if not isinstance(reference, dict) or any(len(reference.get(name, ())) != 101 for name in MEASURES):
        raise InvalidModel(f"{card.label}: its card holds no reference to compare with")
    return reference


def stability_index(seen: NDArray[np.float64], quantiles: NDArray[np.float64]) -> float:
    """Return the population stability index of values over the reference's deciles."""
    edges = quantiles[10:91:10]
    counts = np.bincount(np.searchsorted(edges, seen, side="right"), minlength=_BINS)
    # The reference itself goes the same way: where values are tied, deciles do not hold a tenth each.
    expected = np.bincount(np.searchsorted(edges, _sample(quantiles), side="right"), minlength=_BINS)
    here, there = (np.maximum(each / each.sum(), 1e-4) for each in (counts, expected))
    return float(((here - there) * np.log(here / there)).sum())


def _sample(quantiles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a thousand values that are distributed as the quantiles say."""
    return np.interp((np.arange(1000) + 0.5) / 1000, np.linspace(0, 1, len(quantiles)), quantiles)


def _measure(name: str, seen: NDArray[np.float64], quantiles: list[float]) -> Measure:
    if len(seen) < LEAST:
        return Measure(name, float("nan"), float("nan"), float("nan"), "too few images")
    known = np.asarray(quantiles, dtype=np.float64)
    index = stability_index(seen, known)
    test = kstest(seen, _sample(known))
    verdict = "stable" if index < _WATCH else "watch" if index <= _DRIFT else "drift"
    return Measure(name, round(index, 4), round(float(test.statistic), 4), float(test.pvalue), verdict)


def figure(seen: Period, found: Drift, card: Card) -> Figure:
    """Draw each measure's distribution beside the reference's."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - the extra `evaluate`

    reference = reference_of(card)
    picture = Figure(figsize=(12, 4), layout="constrained")
    for axes, measure in zip(picture.subplots(1, len(MEASURES)), found.measures, strict=True):
        known, here = _sample(np.asarray(reference[measure.name])), seen.values[measure.name]
        both = np.concatenate([known, here])
        bins = np.linspace(float(both.min()), float(both.max()) + 1e-9, 31)
        axes.hist(known, bins, weights=np.full(len(known), 1 / len(known)), color="#b8bec4", label="reference")
        if len(here):
            share = np.full(len(here), 1 / len(here))
            axes.hist(here, bins, weights=share, histtype="step", color="#2166ac", lw=2, label="period")
        index = "" if np.isnan(measure.psi) else f"PSI {measure.psi:.3f}, "
        axes.set_title(f"{MEASURES[measure.name]}\n{index}{measure.verdict}", size=11)
        axes.set_ylabel("share of images")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    picture.suptitle(f"{found.model}: {found.n} images, {found.verdict}", size=13, weight="bold")
    return picture


def metrics(found: Drift) -> str:
    """Return the figures in Prometheus's text format."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest  # noqa: PLC0415 - the extra `evaluate`

    registry = CollectorRegistry()
    Gauge("cxrd_drift_images", "Images of the period", registry=registry).set(found.n)
    index = Gauge("cxrd_drift_psi", "Population stability index", ["measure"], registry=registry)
    statistic = Gauge("cxrd_drift_ks", "Kolmogorov-Smirnov statistic", ["measure"], registry=registry)
    for measure in found.measures:
        index.labels(measure.name).set(measure.psi)
        statistic.labels(measure.name).set(measure.ks)
    if found.ood_rate is not None:
        Gauge("cxrd_ood_ratio", "Share of images outside the population", registry=registry).set(found.ood_rate)
    Gauge("cxrd_drift", "1 where the verdict is drift", registry=registry).set(found.verdict == "drift")
    return generate_latest(registry).decode()
