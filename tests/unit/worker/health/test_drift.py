"""Drift: stable where nothing changed, drift where something did, and no verdict on a handful of images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicom_io.errors import InvalidModel
from dicom_io.finding import Finding
from modeltrain.model.card import Card, load_card, shipped_model
from tests.support.ledgers import leave_out, record_finding
from tests.unit.worker.ledger.test_receipts import NOON, received
from worker.health.drift import drift, figure, metrics, period, stability_index
from worker.ledger.receipts import Ledger
from worker.ledger.records import NewFinding

RNG = np.random.default_rng(0)
QUANTILES = np.linspace(0, 1, 101)


@pytest.fixture
def card() -> Card:
    shipped = load_card(shipped_model())
    values = np.quantile(np.random.default_rng(1).beta(2, 2, 5000), QUANTILES).tolist()
    reference: dict[str, Any] = {"n": 577, "ood_rate": 0.02}
    reference |= {"probability": values, "input_mean": values, "input_std": values}
    return replace(shipped, raw={**shipped.raw, "reference": reference})


def fill(ledger: Ledger, card: Card, n: int, *, shift: float = 0.0, outlier: float = 0.1, digest: str = "") -> None:
    values = np.clip(np.random.default_rng(2).beta(2, 2, n) + shift, 0, 1)
    for index, value in enumerate(values.tolist()):
        number = received(ledger, sop_instance_uid=f"1.{n}.{index}.{len(digest)}")
        finding = Finding(value, "PNEUMONIA" if value >= 0.5 else "NORMAL", 0.5, outlier=outlier)
        model = replace(card.identity, digest=digest or card.sha256)
        record_finding(
            ledger, number, NewFinding(model, finding, value, float(values[(index * 7) % n]), NOON), [], NOON
        )


def test_nothing_changed(ledger: Ledger, card: Card) -> None:
    fill(ledger, card, 200)
    fill(ledger, card, 3, digest="0" * 64)
    found = drift(period(ledger, card, None, None), card)
    assert (found.n, found.others, found.verdict) == (200, 3, "stable")
    assert all(measure.psi < 0.1 and measure.p_value > 0.01 for measure in found.measures)
    assert found.ood_rate == 0


def test_a_shift_is_drift(ledger: Ledger, card: Card, tmp_path: Path) -> None:
    fill(ledger, card, 120, shift=0.3)
    seen = period(ledger, card, None, None)
    found = drift(seen, card)
    assert found.verdict == "drift"
    assert {measure.verdict for measure in found.measures} == {"drift"}
    figure(seen, found, card).savefig(tmp_path / "drift.png")
    text = metrics(found)
    assert 'cxrd_drift_psi{measure="probability"}' in text
    assert "\ncxrd_drift 1.0\n" in text
    json.dumps(found.to_dict())


def test_more_images_outside_the_population_are_drift(ledger: Ledger, card: Card) -> None:
    fill(ledger, card, 100, outlier=1.5)
    found = drift(period(ledger, card, None, None), card)
    assert found.ood_rate == 1
    assert found.verdict == "drift"


def test_few_images_have_no_verdict(ledger: Ledger, card: Card) -> None:
    fill(ledger, card, 20)
    assert drift(period(ledger, card, None, None), card).verdict == "too few images"
    assert drift(period(ledger, card, NOON, NOON), card).n == 0


def test_a_card_without_reference_is_said(ledger: Ledger, card: Card) -> None:
    with pytest.raises(InvalidModel, match="holds no reference"):
        drift(period(ledger, card, None, None), replace(card, raw={}))


def test_the_index_is_nought_for_the_reference_itself_and_grows_with_the_shift() -> None:
    values = RNG.normal(0, 1, 20_000)
    known = np.quantile(values, QUANTILES)
    found = [stability_index(values + shift, known) for shift in (0.0, 0.2, 0.5, 1.0)]
    assert found[0] < 0.005
    assert found == sorted(found)
    # For a normal distribution that moved by d, the index tends to d².
    assert found[1] == pytest.approx(0.04, abs=0.02)


def test_ties_are_no_drift() -> None:
    values = np.repeat([0.0, 1.0], [900, 100])
    assert stability_index(values, np.quantile(values, QUANTILES)) < 0.01


def left_out(ledger: Ledger, card: Card, n: int, *, outlier: float | None = 1.5) -> list[int]:
    """Enter images that the gate has kept from an answer."""
    numbers = []
    for index in range(n):
        number = received(ledger, sop_instance_uid=f"3.{index}")
        stopped = NewFinding(card.identity, Finding(0.9, "PNEUMONIA", 0.5, outlier=outlier), 0.9, 0.05, NOON)
        leave_out(ledger, number, "outside: not like the images the model was made for", NOON, outside=stopped)
        numbers.append(number)
    return numbers


def test_images_that_the_gate_left_out_are_seen(ledger: Ledger, card: Card) -> None:
    fill(ledger, card, 60)
    before = drift(period(ledger, card, None, None), card)
    assert (before.verdict, before.ood_verdict) == ("stable", "stable")
    numbers = left_out(ledger, card, 50)
    seen = period(ledger, card, None, None)
    found = drift(seen, card)
    assert (found.n, found.left_out, found.others) == (110, 50, 0)
    assert found.ood_rate == pytest.approx(50 / 110)
    assert (found.ood_verdict, found.verdict) == ("drift", "drift")
    verdicts = {measure.name: measure.verdict for measure in found.measures}
    assert verdicts == {"probability": "stable", "input_mean": "drift", "input_std": "drift"}
    assert f"\ncxrd_ood_ratio {50 / 110}\n" in metrics(found)
    assert "\ncxrd_drift_left_out_images 50.0\n" in metrics(found)
    assert (found.answers["outside"], sum(found.answers.values())) == (50, 110)
    assert '\ncxrd_drift_answers{answer="outside"} 50.0\n' in metrics(found)
    # One of them is answered after all, under other settings: it counts once.
    finding = Finding(0.93, "PNEUMONIA", 0.5, outlier=1.5)
    record_finding(ledger, numbers[0], NewFinding(card.identity, finding, 0.5, 0.2, NOON), [], NOON)
    after = period(ledger, card, None, None)
    assert (after.n, after.left_out) == (110, 49)


def test_an_image_without_lungs_has_no_outlier_score(ledger: Ledger, card: Card) -> None:
    left_out(ledger, card, 60, outlier=None)
    seen = period(ledger, card, None, None)
    assert (seen.n, seen.left_out, seen.outlier.size, seen.answers["outside"]) == (60, 60, 0, 60)
    assert drift(seen, card).ood_rate is None


def test_only_left_out_images_are_drift_too(ledger: Ledger, card: Card) -> None:
    left_out(ledger, card, 50)
    found = drift(period(ledger, card, None, None), card)
    assert (found.ood_rate, found.verdict) == (1.0, "drift")
    assert drift(period(ledger, replace(card, sha256="9" * 64), None, None), card).n == 0


def test_the_picture_has_a_panel_for_the_share_outside(ledger: Ledger, card: Card) -> None:
    fill(ledger, card, 60)
    left_out(ledger, card, 20)
    seen = period(ledger, card, None, None)
    panels = figure(seen, drift(seen, card), card).axes
    assert len(panels) == 4
    assert panels[-1].get_title().splitlines() == ["out of distribution", "drift"]
    assert [text.get_text() for text in panels[-1].texts] == ["2.0%", "25.0%"]


def test_the_index_is_the_sum_over_the_deciles() -> None:
    known = np.linspace(0, 1, 101)
    seen = RNG.beta(2, 2, 3000)
    here = np.maximum(np.histogram(seen, np.linspace(0, 1, 11))[0] / 3000, 1e-4)
    by_hand = float(((here - 0.1) * np.log(here / 0.1)).sum())
    assert stability_index(seen, known) == pytest.approx(by_hand, rel=1e-2)
