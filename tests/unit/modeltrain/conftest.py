"""Fixtures of the model's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from modeltrain.export import export
from tests.unit.modeltrain.toys import kaggle_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small work on few cores: threads that wait for each other cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the Kaggle layout."""
    return kaggle_folder(tmp_path_factory.mktemp("data"), patients=6)


@pytest.fixture
def few_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an export take the ranges of its int8 file from four images: for tests that are about something else."""
    monkeypatch.setattr(export, "_RANGE_IMAGES", 4)
