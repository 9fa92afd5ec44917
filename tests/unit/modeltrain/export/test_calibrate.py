"""Calibration, operating points, conformal sets: fitted on made-up answers of known distribution, and applied."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.stats import binom

from dicom_io.errors import InvalidModel, InvalidSettings
from modeltrain.data.samples import Split
from modeltrain.export import int8_comparison
from modeltrain.export.calibrate import (
    CONFIDENCE,
    COVERAGE,
    VOUCHED,
    Raw,
    fit_all,
    fit_calibration,
    fit_conformal,
    least_sensitivity,
    operating_points,
    reference,
)
from modeltrain.model.card import load_card, shipped_model
from modeltrain.model.decision import BALANCED, SCREENING, Decider, calibrated
from modeltrain.model.outputs import Outputs
from tests.unit.modeltrain.toys import predictor

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from modeltrain.model.card import Card


def answers(n: int, sharpness: float, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits whose difference is `sharpness` times the true log odds, and labels drawn by those odds."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0.5, 3, n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-odds))).astype(np.int64)
    return np.stack([np.zeros(n), sharpness * odds], axis=1).astype(np.float32), labels


def raw(n: int = 2000, seed: int = 0) -> Raw:
    logits, labels = answers(n, 2.0, seed)
    return Raw(logits, labels, np.full((n, 2), 0.5, np.float32), np.linspace(0, 2, n, dtype=np.float32))


def card_with(**parts: Any) -> Card:
    card = load_card(shipped_model())
    points = {name: point["threshold"] for name, point in parts.get("operating_points", {}).items()}
    return replace(card, raw={**card.raw, "calibration": None, "conformal": None, **parts}, operating_points=points)


def outputs(*difference: float, subtype: float = np.nan, outlier: float = np.nan) -> Outputs:
    n = len(difference)
    return Outputs(
        np.array([[0, each] for each in difference], np.float32),
        np.zeros((n, 7, 7), np.float32),
        np.tile(np.array([0, 0, 1, 1], np.float32), (n, 1)),
        np.ones((n, 1, 1), np.float32),
        np.tile(np.array([0, subtype], np.float32), (n, 1)),
        np.full(n, outlier, np.float32),
    )


def test_calibration_finds_how_much_too_sure_a_network_is() -> None:
    logits, labels = answers(20_000, sharpness=2.5)
    fitted = fit_calibration(logits, labels)
    assert fitted["slope"] == pytest.approx(1 / 2.5, rel=0.05)
    assert fitted["intercept"] == pytest.approx(0, abs=0.08)
    probability = calibrated(logits, fitted["slope"], fitted["intercept"])
    for low in np.arange(0, 1, 0.2):
        inside = (probability >= low) & (probability < low + 0.2)
        assert probability[inside].mean() == pytest.approx(labels[inside].mean(), abs=0.03)


def test_calibration_of_separable_answers_stays_finite_and_keeps_their_order() -> None:
    fitted = fit_calibration(np.array([[0, -5], [0, -4], [0, 4], [0, 5]], np.float32), np.array([0, 0, 1, 1]))
    assert 0 < fitted["slope"] < 100
    turned = fit_calibration(np.array([[0, 5], [0, 4], [0, -4], [0, -5]], np.float32), np.array([0, 0, 1, 1]))
    assert turned["slope"] > 0, "a network that is wrong is not turned over behind its back"


def test_calibrated_probabilities_do_not_overflow() -> None:
    extreme = calibrated(np.array([[0, 1e4], [1e4, 0]], np.float32), 1.0, 0.0)
    assert extreme.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(("found", "positives"), [(428, 428), (425, 428), (10, 12), (1, 3)])
def test_the_bound_of_a_sensitivity_is_clopper_pearson_s(found: int, positives: int) -> None:
    """At the bound, finding as many as this or more has a chance of exactly one minus the confidence."""
    bound = least_sensitivity(found, positives)
    assert binom.sf(found - 1, positives, bound) == pytest.approx(1 - CONFIDENCE, rel=1e-6)
    assert least_sensitivity(0, positives) == 0


def test_operating_points_are_the_highest_that_are_vouched_for() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], [300, 428])
    probability = np.concatenate([rng.beta(1, 6, 300), rng.beta(6, 1, 428)]).astype(np.float32)
    points = operating_points(labels, probability)
    assert points[SCREENING]["threshold"] < points[BALANCED]["threshold"]
    positives = probability[labels == 1]
    for name, wanted in VOUCHED.items():
        threshold = points[name]["threshold"]
        found = int((positives >= threshold).sum())
        assert least_sensitivity(found, 428) >= wanted
        assert points[name]["sensitivity"] == pytest.approx(found / 428, abs=1e-4)
        assert points[name]["specificity"] == pytest.approx((probability[labels == 0] < threshold).mean(), abs=1e-4)
        above = probability[probability >= threshold].min()
        fewer = int((positives >= above + 1e-4).sum())
        assert least_sensitivity(fewer, 428) < wanted, "a higher threshold would do as well"
        below = probability[probability < threshold].max()
        assert threshold == pytest.approx((float(above) + float(below)) / 2, abs=2e-4), "as far from both"


def test_a_threshold_is_vouched_for_in_each_file_of_a_model() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], [300, 428])
    files = [np.concatenate([rng.beta(1, 6, 300), rng.beta(6, 1, 428)]).astype(np.float32) for _ in range(2)]
    points = operating_points(labels, *files)
    assert points == operating_points(labels, *files[::-1])
    pooled = np.concatenate(files)
    for name, wanted in VOUCHED.items():
        threshold = points[name]["threshold"]
        found = [int((each[labels == 1] >= threshold).sum()) for each in files]
        assert least_sensitivity(min(found), 428) >= wanted
        above, below = pooled[pooled >= threshold].min(), pooled[pooled < threshold].max()
        fewer = [int((each[labels == 1] >= above + 1e-4).sum()) for each in files]
        assert least_sensitivity(min(fewer), 428) < wanted, "a higher threshold would do as well"
        assert threshold == pytest.approx((float(above) + float(below)) / 2, abs=2e-4), "as far from either's scores"
        assert points[name]["sensitivity"] == pytest.approx(min(found) / 428, abs=1e-4)
        specificity = min((each[labels == 0] < threshold).mean() for each in files)
        assert points[name]["specificity"] == pytest.approx(specificity, abs=1e-4)


@pytest.mark.parametrize("kept", [True, False])
def test_the_int8_file_is_kept_with_thresholds_that_hold_in_both(
    kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fp32 = raw()
    logits = fp32.logits.copy()
    order = np.flatnonzero(fp32.labels == 1)[np.argsort((logits[:, 1] - logits[:, 0])[fp32.labels == 1])]
    logits[order[:40], 1] -= 0.02 if kept else 1  # what is hard to find is harder for the int8 file
    monkeypatch.setattr(int8_comparison, "raw_answers", lambda _predict, _samples: replace(fp32, logits=logits))
    monkeypatch.setattr(int8_comparison, "onnx_predictor", lambda _path: predictor([0.1]))
    fitted = fit_all(fp32)
    other_images = np.zeros((1, 1, 8, 8), np.float32)
    said, points = int8_comparison.compare_int8(tmp_path, Split((), ()), predictor([0.1]), fp32, fitted, other_images)
    assert said["kept"] is kept
    scale = fitted["calibration"]
    scores = [calibrated(each, scale["slope"], scale["intercept"]) for each in (fp32.logits, logits)]
    assert points == operating_points(fp32.labels, *scores)
    own = fitted["operating_points"][SCREENING]["threshold"]
    assert points[SCREENING]["threshold"] < own
    differ = [int(((scores[0] >= t) != (scores[1] >= t)).sum()) for t in (own, points[SCREENING]["threshold"])]
    assert said["decisions_that_differ"][SCREENING] == max(differ) > 0


def test_few_pneumonias_vouch_for_little_and_none_is_missed() -> None:
    points = operating_points(np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.2, 0.3, 0.8, 0.9], np.float32))
    assert points[SCREENING]["threshold"] == pytest.approx(0.25, abs=1e-4), "halfway to the next score"
    assert points[SCREENING]["sensitivity_at_least"] == pytest.approx(least_sensitivity(3, 3), abs=1e-4)


def test_conformal_sets_cover_each_class_on_fresh_answers() -> None:
    """Over many draws, the share of sets that hold the truth is at least what is stated, for each class by itself."""
    covered: dict[int, list[float]] = {0: [], 1: []}
    for seed in range(60):
        logits, labels = answers(800, 1.0, seed)
        probability = calibrated(logits, 1.0, 0.0)
        decider = Decider(card_with(conformal=fit_conformal(probability[:400], labels[:400]), operating_points=POINTS))
        for label, name in enumerate(("NORMAL", "PNEUMONIA")):
            fresh = probability[400:][labels[400:] == label]
            covered[label].append(float(np.mean([name in (decider.prediction_set(float(p)) or ()) for p in fresh])))
    for label in (0, 1):
        assert np.mean(covered[label]) == pytest.approx(COVERAGE, abs=0.012)
        assert np.mean(covered[label]) >= COVERAGE - 0.003


def test_a_class_with_too_few_answers_is_always_held_possible() -> None:
    fitted = fit_conformal(np.array([0.1, 0.9], np.float32), np.array([0, 1]))
    assert fitted["least_probability"] == {"NORMAL": 0.0, "PNEUMONIA": 0.0}


POINTS = {SCREENING: {"threshold": 0.2}, BALANCED: {"threshold": 0.6}}


def test_a_judgement_says_all_that_the_card_lets_it() -> None:
    least = {"least_probability": {"NORMAL": 0.3, "PNEUMONIA": 0.4}}
    card = card_with(operating_points=POINTS, conformal=least, calibration={"slope": 0.5, "intercept": 1.0})
    unsure, sure, negative = Decider(card)(outputs(-2.0, 4.0, -9.0, subtype=-3.0, outlier=1.2))
    assert unsure.probability == pytest.approx(0.5)
    assert (unsure.decision, unsure.threshold, unsure.operating_point) == ("PNEUMONIA", 0.2, SCREENING)
    assert unsure.prediction_set == ("NORMAL", "PNEUMONIA")
    assert sure.probability == pytest.approx(1 / (1 + np.exp(-3)), rel=1e-5)
    assert sure.prediction_set == ("PNEUMONIA",)
    assert sure.agent == "bacteria"
    assert sure.agent_probability == pytest.approx(1 / (1 + np.exp(-3)), rel=1e-5)
    assert sure.outlier == pytest.approx(1.2)
    assert (negative.decision, negative.agent, negative.agent_probability) == ("NORMAL", None, None)


def test_neither_class_may_be_probable_enough() -> None:
    least = {"least_probability": {"NORMAL": 0.9, "PNEUMONIA": 0.9}}
    assert Decider(card_with(operating_points=POINTS, conformal=least)).prediction_set(0.5) == ()


def test_a_model_of_the_first_format_says_what_it_can() -> None:
    card = card_with(operating_points={SCREENING: {"threshold": 0.2}})
    (one,) = Decider(card)(outputs(0.0))
    assert one.probability == 0.5
    assert (one.prediction_set, one.outlier, one.agent) == (None, None, None)


def test_the_site_s_choice_of_operating_point() -> None:
    card = card_with(operating_points=POINTS)
    assert Decider(card, BALANCED).threshold == 0.6
    own = Decider(card, BALANCED, 0.33)
    assert (own.threshold, own.operating_point) == (0.33, "custom")
    with pytest.raises(InvalidSettings, match=r"quick: .* has screening, balanced"):
        Decider(card, "quick")


@pytest.mark.parametrize(
    "parts",
    [
        {"calibration": {"slope": -1.0, "intercept": 0.0}},
        {"calibration": {"slope": float("nan"), "intercept": 0.0}},
        {"calibration": {"slope": 1.0}},
        {"conformal": {"least_probability": {"NORMAL": 0.1}}},
    ],
)
def test_a_card_that_would_answer_nonsense_is_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(InvalidModel):
        Decider(card_with(operating_points=POINTS, **parts))


def test_the_reference_describes_the_answers() -> None:
    told = reference(np.linspace(0, 1, 101, dtype=np.float32), raw(101))
    assert told["probability"] == pytest.approx(np.linspace(0, 1, 101), abs=1e-4)
    assert told["ood_rate"] == pytest.approx(0.505, abs=0.01)
    without = replace(raw(101), outlier=np.full(101, np.nan, np.float32))
    assert reference(np.ones(101, np.float32), without)["ood_rate"] is None


def test_all_parts_of_a_card_fit_together() -> None:
    parts = fit_all(raw())
    decider = Decider(card_with(**parts))
    assert decider.threshold == parts["threshold"]["value"] == parts["operating_points"][SCREENING]["threshold"]
    assert len(parts["reference"]["probability"]) == 101


def test_calibration_and_sets_lie_between_the_images_as_they_are_and_shifted() -> None:
    """The vouched sensitivity stays that of the images as they are."""
    known = raw(400)
    shifted_raw = replace(known, logits=(known.logits / 2).astype(np.float32))
    alone, between = fit_all(known), fit_all(known, shifted_raw=shifted_raw)
    far = fit_all(shifted_raw)
    slopes = [parts["calibration"]["slope"] for parts in (alone, between, far)]
    assert slopes[0] < slopes[1] < slopes[2]
    assert between["conformal"]["images"] == between["calibration"]["images"]
    assert "images" not in alone["calibration"]
    for name, point in between["operating_points"].items():
        assert point["sensitivity"] == alone["operating_points"][name]["sensitivity"]
