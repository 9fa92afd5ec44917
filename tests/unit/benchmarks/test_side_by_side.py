"""The table of the benchmark: medians over the rounds, ratios within a round."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.arrivals import Counts
from benchmarks.side_by_side import MEASURES, Run, summary, table

SETTING = {"images": 4, "rounds": 3, "rows": 2500, "columns": 2048, "source": "drawn radiographs", "cores": 2}


def run(worker: str, rate: float, *, load: str = "1 association", refused: int = 0, missing: int = 0) -> dict[str, Any]:
    """Return a run of four images at so many images/s."""
    done = 4 - refused - missing
    counts = Counts(4, done, refused, missing, done / rate, rate, answer_p50=0.5, results_p50=1.0, results_p95=2.0)
    return Run(worker, load, counts, cpu_seconds_per_image=1 / rate, peak_megabytes=500.0).as_json()


def test_medians_and_the_median_of_each_rounds_ratio() -> None:
    rounds = [(1.0, 4.0), (2.0, 2.0), (1.5, 3.0)]
    naive, cxrd, ratio = summary([run(*each) for pair in rounds for each in zip(("naive", "cxrd"), pair, strict=True)])
    assert (naive["images_per_second"], cxrd["images_per_second"]) == (1.5, 3.0)
    assert ratio["images_per_second"] == 2.0  # of 4, 1 and 2
    assert ratio["cpu_seconds_per_image"] == pytest.approx(2.0)  # less is better
    assert ratio["peak_megabytes"] == 1.0


def test_what_is_lost_is_added_up() -> None:
    lines = summary([run("cxrd", 1.0, missing=1), run("cxrd", 1.0, missing=1, refused=1)])
    assert [(line["refused"], line["missing"]) for line in lines] == [(1, 2)]


def test_each_load_has_lines_of_its_own_and_cxrd_alone_no_ratio() -> None:
    both = [run(worker, 1.0) for worker in ("naive", "cxrd")]
    alone = [run("cxrd", 2.0, load="one by one")]
    lines = summary(both + alone)
    assert [(line["load"], line["worker"]) for line in lines] == [
        ("1 association", "naive"),
        ("1 association", "cxrd"),
        ("1 association", "ratio"),
        ("one by one", "cxrd"),
    ]


def test_the_table_is_markdown_with_as_many_cells_in_each_row() -> None:
    text = table(SETTING, summary([run("naive", 1.0, refused=1), run("cxrd", 2.5)]))
    first, blank, heading, rule, *rows = text.splitlines()
    assert first.startswith("4 images of 2500×2048 (drawn radiographs), medians of 3 rounds, 2 cores.")
    assert (blank, len(rows)) == ("", 3)
    assert {line.count("|") for line in (heading, rule, *rows)} == {len(MEASURES) + 5}
    assert rows[0].startswith("| 1 association | naive | 1.00 |")
    assert rows[0].endswith("| 1 | 0 |")
    assert "| ×2.5 |" in rows[2]
