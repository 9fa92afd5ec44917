"""Reading a radiograph: what the header says of the patient's age comes before what the image looks like."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dicom_io.finding import Answer
from dicom_io.pixels.render import Rendered, render
from modeltrain.model.outputs import Outputs
from tests.support.models import tiny
from tests.support.peers import chest
from tests.unit.worker.engines.test_pipeline import Bench
from worker.destination_settings import DicomDestination
from worker.inference.analyzer import Reader
from worker.inference.engine import Batcher
from worker.ledger.queries import story
from worker.settings import ModelSettings, Settings


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A tiny model that looks for lungs and flags whatever has two, for children of one to five years."""
    population = {"least_age_years": 1, "greatest_age_years": 5}
    folder = tmp_path_factory.mktemp("models") / "tiny"
    made = Reader(Settings(), tiny(folder, lungs=True, bias=60.0, population=population))
    yield made
    made.close()


def picture(*lungs: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """Return a radiograph, float32 [448, 448], that is bright but for lungs: left, top, right, bottom."""
    values = np.full((448, 448), 0.7, np.float32)
    for left, top, right, bottom in lungs:
        values[top:bottom, left:right] = 0.1
    return values


RIGHT, LEFT = (60, 80, 180, 380), (268, 80, 388, 380)
TWO = picture(RIGHT, LEFT)


@pytest.mark.parametrize(
    ("years", "strange"), [(3.0, False), (5.9, False), (40.0, True), (6.0, True), (0.25, True), (None, False)]
)
def test_an_age_outside_the_trained_population_decides_first(
    reader: Reader, years: float | None, strange: bool
) -> None:
    by_image = reader.read_values(Rendered(TWO, 1.0)).finding.outlier or 0.0
    assert by_image < 1
    finding = reader.read_values(Rendered(TWO, 1.0), years).finding
    assert finding.age_outside == strange
    assert (finding.outlier or 0.0) == by_image  # the score is the image's, whatever the age
    assert bool(finding.out_of_distribution) == strange
    assert finding.answer is (Answer.OUTSIDE if strange else Answer.FLAGGED)
    assert bool(finding.regions) == bool(finding.agent) == (not strange)  # no place and no cause beside no answer


@pytest.mark.parametrize(
    ("values", "answer", "caution", "share"),
    [
        (TWO, Answer.FLAGGED, "", 0.36),
        (picture(), Answer.OUTSIDE, "no lungs found", 0.0),
        (picture(RIGHT), Answer.UNCERTAIN, "only one lung found", 0.18),
        (picture(RIGHT, (300, 80, 448, 380)), Answer.FLAGGED, "a lung is cut off at the image's edge", 0.4),
    ],
)
def test_what_is_wrong_with_the_lungs_is_said_and_not_guessed(
    reader: Reader, values: NDArray[np.float32], answer: Answer, caution: str, share: float
) -> None:
    reading = reader.read_values(Rendered(values, 1.0))
    finding = reading.finding
    assert (finding.answer, finding.caution) == (answer, caution)
    assert finding.lungs is not None
    assert finding.lungs.share == pytest.approx(share, abs=0.03)
    assert bool(finding.regions) == (answer in (Answer.FLAGGED, Answer.UNCERTAIN))
    sides = {"right", "left"} if finding.lungs.count == 2 else {""}  # a single lung may be either
    assert {region.side for region in finding.regions} <= sides
    assert finding.score == pytest.approx(60 + float(reading.image.mean()), abs=1e-3)


@pytest.mark.parametrize(("setting", "status"), [("skip", "not_analysed"), ("warn", "analysed")])
@pytest.mark.parametrize(
    ("attributes", "caution"),
    [
        ({"PatientAge": "040Y"}, "the patient's age is not one that the model was made for"),
        ({"PixelData": (3350 + 350 * np.sin(np.linspace(0, 12, 64 * 48))).astype("<u2").tobytes()}, "no lungs found"),
    ],
)
def test_what_is_outside_gets_no_answer_by_default(
    tmp_path: Path, reader: Reader, setting: str, status: str, attributes: dict[str, Any], caution: str
) -> None:
    assert Settings().model.out_of_distribution == "skip"
    bench = Bench(tmp_path, reader)
    bench.pipeline._settings = Settings(model=ModelSettings.model_validate({"out_of_distribution": setting}))
    number = bench.put(chest("adult", **attributes))
    bench.process(number)
    row = bench.row(number)
    assert (row["status"], row["answer"]) == (status, "outside")
    assert row["probability"] is None  # a number would be taken for an answer
    if setting == "skip":
        assert str(row["reason"]).startswith(f"outside: {caution}")
    else:
        assert str(row["caution"]).startswith(caution)
        assert row["score"] is not None


@pytest.mark.parametrize("setting", ["skip", "warn"])
@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"PixelData": b"\x00\x0d" * (64 * 48)}, "the image has no contrast"),
        ({"PixelData": bytes(2 * 15 * 48), "Rows": 15}, "15 × 48 pixels"),
    ],
)
def test_an_image_without_an_image_fails_and_nobody_is_told(
    tmp_path: Path, reader: Reader, setting: str, attributes: dict[str, Any], reason: str
) -> None:
    bench = Bench(tmp_path, reader)
    hook = DicomDestination(name="pacs", host="x", port=1, ae_title="P")
    bench.pipeline._settings = Settings(
        model=ModelSettings.model_validate({"out_of_distribution": setting}), destinations=(hook,)
    )
    number = bench.put(chest("nothing", **attributes))
    bench.process(number)
    row = bench.row(number)
    assert (row["status"], row["reason"]) == ("failed", f"there is nothing to read: {reason}")
    assert (row["answer"], row["probability"], row["score"]) == (None, None, None)
    found = story(bench.ledger, str(number))
    assert found is not None
    assert [each["kind"] for each in found["results"]] in ([], ["structured-report"])


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
