"""The pictures of a radiograph: each is drawn when it is needed, and once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dicom_io.header.source_image import source_image
from dicom_io.pixels.render import render
from tests.unit.worker.results.test_result_set import EVIDENCE, FINDING, MODEL, NOW, source
from worker.inference.analyzer import Reading
from worker.results import pictures
from worker.results.overlay import compose
from worker.results.pictures import Pictures
from worker.results.result_set import make
from worker.settings import Results


@pytest.mark.parametrize(
    ("layout", "kinds", "drawn"),
    [
        ("overlay", ["secondary-capture", "multi-frame-capture"], 2),
        ("side-by-side", ["secondary-capture", "multi-frame-capture"], 3),
        ("side-by-side", ["secondary-capture", "encapsulated-pdf"], 1),
        ("side-by-side", ["structured-report", "presentation-state"], 0),
    ],
)
def test_no_picture_is_drawn_twice(layout: str, kinds: list[str], drawn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts: list[str] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        layouts.append(options["layout"])
        return compose(*arguments, **options)

    monkeypatch.setattr(pictures, "compose", counted)
    settings = Results.model_validate({"layout": layout, "kinds": kinds})
    image = np.zeros((1, 224, 224), np.float32)
    reading = Reading(FINDING, EVIDENCE, render(source()), image)
    mine = Pictures(reading, MODEL, NOW, settings)
    made = make(source_image(source()), reading, MODEL, settings, NOW, pictures=mine)
    assert made.left_out == {}
    assert len(layouts) == len(set(layouts)) == drawn
    if "multi-frame-capture" in kinds:
        assert np.array_equal(mine.frames[1], mine.main) == (layout == "overlay")
