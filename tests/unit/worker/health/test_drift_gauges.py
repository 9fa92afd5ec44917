"""Drift on `/metrics`: the images that came last, without the extra that `cxrd drift` needs."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from prometheus_client.core import Metric

from dicom_io.finding import Finding
from modeltrain.model.card import load_card, shipped_model
from tests.support import ledgers
from tests.unit.worker.ledger.test_receipts import NOON, received
from worker.health.drift import DriftGauges
from worker.ledger.receipts import Ledger
from worker.ledger.records import NewFinding


def series(families: tuple[Metric, ...]) -> dict[tuple[str, ...], float]:
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_the_last_images_are_held_to_the_reference(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)  # not installed
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    shipped = load_card(shipped_model())
    values = [place / 100 for place in range(101)]
    reference = {"n": 577, "ood_rate": 0.02, "probability": values, "input_mean": values, "input_std": values}
    card = replace(shipped, raw={**shipped.raw, "reference": reference})
    gauges = DriftGauges(ledger)
    assert series(gauges.collect(card))["cxrd_drift_images",] == 0
    for place in range(70):  # ten that lie apart, then sixty like the reference
        value = 0.99 if place < 10 else (place - 10) / 60
        finding = NewFinding(card.identity, Finding(value, "NORMAL", 0.5, outlier=0.1), value, value, NOON)
        ledgers.record_finding(ledger, received(ledger, sop_instance_uid=f"1.{place}"), finding, [], NOON)
    assert series(gauges.collect(card))["cxrd_drift_images",] == 0  # looked at again only after a while
    monkeypatch.setattr(DriftGauges, "LATEST", 60)
    found = series(DriftGauges(ledger).collect(card))
    assert (found["cxrd_drift_images",], found["cxrd_drift",], found["cxrd_ood_ratio",]) == (60, 0, 0)
    assert found["cxrd_drift_psi", "probability"] < 0.1
    assert not [key for key in found if key[0] == "cxrd_drift_ks"]
    monkeypatch.setattr(DriftGauges, "LATEST", 70)
    assert series(DriftGauges(ledger).collect(card))["cxrd_drift_images",] == 70


def test_a_card_without_a_reference_has_no_gauges(ledger: Ledger) -> None:
    assert DriftGauges(ledger).collect(replace(load_card(shipped_model()), raw={})) == ()
