"""Reads one radiograph: pixels, forward pass, heatmap, finding. The daemon and `analyze` share it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from dicom_io.errors import UnsupportedPixels
from dicom_io.finding import Answer, Finding, Orientation
from dicom_io.header.eligibility import age_years
from dicom_io.header.orientation import orientation_of
from dicom_io.pixels.decoders import Decoders
from dicom_io.pixels.render import Rendered, render
from modeltrain.model.card import Card, load_card, shipped_model
from modeltrain.model.decision import Decider
from modeltrain.model.evidence import evidence_map, regions_of
from modeltrain.model.lung_areas import lungs_of
from modeltrain.model.outputs import Outputs
from modeltrain.model.preprocess import to_input
from worker import metrics
from worker.inference.engine import Batcher, EngineFault, open_engine
from worker.settings import Settings


@dataclass(frozen=True)
class Reading:
    """What the model saw in one radiograph.

    Parameters
    ----------
    finding
        The answer.
    evidence
        Evidence for pneumonia in the radiograph's frame, float32 [224, 224], 0 and up, in log-odds
        (`modeltrain.model.evidence.evidence_map`).
    rendered
        The displayed values, with their aspect and window.
    image
        The network's input, float32 [1, 224, 224] in [0, 1].
    years
        The patient's age, where the header states it.
    """

    finding: Finding
    evidence: NDArray[np.float32]
    rendered: Rendered
    image: NDArray[np.float32]
    years: float | None = None

    @property
    def input_mean(self) -> float:
        """Mean of the network's input, 0 to 1."""
        return float(self.image.mean())

    @property
    def input_std(self) -> float:
        """Standard deviation of the network's input, 0 to 1."""
        return float(self.image.std())


class Reader:
    """A loaded model and the settings that shape its answers. Safe to call from many threads.

    Raises
    ------
    InvalidModel, InvalidSettings
        When the model cannot be loaded.
    """

    def __init__(self, settings: Settings, folder: Path | None = None) -> None:
        self._settings = settings
        self.card: Card = load_card(folder or settings.model.folder or shipped_model())
        self.identity = self.card.identity
        self.decider = Decider(self.card, settings.model.operating_point, settings.model.threshold)
        self.threshold = self.decider.threshold
        self.engine = open_engine(self.card, settings.model)
        # On a CPU each image goes alone: company gains nothing there, and int8 answers depend on it by some 1e-5.
        size = settings.model.batch_size if self.engine.gains_by_batches else 1
        self._decoders = Decoders(settings.pixels.decoding)
        self._batcher = Batcher(self.engine, size, settings.model.batch_wait_ms / 1000)

    def close(self) -> None:
        """End the batcher and the decoders that wait."""
        self._batcher.close()
        self._decoders.close()

    def works(self) -> bool:
        """Return whether the engine answers an even grey image: else not the last one was at fault."""
        try:
            self._batcher.predict(np.full((1, self.card.input_size, self.card.input_size), 0.5, np.float32))
        except EngineFault:
            return False
        return True

    def read(self, dataset: Dataset) -> Reading:
        """Read a radiograph from its data set.

        Raises
        ------
        UnsupportedPixels
            When its pixel data cannot be rendered, or shows nothing.
        """
        with metrics.timed("render"):
            rendered = render(dataset, max_pixels=self._settings.pixels.max_pixels, decoders=self._decoders)
        return self.read_values(rendered, age_years(dataset), orientation_of(dataset))

    def read_values(
        self, rendered: Rendered, years: float | None = None, orientation: Orientation = Orientation.UNSTATED
    ) -> Reading:
        """Read a radiograph from its displayed values, float32 [H, W] in [0, 1].

        The patient's age, and how the image shows the patient, are those of its header, where that states them.

        Raises
        ------
        UnsupportedPixels
            There is nothing to read in it.
        """
        if rendered.blank:
            raise UnsupportedPixels(rendered.blank)
        image = to_input(rendered.values, self.card.input_size)
        with metrics.timed("inference"):
            outputs = self._batcher.predict(image)
        finding = replace(finding_of(outputs, self.decider, rendered.values.shape, years), orientation=orientation)
        evidence = evidence_map(outputs, 0, self.decider.slope, self.decider.intercept)
        if finding.answer.shows_evidence:
            rows, columns = rendered.values.shape
            regions = regions_of(evidence, outputs.lungs[0], rows, columns, orientation)
            finding = replace(finding, regions=regions)
        return Reading(finding, evidence, rendered, image, years)


def finding_of(outputs: Outputs, decider: Decider, shape: tuple[int, int], years: float | None = None) -> Finding:
    """Return what a model found in one radiograph, without regions.

    Parameters
    ----------
    outputs
        Of a batch of one.
    shape
        Rows and columns of the radiograph.
    years
        The patient's age, where the header states it.
    """
    finding = replace(decider(outputs)[0], lungs=lungs_of(outputs.lungs[0], *shape))
    if years is not None and not decider.least_age <= int(years) <= decider.greatest_age:
        # The header decides, and not how old the patient looks.
        finding = replace(finding, age_outside=True)
    if finding.answer is not Answer.FLAGGED:  # a cause is named of what is flagged, and of nothing else
        finding = replace(finding, agent=None, agent_probability=None)
    return finding
