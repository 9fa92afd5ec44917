"""The model in service: loaded once, and exchanged between two images when another one is promoted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from dicom_io.errors import CxrdError
from modeltrain.model.registry import Registry
from worker.inference.analyzer import Reader
from worker.settings import Settings

log = structlog.get_logger("cxrd.serving")


def registry_of(settings: Settings) -> Registry:
    """Return the site's models."""
    return Registry(settings.storage.folder / "models")


def model_folder(settings: Settings) -> Path:
    """Return the folder of the model that serves: `model.folder`, or what was promoted, or the shipped one."""
    return settings.model.folder or registry_of(settings).current()


class Serving:
    """Lends the reader of the current model to the workers.

    A promotion is seen within a second of the next image. The workers that have the old reader finish with it; it is
    closed when the last one gives it back. A model that cannot be loaded leaves the old one in service.

    Parameters
    ----------
    note
        Enters an event that belongs to no image, with these facts.
    """

    def __init__(self, settings: Settings, note: Callable[[str, dict[str, Any]], None]) -> None:
        self._settings = settings
        self._note = note
        self._registry = registry_of(settings)
        self._stamp = self._registry.stamp()
        self._reader = Reader(settings, model_folder(settings))
        self._lent: dict[int, int] = {}
        self._lock = threading.Lock()
        self._exchanging = threading.Lock()
        self._looked = time.monotonic()

    @property
    def reader(self) -> Reader:
        """The reader of the current model."""
        return self._reader

    @contextmanager
    def lease(self) -> Iterator[Reader]:
        """Lend the current reader for one image."""
        self._look()
        with self._lock:
            reader = self._reader
            self._lent[id(reader)] = self._lent.get(id(reader), 0) + 1
        try:
            yield reader
        finally:
            with self._lock:
                self._lent[id(reader)] -= 1
                idle = not self._lent[id(reader)] and reader is not self._reader
            if idle:
                reader.close()

    def close(self) -> None:
        """Close the current reader; nobody may have it any more."""
        self._reader.close()

    def _look(self) -> None:
        """Exchange the reader where another model was promoted; one thread at a time, and the others do not wait."""
        if self._settings.model.folder or time.monotonic() - self._looked < 1:
            return
        if not self._exchanging.acquire(blocking=False):
            return
        try:
            self._looked = time.monotonic()
            stamp = self._registry.stamp()
            if stamp != self._stamp:
                self._stamp = stamp  # also when it fails: once is enough to be told of it
                self._exchange()
        finally:
            self._exchanging.release()

    def _exchange(self) -> None:
        before = self._reader
        try:
            after = Reader(self._settings, model_folder(self._settings))
        except CxrdError as error:
            log.error("model_not_loaded", reason=str(error), still=before.card.label)
            self._tell("model_not_loaded", reason=str(error), still=before.card.sha256)
            return
        with self._lock:
            self._reader = after
            idle = not self._lent.get(id(before), 0)
        if idle:
            before.close()
        log.info("model_exchanged", before=before.card.label, now=after.card.label)
        self._tell("model_exchanged", before=before.card.sha256, now=after.card.sha256)

    def _tell(self, kind: str, **facts: Any) -> None:
        try:
            self._note(kind, facts)
        except CxrdError as error:  # the event is a comfort, the image is the work
            log.warning("event_not_entered", kind=kind, reason=str(error))
