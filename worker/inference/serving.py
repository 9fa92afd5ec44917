"""The model in service: loaded once, and exchanged between two images when another one is promoted."""

from __future__ import annotations

import threading
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

    A promotion holds from the next image on: no image that is begun after it gets the old model, and who comes while
    the new one is loaded waits for it. Workers that have the old reader finish with it; it is closed when the last one
    gives it back. A model that cannot be loaded leaves the old one in service.

    Parameters
    ----------
    record_event
        Enters an event that belongs to no image: its kind and facts.
    """

    def __init__(self, settings: Settings, record_event: Callable[[str, dict[str, Any]], None]) -> None:
        self._settings = settings
        self._record_event = record_event
        self._registry = registry_of(settings)
        self._stamp = self._registry.stamp()
        self._reader = Reader(settings, model_folder(settings))
        self._leases: dict[int, int] = {}  # how many workers have a reader, by its id()
        self._lock = threading.Lock()
        self._exchange_lock = threading.Lock()

    @property
    def reader(self) -> Reader:
        """The reader of the current model."""
        return self._reader

    @contextmanager
    def lease(self) -> Iterator[Reader]:
        """Lend the current reader for one image."""
        self._check_promotion()
        with self._lock:
            reader = self._reader
            self._leases[id(reader)] = self._leases.get(id(reader), 0) + 1
        try:
            yield reader
        finally:
            with self._lock:
                self._leases[id(reader)] -= 1
                idle = not self._leases[id(reader)] and reader is not self._reader
            if idle:
                reader.close()

    def close(self) -> None:
        """Close the current reader; nobody may have it any more."""
        self._reader.close()

    def _check_promotion(self) -> None:
        """Exchange the reader where another model was promoted; one thread does it, and the others wait for it."""
        if self._settings.model.folder or self._registry.stamp() == self._stamp:
            return
        with self._exchange_lock:
            stamp = self._registry.stamp()
            if stamp != self._stamp:
                try:
                    self._exchange()
                finally:
                    self._stamp = stamp  # only now, so that others wait; also where it failed: one message is enough

    def _exchange(self) -> None:
        before = self._reader
        try:
            after = Reader(self._settings, model_folder(self._settings))
        except CxrdError as error:
            log.error("model_not_loaded", reason=str(error), still=before.card.label)
            self._record("model_not_loaded", reason=str(error), still=before.card.sha256)
            return
        with self._lock:
            self._reader = after
            idle = not self._leases.get(id(before), 0)
        if idle:
            before.close()
        log.info("model_exchanged", before=before.card.label, now=after.card.label)
        self._record("model_exchanged", before=before.card.sha256, now=after.card.sha256)

    def _record(self, kind: str, **facts: Any) -> None:
        try:
            self._record_event(kind, facts)
        except CxrdError as error:  # the image matters more than the event
            log.warning("event_not_entered", kind=kind, reason=str(error))
