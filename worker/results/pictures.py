"""The pictures of one radiograph, each drawn when it is first needed, and once."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from worker import metrics
from worker.results.overlay import Layout, compose

if TYPE_CHECKING:
    import datetime as dt

    from numpy.typing import NDArray

    from dicom_io.finding import ModelIdentity
    from worker.inference.analyzer import Reading
    from worker.settings import Results


class Pictures:
    """Draws a reading as the settings ask."""

    def __init__(self, reading: Reading, identity: ModelIdentity, created: dt.datetime, settings: Results) -> None:
        self._reading = reading
        self._identity = identity
        self._created = created
        self._settings = settings

    @cached_property
    def main(self) -> NDArray[np.uint8]:
        """What a reader sees, uint8 [H, W, 3]: in the layout of the settings."""
        return self._drawn(self._settings.layout)

    @cached_property
    def frames(self) -> NDArray[np.uint8]:
        """The radiograph without and with its evidence, uint8 [2, H, W, 3]."""
        overlay = self.main if self._settings.layout == "overlay" else self._drawn("overlay")
        return np.stack([self._drawn("radiograph"), overlay])

    @metrics.timed("compose")
    def _drawn(self, layout: Layout) -> NDArray[np.uint8]:
        return compose(
            self._reading.rendered.values,
            self._reading.evidence,
            finding=self._reading.finding,
            identity=self._identity,
            created=self._created,
            aspect=self._reading.rendered.aspect,
            height=self._settings.height,
            layout=layout,
        )
