"""Counters: known labels begin at 0, and what peers send makes no end of new ones."""

from __future__ import annotations

import pytest
from prometheus_client import generate_latest

from dicom_io.errors import InvalidResult, OutOfResources, UnsupportedPixels
from worker import metrics
from worker.inference.engine import EngineFault
from worker.metrics import OTHER, Few


def value(name: str, **labels: str) -> float | None:
    """Return what a series stands at; None where there is none."""
    return metrics.REGISTRY.get_sample_value(name, labels)


def test_only_the_first_values_have_a_label_of_their_own() -> None:
    few = Few(most=2)
    assert [few(each) for each in ("A", "B", "C", "A", "B", "D")] == ["A", "B", OTHER, "A", "B", OTHER]


@pytest.mark.parametrize("title", ["\x1b[2J", "GERÄT", "A\nB"])
def test_a_title_that_is_not_of_printable_ascii_is_other(title: str) -> None:
    assert Few()(title) == OTHER


def test_known_labels_begin_at_nought() -> None:
    assert value("cxrd_refused_total", status="0xC000") is not None
    assert value("cxrd_failed_total", reason="crashed") is not None
    metrics.expect_destination("nobody")
    assert value("cxrd_deliveries_total", destination="nobody", outcome="committed") == 0


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (UnsupportedPixels(""), "pixels"),
        (InvalidResult(""), "result"),
        (EngineFault(""), "model"),
        (OutOfResources(""), "unforeseen"),
        (KeyError("patient"), "unforeseen"),
    ],
)
def test_each_cause_has_a_series(error: BaseException, cause: str) -> None:
    assert metrics.cause_of(error) == cause
    assert value("cxrd_failed_total", reason=cause) is not None


def test_a_stage_is_timed_as_a_block_and_as_a_function_also_if_it_fails() -> None:
    @metrics.timed("test stage")
    def fail() -> None:
        raise ValueError("no")

    with metrics.timed("test stage"):
        pass
    with pytest.raises(ValueError, match="no"):
        fail()
    metrics.took("test stage", -1.0)  # the clock was put back
    assert value("cxrd_stage_seconds_count", stage="test stage") == 3
    metrics.STAGES.remove("test stage")  # it is one of ours for the tests that come after


def test_no_series_tells_when_it_was_made() -> None:
    assert b"_created" not in generate_latest(metrics.REGISTRY)
