"""Reading one radiograph: pixels, forward pass, heatmap, picture, result object. The daemon and `analyze` share it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from dicom_io.pixels import Rendered, render
from dicom_io.secondary_capture import Finding, ModelIdentity, secondary_capture
from modeltrain.outputs import CLASSES, attention, probability
from modeltrain.preprocess import to_input
from modeltrain.registry import Card, load_card, shipped_model
from worker.inference import Batcher, open_engine
from worker.picture import compose
from worker.settings import Settings


@dataclass(frozen=True)
class Reading:
    """What the model saw in one radiograph.

    ``attention`` is float32 [7, 7] in [0, 1]; ``picture`` is uint8 [H, W, 3].
    """

    finding: Finding
    attention: NDArray[np.float32]
    picture: NDArray[np.uint8]


class Reader:
    """A loaded model and the settings that shape its answers. Safe to call from many threads.

    Raises
    ------
    InvalidModel, InvalidSettings
        When the model cannot be loaded.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.card: Card = load_card(settings.model.folder or shipped_model())
        self.identity = ModelIdentity(self.card.name, self.card.version, self.card.sha256)
        self.threshold = self.card.threshold if settings.model.threshold is None else settings.model.threshold
        self.engine = open_engine(self.card, settings.model)
        self._batcher = Batcher(self.engine, settings.model.batch_size, settings.model.batch_wait_ms / 1000)

    def close(self) -> None:
        """End the batcher."""
        self._batcher.close()

    def read(self, dataset: Dataset, created: dt.datetime) -> Reading:
        """Read a radiograph from its data set.

        Raises
        ------
        UnsupportedPixels
            When its pixel data cannot be rendered.
        """
        return self.read_values(render(dataset, max_pixels=self._settings.pixels.max_pixels), created)

    def read_values(self, rendered: Rendered, created: dt.datetime) -> Reading:
        """Read a radiograph from its displayed values, float32 [H, W] in [0, 1]."""
        outputs = self._batcher.predict(to_input(rendered.values, self.card.input_size))
        score = float(probability(outputs.logits)[0])
        finding = Finding(
            probability=score, decision=CLASSES[int(score >= self.threshold)], threshold=float(self.threshold)
        )
        heat = attention(outputs.cam)[0]
        picture = compose(
            rendered.values,
            heat,
            finding=finding,
            identity=self.identity,
            created=created,
            aspect=rendered.aspect,
            height=self._settings.results.height,
        )
        return Reading(finding, heat, picture)

    def result(self, dataset: Dataset, reading: Reading, created: dt.datetime) -> Dataset:
        """Return the Secondary Capture that answers a radiograph, in its study."""
        return secondary_capture(
            dataset,
            reading.picture,
            finding=reading.finding,
            identity=self.identity,
            series_number=self._settings.results.series_number,
            series_description=self._settings.results.series_description,
            created=created,
        )
