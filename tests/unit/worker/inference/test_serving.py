"""The model in service: who begins an image after a promotion gets the promoted model, and nobody gets half of one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from modeltrain.model.registry import Version
from tests.support.models import tiny
from worker.inference import serving
from worker.inference.analyzer import Reader
from worker.inference.serving import Serving, registry_of
from worker.settings import Settings, Storage


class Site:
    """Two models of a site, and what the daemon enters about their exchange."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(storage=Storage(folder=folder / "data"))
        self.registry = registry_of(self.settings)
        self.first = self.registry.add(tiny(folder / "first", version="1.0.0"))
        self.second = self.registry.add(tiny(folder / "second", version="2.0.0"))
        self.events: list[str] = []
        self.promote(self.first)
        self.serving = Serving(self.settings, lambda kind, _facts: self.events.append(kind))

    def promote(self, version: Version) -> None:
        self.registry.promote(version, {"from": "", "by": "jd"})

    def answering(self) -> str:
        with self.serving.lease() as reader:
            return reader.card.version


@pytest.fixture
def site(tmp_path: Path) -> Any:
    made = Site(tmp_path)
    yield made
    made.serving.close()


def test_the_next_image_gets_the_promoted_model(site: Site) -> None:
    for version in (site.second, site.first, site.second):
        site.promote(version)
        assert site.answering() == version.card.version
    assert site.events == ["model_exchanged"] * 3


def test_who_begins_while_the_new_model_is_loaded_waits_for_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    loading, go_on = threading.Event(), threading.Event()
    reader = Reader

    def slowly(*arguments: Any) -> Any:
        loading.set()
        assert go_on.wait(60)
        return reader(*arguments)

    monkeypatch.setattr(serving, "Reader", slowly)
    with site.serving.lease() as in_hand, ThreadPoolExecutor(4) as pool:
        site.promote(site.second)
        first = pool.submit(site.answering)
        assert loading.wait(60)
        others = [pool.submit(site.answering) for _ in range(3)]
        go_on.set()
        assert [each.result(60) for each in (first, *others)] == ["2.0.0"] * 4
        assert in_hand.card.version == "1.0.0"  # what was begun before is finished with the model of then
    assert site.events == ["model_exchanged"]


def test_a_model_that_cannot_be_loaded_leaves_the_old_one_in_service(site: Site) -> None:
    site.promote(site.second)
    (site.second.card.folder / "model.onnx").write_bytes(b"broken")
    assert [site.answering() for _ in range(3)] == ["1.0.0"] * 3
    assert site.events == ["model_not_loaded"]
    site.promote(site.first)
    assert site.answering() == "1.0.0"
