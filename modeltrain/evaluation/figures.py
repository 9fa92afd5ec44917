"""Pictures of an evaluation: confusion matrix, curves, metric bars, calibration, cases with their heatmaps, as PNG.

Figures are made without pyplot, so nothing global is touched and any thread may draw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_curve

from dicom_io.errors import OutOfResources
from dicom_io.finding import STRONG_EVIDENCE
from modeltrain.data.samples import read_sample
from modeltrain.evaluation.statistics import BINS, Resamples, calibration_curve, calibration_error, interval
from modeltrain.evaluation.subgroups import threshold_rows, worst_errors
from modeltrain.model.outputs import CLASSES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from modeltrain.evaluation.evaluate import Answers, Evaluation

_BLUE, _ORANGE, _GREY = "#2166ac", "#c2571a", "#5f6770"
_DPI = 150
_GRID = np.linspace(0, 1, 201)
_CASES = 3  # cases of each kind in the grid
_CASE_SIDE = 336  # pixels: one and a half times the network's input, so that its pixels do not show


def write_figures(
    answers: Answers,
    evaluation: Evaluation,
    out: Path,
    points: Mapping[str, float],
    lungs: Mapping[str, NDArray[np.float32]] | None = None,
) -> tuple[Path, ...]:
    """Write all figures into a folder (made if absent) and return their paths.

    Parameters
    ----------
    points
        Operating points by name.
    lungs
        How often each place is lung, by class (`modeltrain.evaluation.faithfulness.Faithfulness.lungs`).

    Raises
    ------
    OutOfResources
        The folder cannot be written.
    """
    resamples = Resamples.draw([sample.patient for sample in answers.samples], answers.labels, answers.probability)
    figures = {
        "confusion_matrix.png": confusion_figure(evaluation),
        "roc.png": roc_figure(answers, evaluation, resamples),
        "precision_recall.png": precision_recall_figure(answers, evaluation, resamples),
        "metrics.png": metrics_figure(evaluation, resamples),
        "operating_points.png": points_figure(answers, evaluation, points),
        "calibration.png": calibration_figure(answers, evaluation),
        "mean_maps.png": mean_maps_figure(answers, evaluation, lungs),
        "gradcam_grid.png": cases_figure(answers, evaluation),
        "worst_errors.png": errors_figure(answers, evaluation),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            figure.savefig(out / name, dpi=_DPI, facecolor="white")
    except OSError as error:
        raise OutOfResources(f"{out}: cannot be written ({error.strerror})") from error
    return tuple(out / name for name in figures)


def confusion_figure(evaluation: Evaluation) -> Figure:
    """Draw the confusion matrix: counts, and each as a part of its true class."""
    counts = evaluation.confusion
    table = np.array(
        [[counts.true_negative, counts.false_positive], [counts.false_negative, counts.true_positive]], dtype=float
    )
    share = table / table.sum(axis=1, keepdims=True)
    figure = Figure(figsize=(5.2, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row in range(2):
        for column in range(2):
            ink = "white" if share[row, column] > 0.55 else "#1c2630"
            axes.text(column, row - 0.06, f"{table[row, column]:.0f}", ha="center", va="center", color=ink, size=22)
            axes.text(column, row + 0.2, f"{share[row, column]:.1%}", ha="center", va="center", color=ink, size=11)
    axes.set_xticks([0, 1], CLASSES)
    axes.set_yticks([0, 1], CLASSES, rotation=90, va="center")
    axes.set_xlabel("decision")
    axes.set_ylabel("truth")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _title(axes, "Confusion matrix", evaluation)
    return figure


def roc_figure(answers: Answers, evaluation: Evaluation, resamples: Resamples) -> Figure:
    """Draw the ROC curve with the operating point on it, and the 95 % band of resampled patients."""
    false_positive, true_positive, _ = roc_curve(answers.labels, answers.probability)
    low, high = interval(resamples.auc())
    figure, axes = _square("1 − specificity", "sensitivity")
    _band(axes, resamples.roc(_GRID))
    axes.plot([0, 1], [0, 1], color="#b8bec4", lw=1, ls="--", label="chance")
    label = f"AUC {evaluation.auc:.4f} ({low:.4f} to {high:.4f})"
    axes.plot(false_positive, true_positive, color=_BLUE, lw=2, label=label)
    axes.plot(
        1 - evaluation.specificity,
        evaluation.sensitivity,
        "o",
        color=_ORANGE,
        ms=9,
        label=f"threshold {evaluation.threshold:.4g}: sensitivity {evaluation.sensitivity:.1%}, "
        f"specificity {evaluation.specificity:.1%}",
    )
    axes.legend(loc="lower right", frameon=False, fontsize=8.5)
    _title(axes, "ROC", evaluation)
    return figure


def precision_recall_figure(answers: Answers, evaluation: Evaluation, resamples: Resamples) -> Figure:
    """Draw precision against sensitivity, with the 95 % band of resampled patients."""
    precision, sensitivity, _ = precision_recall_curve(answers.labels, answers.probability)
    average = average_precision_score(answers.labels, answers.probability)
    figure, axes = _square("sensitivity", "precision")
    _band(axes, resamples.precision(_GRID))
    share = evaluation.pneumonia / evaluation.n
    axes.axhline(share, color="#b8bec4", lw=1, ls="--", label=f"chance ({share:.2f})")
    axes.plot(sensitivity, precision, color=_BLUE, lw=2, label=f"average precision {average:.4f}")
    axes.plot(evaluation.sensitivity, evaluation.precision, "o", color=_ORANGE, ms=9, label="operating point")
    axes.legend(loc="lower left", frameon=False, fontsize=8.5)
    _title(axes, "Precision and sensitivity", evaluation)
    return figure


def points_figure(answers: Answers, evaluation: Evaluation, points: Mapping[str, float]) -> Figure:
    """Draw which answers each class gets, where the operating points lie in them, and what each decides."""
    rows = threshold_rows(answers, points)
    figure = Figure(figsize=(11.6, 4.6), layout="constrained")
    axes, beside = figure.subplots(1, 2, width_ratios=(3, 2))
    for label, colour in enumerate((_BLUE, _ORANGE)):
        own = answers.probability[answers.labels == label]
        axes.hist(
            own, bins=40, range=(0, 1), histtype="stepfilled", color=colour, ec=colour, alpha=0.35, label=CLASSES[label]
        )
    styles = dict(zip(rows, ("-", "--", ":", "-.") * len(rows), strict=False))
    for name, row in rows.items():
        axes.axvline(
            row["threshold"], color="#1c2630", lw=1.2, ls=styles[name], label=f"{name}, {row['threshold']:.4g}"
        )
    axes.set(xlabel="stated probability of PNEUMONIA", ylabel="images", yscale="symlog", xlim=(0, 1))
    axes.legend(loc="upper center", frameon=False, fontsize=8.5, ncols=2, bbox_to_anchor=(0.5, -0.13))
    for place, row in enumerate(rows.values()):
        bars = [
            ("sensitivity", _ORANGE, f"{row['missed']} missed"),
            ("specificity", _BLUE, f"{row['false_alarms']} false alarms"),
        ]
        for step, (measure, colour, words) in enumerate(bars):
            beside.barh(place + 0.36 * step - 0.18, row[measure], height=0.32, color=colour, alpha=0.75)
            text = f"{measure} {row[measure]:.1%}, {words}"
            beside.text(0.02, place + 0.36 * step - 0.18, text, va="center", size=8.5)
    beside.set_yticks(range(len(rows)), [name.replace(" missed", "\nmissed") for name in rows])
    beside.set_xlim(0, 1)
    beside.invert_yaxis()
    beside.tick_params(axis="y", length=0)
    for part in (axes, beside):
        part.spines[["top", "right"]].set_visible(False)
    _title(axes, "Decisions at the operating points", evaluation)
    return figure


def calibration_figure(answers: Answers, evaluation: Evaluation) -> Figure:
    """Draw how often images of a stated probability are pneumonias, and how many there are."""
    curve = calibration_curve(answers.probability, answers.labels)
    error = calibration_error(answers.probability, answers.labels)
    figure = Figure(figsize=(5.4, 6.0), layout="constrained")
    axes, below = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    axes.plot([0, 1], [0, 1], color="#b8bec4", lw=1, ls="--", label="perfect")
    stated, observed, _ = zip(*curve, strict=True)
    axes.plot(stated, observed, "o-", color=_BLUE, lw=1.5, ms=5, label=f"expected calibration error {error:.4f}")
    axes.set(ylabel="share of PNEUMONIA", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.legend(loc="upper left", frameon=False, fontsize=8.5)
    below.hist(answers.probability, bins=BINS, range=(0, 1), color=_BLUE, rwidth=0.9)
    below.set(xlabel="stated probability of PNEUMONIA", ylabel="images", yscale="symlog")
    for part in (axes, below):
        part.grid(color="#e6e9ec")
        part.set_axisbelow(True)
        part.spines[["top", "right"]].set_visible(False)
    _title(axes, "Calibration", evaluation)
    return figure


def _square(across: str, up: str) -> tuple[Figure, Axes]:
    """Return a figure whose axes both go from 0 to 1."""
    figure = Figure(figsize=(5.4, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=across, ylabel=up, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.grid(color="#e6e9ec")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _band(axes: Axes, curves: NDArray[np.float64]) -> None:
    """Fill between the 2.5th and 97.5th percentile of resampled curves on the common grid."""
    low, high = np.quantile(curves, [0.025, 0.975], axis=0)
    axes.fill_between(_GRID, low, high, color=_BLUE, alpha=0.15, lw=0, label="95 % interval, by patient")


def metrics_figure(evaluation: Evaluation, resamples: Resamples) -> Figure:
    """Draw the metrics as bars, with 95 % intervals by patient where they are resampled."""
    intervals = {"AUC": interval(resamples.auc())}
    intervals |= resamples.rate_intervals(evaluation.threshold)
    values = {
        "AUC": evaluation.auc,
        "sensitivity": evaluation.sensitivity,
        "specificity": evaluation.specificity,
        "accuracy": evaluation.accuracy,
        "precision": evaluation.precision,
        "F1": evaluation.f1,
    }
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(values), list(values.values()), color=_BLUE, height=0.62)
    for place, (name, value) in enumerate(values.items()):
        low, high = intervals.get(name, (value, value))
        if name in intervals:
            gaps = [[max(value - low, 0)], [max(high - value, 0)]]
            axes.errorbar(value, place, xerr=gaps, color="#1c2630", capsize=3, lw=1.2)
        shown = f"{value:.4f}" + (f"  ({low:.3f} to {high:.3f})" if name in intervals else "")
        axes.text(max(value, high) + 0.02, place, shown, va="center", color="#1c2630", size=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.36)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.grid(axis="x", color="#e6e9ec")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    _title(axes, f"Metrics at threshold {evaluation.threshold:.4g}", evaluation)
    return figure


def choose_cases(answers: Answers, threshold: float) -> dict[str, NDArray[np.int64]]:
    """Pick the cases that tell most: the surest of each kind, and those nearest to the threshold.

    Returns
    -------
    For each kind up to three indices into the answers, the most telling first.
    """
    labels, scores = answers.labels, answers.probability.astype(np.float64)
    positive = scores >= threshold
    kinds = {
        "true positive": ((labels == 1) & positive, -scores),
        "true negative": ((labels == 0) & ~positive, scores),
        "false positive": ((labels == 0) & positive, -scores),
        "false negative": ((labels == 1) & ~positive, scores),
        "borderline": (np.ones_like(positive), np.abs(scores - threshold)),
    }
    return {
        kind: np.flatnonzero(chosen)[np.argsort(order[chosen], kind="stable")][:_CASES]
        for kind, (chosen, order) in kinds.items()
    }


def cases_figure(answers: Answers, evaluation: Evaluation) -> Figure:
    """Draw radiographs beside their evidence maps: one row a kind, the radiograph left and the overlay right."""
    cases = choose_cases(answers, evaluation.threshold)
    figure = Figure(figsize=(13.2, 2.62 * len(cases) + 0.7), layout="constrained")
    grid = figure.subplots(len(cases), 2 * _CASES, squeeze=False)
    for row, (kind, chosen) in zip(grid, cases.items(), strict=True):
        for axes in row:
            axes.axis("off")
        if not chosen.size:
            row[0].text(0.5, 0.5, "none", ha="center", va="center", color=_GREY, size=12, transform=row[0].transAxes)
        row[0].text(
            -0.08, 0.5, kind, rotation=90, ha="right", va="center", size=12, weight="bold", transform=row[0].transAxes
        )
        for place, index in enumerate(chosen):
            _draw_case(row[2 * place], row[2 * place + 1], answers, int(index))
    figure.suptitle(
        f"Evidence for pneumonia, from 0 to log-odds of {STRONG_EVIDENCE:g}\n{evaluation.model}, "
        f"{evaluation.n:,} images, threshold {evaluation.threshold:.4g}",
        size=12,
    )
    return figure


def mean_maps_figure(
    answers: Answers, evaluation: Evaluation, lungs: Mapping[str, NDArray[np.float32]] | None
) -> Figure:
    """Draw the mean evidence map of each true class on one absolute scale, with the outline of the mean lungs."""
    figure = Figure(figsize=(8.6, 4.6), layout="constrained")
    both = figure.subplots(1, 2)
    shown = None
    for axes, (label, name) in zip(both, enumerate(CLASSES), strict=True):
        maps = answers.evidence[answers.labels == label]
        side = maps.shape[1]
        shown = axes.imshow(
            maps.mean(axis=0),
            cmap="inferno",
            vmin=0,
            vmax=STRONG_EVIDENCE,
            extent=(0, side, side, 0),
            interpolation="bilinear",
        )
        if lungs:
            outline = cv2.resize(lungs[name], (side, side), interpolation=cv2.INTER_AREA)
            middles = np.arange(side) + 0.5
            axes.contour(middles, middles, outline, levels=[0.5], colors="white", linewidths=0.8)
        axes.set_title(f"{name}   {len(maps):,} images", size=10)
        axes.axis("off")
    if shown is not None:
        figure.colorbar(shown, ax=list(both), shrink=0.8, label="evidence for pneumonia, log-odds")
    figure.suptitle(f"Mean heatmap of each class\n{evaluation.model}", size=12)
    return figure


def errors_figure(answers: Answers, evaluation: Evaluation) -> Figure:
    """Draw the worst errors, each beside its overlay."""
    chosen = worst_errors(answers, evaluation.threshold)
    rows = max(1, -(-len(chosen) // _CASES))
    figure = Figure(figsize=(13.2, 2.62 * rows + 0.7), layout="constrained")
    grid = figure.subplots(rows, 2 * _CASES, squeeze=False)
    for axes in grid.ravel():
        axes.axis("off")
    if not chosen:
        grid[0, 0].text(0.5, 0.5, "no errors", ha="center", va="center", color=_GREY, size=12)
    for place, index in enumerate(chosen):
        row, column = divmod(place, _CASES)
        _draw_case(grid[row, 2 * column], grid[row, 2 * column + 1], answers, index)
    figure.suptitle(f"Errors farthest from the threshold {evaluation.threshold:.4g}\n{evaluation.model}", size=12)
    return figure


def _draw_case(left: Axes, right: Axes, answers: Answers, index: int) -> None:
    sample = answers.samples[index]
    grey = read_sample(sample, _CASE_SIDE)[0]
    left.imshow(grey, cmap="gray", vmin=0, vmax=1)
    left.set_title(f"{CLASSES[sample.label]}   p = {answers.probability[index]:.3f}", size=9, loc="left")
    left.text(0, _CASE_SIDE + 6, sample.title or sample.path.stem, size=7, color=_GREY, va="top")
    fine = cv2.resize(answers.evidence[index], grey.shape[::-1], interpolation=cv2.INTER_CUBIC)
    heat = np.clip(fine / STRONG_EVIDENCE, 0, 1)
    right.imshow(grey, cmap="gray", vmin=0, vmax=1)
    # Opaque only where the map is high: what the network did not look at stays a plain radiograph.
    right.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.65 * np.sqrt(heat))


def _title(axes: Axes, title: str, evaluation: Evaluation) -> None:
    axes.set_title(f"{title}\n", size=13, weight="bold")
    axes.text(
        0.5,
        1.025,
        f"{evaluation.model} · {evaluation.normal:,} NORMAL and {evaluation.pneumonia:,} PNEUMONIA images",
        ha="center",
        size=8.5,
        color=_GREY,
        transform=axes.transAxes,
    )
