"""Drift: recent scores and images compared with the model's validation set."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from sqlalchemy import ColumnElement, distinct, exists, func, literal, select, union_all

from dicom_io.errors import CxrdError, InvalidModel, OutOfResources
from dicom_io.finding import Answer
from modeltrain.model.card import Card, load_card
from worker.health.cached import Cached
from worker.inference.serving import model_folder
from worker.ledger.database import open_ledger
from worker.ledger.receipts import Ledger
from worker.ledger.tables import FindingRow, OutsideRow, ReceiptRow
from worker.metrics import gauge

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from worker.settings import Settings

MEASURES = {"probability": "probability", "input_mean": "mean of the input", "input_std": "contrast of the input"}
OUT_OF_DISTRIBUTION = "out of distribution"
LEAST = 50  # images, below which no verdict is given
_WATCH, _DRIFT = 0.1, 0.25  # the customary limits of the population stability index
_BINS = 10
_BLUE, _GREY = "#2166ac", "#b8bec4"


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
    """A period's drift.

    ``n`` counts the images that the model has looked at, among them ``left_out``: those that it left out without an
    answer. ``others`` counts the images that only other models have answered. ``answers`` counts those of ``n`` by
    answer; what was left out counts as outside. ``ood_verdict`` is that on ``ood_rate``; ``verdict`` is the worst of
    all.
    """

    model: str
    n: int
    left_out: int
    others: int
    answers: dict[str, int]
    measures: tuple[Measure, ...]
    ood_rate: float | None
    reference_ood_rate: float | None
    ood_verdict: str
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Period:
    """What the ledger holds of the current model's images in a period: one array for each measure, and outlier.

    ``n``, ``left_out`` and ``answers`` as in `Drift`: an image that was left out has no probability, but all the rest.
    """

    values: dict[str, NDArray[np.float64]]
    outlier: NDArray[np.float64]
    n: int
    left_out: int
    others: int
    answers: dict[str, int]


@dataclass(frozen=True)
class DriftRequest:
    """Images received from `since` on and before `until`; a PNG file for their distributions where one is wanted."""

    since: dt.datetime | None = None
    until: dt.datetime | None = None
    picture: Path | None = None


def drift_of(settings: Settings, request: DriftRequest) -> Drift:
    """Compare the images of a period with the serving model's reference, and draw them where a picture is asked for.

    Raises
    ------
    InvalidModel
        The model's card has no reference.
    OutOfResources
        The picture cannot be written.
    """
    card = load_card(model_folder(settings))
    images = period(open_ledger(settings), card, request.since, request.until)
    result = drift(images, card)
    if request.picture:
        try:
            figure(images, result, card).savefig(request.picture, dpi=120, facecolor="white")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OutOfResources(f"{request.picture}: cannot be written ({reason})") from error
    return result


def period(
    ledger: Ledger, card: Card, since: dt.datetime | None, until: dt.datetime | None, *, latest: int | None = None
) -> Period:
    """Read a period from the ledger: what this model saw in its images, whether or not another one spoke later.

    `latest` restricts it to so many received objects, the last ones.
    """
    first = _first_of(ledger, latest) if latest else 0
    limits: list[ColumnElement[bool]] = [ReceiptRow.id >= first]
    limits += [ReceiptRow.received_at >= since] if since else []
    limits += [ReceiptRow.received_at < until] if until else []
    answered = exists().where(
        FindingRow.receipt_id == OutsideRow.receipt_id,
        FindingRow.model_sha256 == OutsideRow.model_sha256,
    )
    columns = (getattr(FindingRow, name) for name in (*MEASURES, "outlier", "answer"))
    answered_rows = select(FindingRow.receipt_id, *columns)
    stopped = select(
        OutsideRow.receipt_id,
        literal(None, FindingRow.probability.type),
        OutsideRow.input_mean,
        OutsideRow.input_std,
        OutsideRow.outlier,
        literal(Answer.OUTSIDE.value, FindingRow.answer.type),
    )
    # An image that was left out once and answered later, under other settings, counts once.
    stopped = stopped.where(OutsideRow.model_sha256 == card.sha256, OutsideRow.receipt_id >= first, ~answered)
    answered_rows = answered_rows.where(FindingRow.model_sha256 == card.sha256, FindingRow.receipt_id >= first)
    looked = union_all(answered_rows, stopped).subquery()
    others = select(func.count(distinct(ReceiptRow.id))).join(FindingRow, FindingRow.receipt_id == ReceiptRow.id)
    others = others.where(~exists().where(looked.c.receipt_id == ReceiptRow.id), *limits)
    query = select(*list(looked.c)[1:]).join(ReceiptRow, ReceiptRow.id == looked.c.receipt_id).where(*limits)
    with ledger.reading() as connection:
        rows = connection.execute(query.order_by(ReceiptRow.id)).all()
        count = connection.scalar(others) or 0
    answers = Counter(row.answer for row in rows)
    table = np.array([[np.nan if value is None else value for value in row[:-1]] for row in rows], dtype=np.float64)
    table = table.reshape(len(rows), len(MEASURES) + 1)
    values = {name: table[:, place][~np.isnan(table[:, place])] for place, name in enumerate(MEASURES)}
    left_out = len(rows) - len(values["probability"])
    outlier = table[:, -1][~np.isnan(table[:, -1])]
    return Period(values, outlier, len(rows), left_out, count, {each.value: answers[each.value] for each in Answer})


def _first_of(ledger: Ledger, latest: int) -> int:
    """Return the number of the first one of the received objects that came last."""
    query = select(ReceiptRow.id).order_by(ReceiptRow.id.desc()).offset(latest - 1).limit(1)
    with ledger.reading() as connection:
        return connection.scalar(query) or 0


def drift(recent: Period, card: Card, *, test: bool = True) -> Drift:
    """Hold a period to the model's reference.

    Parameters
    ----------
    test
        Make Kolmogorov and Smirnov's test too, which needs SciPy; no verdict depends on it.

    Raises
    ------
    InvalidModel
        The model's card has no reference (models of cxrd 1.0).
    """
    reference = reference_of(card)
    measures = tuple(_measure(name, recent.values[name], reference[name], test=test) for name in MEASURES)
    rate = float((recent.outlier >= 1).mean()) if recent.outlier.size else None
    reference_rate = reference["ood_rate"]
    ood_verdict = "too few images"
    if rate is not None and reference_rate is not None and recent.outlier.size >= LEAST:
        ood_verdict = "drift" if rate > ood_limit(reference_rate, recent.outlier.size) else "stable"
    verdicts = [*(measure.verdict for measure in measures), ood_verdict]
    worst = next((each for each in ("drift", "watch", "stable") if each in verdicts), "too few images")
    return Drift(
        model=card.label,
        n=recent.n,
        left_out=recent.left_out,
        others=recent.others,
        answers=recent.answers,
        measures=measures,
        ood_rate=rate,
        reference_ood_rate=reference_rate,
        ood_verdict=ood_verdict,
        verdict=worst,
    )


def ood_limit(reference_rate: float, n: int) -> float:
    """Return the share of images out of distribution from which it is drift.

    It is three standard errors above the reference's share, or twice that, whichever is more.
    """
    spread = float(np.sqrt(max(reference_rate, 0.01) * (1 - reference_rate) / n))
    return max(reference_rate + 3 * spread, 2 * reference_rate)


def reference_of(card: Card) -> dict[str, Any]:
    """Return the card's reference: a hundred and one quantiles for each measure."""
    reference = card.raw.get("reference")
    if not isinstance(reference, dict) or any(len(reference.get(name, ())) != 101 for name in MEASURES):
        raise InvalidModel(f"{card.label}: its card holds no reference to compare with")
    return reference


def stability_index(observed: NDArray[np.float64], quantiles: NDArray[np.float64]) -> float:
    """Return the population stability index of values over the reference's deciles.

    It is the sum of the two relative entropies of the binned shares (Jeffreys's divergence), in nats.
    """
    edges = quantiles[10:91:10]
    counts = np.bincount(np.searchsorted(edges, observed, side="right"), minlength=_BINS)
    # The reference itself goes the same way: where values are tied, deciles do not hold a tenth each.
    expected = np.bincount(np.searchsorted(edges, _sample(quantiles), side="right"), minlength=_BINS)
    least = (np.maximum(each / each.sum(), 1e-4) for each in (counts, expected))
    here, there = (each / each.sum() for each in least)
    return float(((here - there) * np.log(here / there)).sum())


def _sample(quantiles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a thousand values that are distributed as the quantiles say."""
    return np.interp((np.arange(1000) + 0.5) / 1000, np.linspace(0, 1, len(quantiles)), quantiles)


def _measure(name: str, observed: NDArray[np.float64], quantiles: list[float], *, test: bool) -> Measure:
    if len(observed) < LEAST:
        return Measure(name, float("nan"), float("nan"), float("nan"), "too few images")
    reference = np.asarray(quantiles, dtype=np.float64)
    index = stability_index(observed, reference)
    verdict = "stable" if index < _WATCH else "watch" if index <= _DRIFT else "drift"
    statistic, p_value = _kolmogorov_smirnov(observed, reference) if test else (float("nan"), float("nan"))
    return Measure(name, round(index, 4), round(statistic, 4), p_value, verdict)


def _kolmogorov_smirnov(observed: NDArray[np.float64], reference: NDArray[np.float64]) -> tuple[float, float]:
    from scipy.stats import kstest  # noqa: PLC0415 - the extra `evaluate`

    result = kstest(observed, _sample(reference))
    return float(result.statistic), float(result.pvalue)


def figure(recent: Period, result: Drift, card: Card) -> Figure:
    """Draw each measure's distribution beside the reference's, and the share of images out of distribution."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - the extra `evaluate`

    reference = reference_of(card)
    picture = Figure(figsize=(14.5, 4), layout="constrained")
    *panels, last = picture.subplots(1, len(MEASURES) + 1, width_ratios=[*[4] * len(MEASURES), 3])
    for axes, measure in zip(panels, result.measures, strict=True):
        expected, here = _sample(np.asarray(reference[measure.name])), recent.values[measure.name]
        both = np.concatenate([expected, here])
        bins = np.linspace(float(both.min()), float(both.max()) + 1e-9, 31)
        axes.hist(expected, bins, weights=np.full(len(expected), 1 / len(expected)), color=_GREY, label="reference")
        if len(here):
            share = np.full(len(here), 1 / len(here))
            axes.hist(here, bins, weights=share, histtype="step", color=_BLUE, lw=2, label="period")
        index = "" if np.isnan(measure.psi) else f"PSI {measure.psi:.3f}, "
        axes.set_title(f"{MEASURES[measure.name]}\n{index}{measure.verdict}", size=11)
        axes.set_ylabel("share of images")
        axes.legend(frameon=False, fontsize=9)
    _draw_out_of_distribution(last, result, recent.outlier.size)
    for axes in (*panels, last):
        axes.spines[["top", "right"]].set_visible(False)
    left_out = f", {result.left_out} of them left out as outside" if result.left_out else ""
    picture.suptitle(f"{result.model}: {result.n} images{left_out}; {result.verdict}", size=13, weight="bold")
    return picture


def _draw_out_of_distribution(axes: Axes, result: Drift, n: int) -> None:
    """Draw the share of images out of distribution beside the reference's, and from where on it is drift."""
    bars = [(result.reference_ood_rate, _GREY), (result.ood_rate, _BLUE)]
    for place, (rate, colour) in enumerate(bars):
        axes.bar(place, rate or 0.0, color=colour, width=0.6)
        axes.text(place, rate or 0.0, "unknown" if rate is None else f"{rate:.1%}", ha="center", va="bottom", size=10)
    top = max(rate or 0.0 for rate, _ in bars)
    if result.reference_ood_rate is not None and n >= LEAST:
        limit = ood_limit(result.reference_ood_rate, n)
        axes.axhline(limit, color="#c2571a", lw=1.2, ls="--", label=f"drift from {limit:.1%}")
        axes.legend(frameon=False, fontsize=9, loc="upper left")
        top = max(top, limit)
    axes.set_ylim(0, max(1.35 * top, 0.01))
    axes.set_xticks([0, 1], ["reference", "period"])
    axes.set_title(f"{OUT_OF_DISTRIBUTION}\n{result.ood_verdict}", size=11)
    axes.set_ylabel("share of images")


def gauges(result: Drift) -> Iterator[GaugeMetricFamily]:
    """Yield the figures for Prometheus; what is not known is left out."""
    yield gauge("cxrd_drift_images", "Images of the period", result.n)
    yield gauge("cxrd_drift_left_out_images", "Of these, left out", result.left_out)
    yield gauge("cxrd_drift_answers", "Images of the period by answer", result.answers, "answer")
    index = {each.name: each.psi for each in result.measures if not np.isnan(each.psi)}
    yield gauge("cxrd_drift_psi", "Population stability index", index, "measure")
    statistic = {each.name: each.ks for each in result.measures if not np.isnan(each.ks)}
    if statistic:
        yield gauge("cxrd_drift_ks", "Kolmogorov-Smirnov statistic", statistic, "measure")
    if result.ood_rate is not None:
        yield gauge("cxrd_ood_ratio", "Share of images out of distribution", result.ood_rate)
    yield gauge("cxrd_drift", "1 where the verdict is drift", result.verdict == "drift")


def metrics(result: Drift) -> str:
    """Return the figures in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(_Fixed(tuple(gauges(result))))
    return generate_latest(registry).decode()


@dataclass(frozen=True, eq=False)
class _Fixed:
    families: tuple[GaugeMetricFamily, ...]

    def collect(self) -> tuple[GaugeMetricFamily, ...]:
        return self.families


class DriftGauges:
    """The figures of the images that came last, for a process that serves: looked at now and then."""

    LATEST = 2000
    """Received objects that are looked at."""
    LASTS = 900.0
    """Seconds until they are looked at again."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._card: Card | None = None
        self._cached: Cached[tuple[GaugeMetricFamily, ...]] | None = None

    def collect(self, card: Card) -> tuple[GaugeMetricFamily, ...]:
        """Return the gauges of the model that serves; none where its card has no reference, or the ledger is away."""
        if self._cached is None or self._card is not card:
            self._card, self._cached = card, Cached(lambda: self._ask(card), self.LASTS)
        try:
            return self._cached.get()
        except (CxrdError, TimeoutError):
            return ()

    def _ask(self, card: Card) -> tuple[GaugeMetricFamily, ...]:
        recent = period(self._ledger, card, None, None, latest=self.LATEST)
        return tuple(gauges(drift(recent, card, test=False)))
