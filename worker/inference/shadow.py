"""Shadow mode: a candidate model answers the live images too, for the audit only."""

from __future__ import annotations

import math
import queue
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from modeltrain.model.card import Card, load_card
from modeltrain.model.decision import Decider
from worker.clock import now
from worker.inference.analyzer import finding_of
from worker.inference.engine import OnnxEngine, onnx_file
from worker.inference.serving import registry_of
from worker.ledger.findings import record_shadow
from worker.ledger.receipts import Ledger
from worker.logs import unexpected
from worker.settings import Settings

log = structlog.get_logger("cxrd.shadow")
_MOST = 256  # images that wait, of 200 kB each; one more gets no shadow answer, and the log says so


def open_shadow(settings: Settings, ledger: Ledger) -> Shadow | None:
    """Return the shadow that the settings ask for, or None.

    Raises
    ------
    InvalidModel, InvalidSettings
        There is no such candidate, or it is damaged.
    """
    name = settings.model.shadow
    if not name:
        return None
    card = load_card(Path(name)) if Path(name).is_dir() else registry_of(settings).find(name).card
    return Shadow(card, settings, ledger)


class Shadow:
    """Answers images in a thread of its own, after the current model and without delaying it."""

    def __init__(self, card: Card, settings: Settings, ledger: Ledger) -> None:
        self.card = card
        self._ledger = ledger
        # With the site's settings, as it would decide after a promotion.
        self._decider = Decider(card, settings.model.operating_point, settings.model.threshold)
        # One thread: a candidate must not take the cores from the model that people wait for.
        self._engine = OnnxEngine(card.folder / onnx_file(card, settings.model.precision), threads=1)
        self._until = math.inf
        self._queue: queue.Queue[tuple[int, NDArray[np.float32], float | None] | None] = queue.Queue(_MOST)
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def offer(self, receipt_id: int, image: NDArray[np.float32], years: float | None = None) -> None:
        """Queue an analysed image, float32 [1, size, size], and the patient's age; skipped when too many wait."""
        try:
            self._queue.put_nowait((receipt_id, image, years))
        except queue.Full:
            log.warning("shadow_skipped", receipt=receipt_id)

    def close(self, within: float = 60.0) -> None:
        """Answer the images that wait, and end; what is not answered within so many seconds goes without."""
        self._until = time.monotonic() + within
        with suppress(queue.Full):
            self._queue.put(None, timeout=within)
        self._thread.join(max(0.0, self._until - time.monotonic()))
        left = 0
        with suppress(queue.Empty):
            while True:
                left += self._queue.get_nowait() is not None
        if left:
            log.warning("shadow_skipped", images=left)

    def _run(self) -> None:
        while time.monotonic() < self._until and (item := self._queue.get()) is not None:
            receipt_id, image, years = item
            try:
                self._answer(receipt_id, image, years)
            except Exception as error:  # noqa: BLE001 - a candidate's error must not stop the current model
                log.warning("shadow_error", receipt=receipt_id, reason=unexpected(error))

    def _answer(self, receipt_id: int, image: NDArray[np.float32], years: float | None) -> None:
        _, rows, columns = image.shape
        finding = finding_of(self._engine.predict(image[np.newaxis]), self._decider, (rows, columns), years)
        with self._ledger.writing() as connection:
            record_shadow(connection, receipt_id, self.card.identity, finding, now())
