"""A reader for tests of what is done with an answer: whatever the shipped model makes of a drawn chest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.models import tiny
from worker.inference.analyzer import Reader
from worker.settings import Settings


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A tiny model, with the population of the shipped one."""
    made = Reader(Settings(), tiny(tmp_path_factory.mktemp("models") / "tiny"))
    yield made
    made.close()
