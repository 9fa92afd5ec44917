"""Reading a radiograph: what the header says of the patient's age comes before what the image looks like."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dicom_io.finding import Answer
from dicom_io.pixels.render import render
from modeltrain.model.outputs import Outputs
from tests.support.models import tiny
from tests.support.peers import chest
from tests.unit.worker.engines.test_pipeline import Bench
from worker.inference.analyzer import Reader
from worker.inference.engine import Batcher
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


class Drawn:
    """A batcher that gives the same drawn outputs for every image."""

    def __init__(self, batcher: Batcher, outputs: Outputs) -> None:
        self._batcher = batcher
        self._outputs = outputs

    def predict(self, _image: NDArray[np.float32]) -> Outputs:
        """Answer."""
        return self._outputs

    def close(self) -> None:
        """End the batcher."""
        self._batcher.close()


def drawn(score: float, lungs: int = 2) -> Outputs:
    """The outputs of a network with a score, so many lungs, and all evidence in one place of the left one."""
    evidence = np.full((1, 10, 10), -3, np.float32)
    evidence[0, 7, 7] = score
    found = np.zeros((1, 112, 112), np.float32)
    for left in (20, 65)[2 - lungs :]:
        found[0, 20:95, left : left + 28] = 1
    logits = np.array([[-score / 2, score / 2]], np.float32)
    return Outputs(logits, evidence, np.array([[0.1, 0.1, 0.9, 0.9]], np.float32), found, logits, logits[:, 0] * 0)


@pytest.fixture
def reader_of(tmp_path: Path) -> Iterator[Callable[[Outputs], Reader]]:
    """Makes readers whose network gives drawn outputs, decided at even odds and without a conformal set."""
    folder = tiny(tmp_path / "tiny", calibration=None, conformal=None, operating_points={})
    readers = []

    def made(outputs: Outputs) -> Reader:
        reader = Reader(Settings(model=ModelSettings(folder=folder, threshold=0.5)))
        reader._batcher = Drawn(reader._batcher, outputs)  # type: ignore[assignment]
        readers.append(reader)
        return reader

    yield made
    for reader in readers:
        reader.close()


@pytest.mark.parametrize(
    ("score", "lungs", "answer", "regions"),
    [
        (4.0, 2, Answer.FLAGGED, 1),
        (-4.0, 2, Answer.NOT_FLAGGED, 0),
        (4.0, 1, Answer.UNCERTAIN, 1),
        (4.0, 0, Answer.OUTSIDE, 0),
    ],
)
def test_places_are_named_of_what_is_flagged_or_uncertain(
    reader_of: Callable[[Outputs], Reader], score: float, lungs: int, answer: Answer, regions: int
) -> None:
    finding = reader_of(drawn(score, lungs)).read_values(render(chest("place"))).finding
    assert finding.answer is answer
    assert len(finding.regions) == regions
    assert finding.lungs is not None
    assert finding.lungs.count == lungs
    assert finding.score == pytest.approx(score)


def test_the_place_is_where_the_evidence_is_in_the_radiograph_s_pixels(
    reader_of: Callable[[Outputs], Reader],
) -> None:
    reading = reader_of(drawn(4.0)).read_values(render(chest("place", rows=300, cols=200)))
    (region,) = reading.finding.regions
    left, top, right, bottom = region.box
    place = 0.1 + 7.5 / 10 * 0.8
    assert left <= place * 200 <= right
    assert top <= place * 300 <= bottom
    assert region.place == "left lower"
    assert reading.evidence.shape == (224, 224)
    assert float(reading.evidence.max()) == pytest.approx(4, abs=0.2), "log-odds, in absolute terms"
    assert float(reading.evidence.min()) == 0
