"""Reading a radiograph: what the header says of the patient's age comes before what the image looks like."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from dicom_io.pixels.render import render
from modeltrain.model.outputs import Outputs
from tests.support.peers import chest
from tests.unit.worker.engines.test_pipeline import Bench
from worker.inference.analyzer import Reader
from worker.inference.engine import Batcher
from worker.results.overlay import caption
from worker.settings import ModelSettings, Settings


@pytest.mark.parametrize(
    ("age", "strange"), [("003Y", False), ("005Y", False), ("040Y", True), ("006Y", True), ("003M", True)]
)
def test_an_age_outside_the_trained_population_decides_first(reader: Reader, age: str, strange: bool) -> None:
    if (reader.decider.least_age, reader.decider.greatest_age) != (1, 5):
        pytest.skip("the shipped model states another population")
    dataset = chest("age", PatientAge=age)
    by_image = reader.read_values(render(dataset)).finding.outlier or 0.0
    finding = reader.read(dataset).finding
    if strange:
        assert finding.out_of_distribution
        assert (finding.outlier or 0.0) >= 1.0
    else:
        assert (finding.outlier or 0.0) == by_image


def test_what_is_outside_can_be_left_out(tmp_path: object, reader: Reader) -> None:
    bench = Bench(tmp_path, reader)  # type: ignore[arg-type]
    settings = Settings(model=ModelSettings(out_of_distribution="skip"))
    bench.pipeline._settings = settings
    number = bench.put(chest("adult", PatientAge="040Y"))
    bench.pipeline.process(number)
    row = bench.row(number)
    if (reader.decider.least_age, reader.decider.greatest_age) == (1, 5):
        assert row["status"] == "not_analysed"
        assert "outside the trained population" in str(row["reason"])


class Silent:
    """A batcher in whose maps nothing speaks for PNEUMONIA."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    def predict(self, image: NDArray[np.float32]) -> Outputs:
        """Answer with the same logits and a map without a positive cell."""
        slope = np.arange(49, dtype=np.float32).reshape(7, 7)
        outputs = self._batcher.predict(image)
        return outputs._replace(cam=-np.abs(outputs.cam) - slope)

    def close(self) -> None:
        """End the batcher."""
        self._batcher.close()


@pytest.fixture
def everything() -> Iterator[Reader]:
    """Calls everything pneumonia, with an empty map: its threshold lies below the network's own."""
    made = Reader(Settings(model=ModelSettings(threshold=0.0)))
    made._batcher = Silent(made._batcher)  # type: ignore[assignment]
    yield made
    made.close()


def test_a_pneumonia_without_a_place_is_shown_against_normal_radiographs(everything: Reader) -> None:
    slope = np.arange(49, dtype=np.float32).reshape(7, 7)
    everything.decider.normal_map = -20 - slope
    everything.decider.normal_map[3, 2] -= 20
    reading = everything.read_values(render(chest("place")))
    assert reading.finding.decision == "PNEUMONIA"
    assert reading.finding.beyond_normal
    assert int(reading.attention.argmax()) == 3 * 7 + 2
    region = reading.finding.region
    assert region is not None
    rows, columns = render(chest("place")).values.shape
    left, top, right, bottom = region.box
    assert left <= 2.5 / 7 * columns <= right
    assert top <= 3.5 / 7 * rows <= bottom
    assert caption(reading.finding) == "Where it differs from normal (Grad-CAM)"


def test_a_card_without_a_map_of_normal_radiographs_leaves_it_without_a_region(everything: Reader) -> None:
    everything.decider.normal_map = None
    finding = everything.read_values(render(chest("place"))).finding
    assert finding.decision == "PNEUMONIA"
    assert finding.region is None
    assert not finding.beyond_normal
    assert caption(finding) == "Grad-CAM: no part speaks for it by itself"
