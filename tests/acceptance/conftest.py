"""Services that are ended whatever becomes of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.program import Service


@pytest.fixture(autouse=True)
def _answers_for_drawn_radiographs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have drawn radiographs answered, which may be unlike those that the model was made for."""
    monkeypatch.setenv("CXRD_MODEL__OUT_OF_DISTRIBUTION", "warn")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Make services in this test's folder: `serve(**parts of the settings)`; they are not started yet."""
    services: list[Service] = []

    def make(**parts: Any) -> Service:
        services.append(Service(tmp_path, **parts))
        return services[-1]

    yield make
    for each in services:
        each.kill()
