"""The shadow model: answers beside the current one, once for each image, and is never in its way."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

from dicom_io.errors import InvalidSettings
from modeltrain.model.card import load_card
from tests.support import databases
from tests.support.ledgers import record_finding
from tests.support.models import tiny
from tests.unit.worker.ledger.test_receipts import FINDING, NEW, NOON
from worker.inference.shadow import Shadow, open_shadow
from worker.ledger.receipts import Ledger
from worker.ledger.shadow_queries import differences, summary
from worker.ledger.tables import ShadowRow
from worker.settings import ModelSettings, Settings, Storage

IMAGE = np.full((1, 224, 224), 0.5, np.float32)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    engine = databases.opened(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    made = Ledger(engine)
    number = made.receive(NEW)
    assert number == 1
    record_finding(made, number, FINDING, [], NOON)
    return made


@pytest.fixture(scope="module")
def candidate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A bias that flags nothing, where the finding in the ledger is flagged.
    return tiny(tmp_path_factory.mktemp("shadow") / "net", bias=-60.0)


@pytest.fixture
def beside(candidate: Path, ledger: Ledger) -> Iterator[Shadow]:
    made = Shadow(load_card(candidate), Settings(), ledger)
    yield made
    made.close()


def answers(ledger: Ledger) -> int:
    with ledger.reading() as connection:
        return int(connection.scalar(select(func.count()).select_from(ShadowRow)) or 0)


def test_its_answer_is_in_the_audit_once(beside: Shadow, ledger: Ledger) -> None:
    beside.offer(1, IMAGE)
    beside.offer(1, IMAGE)  # an image that is done again after a crash
    beside.close()
    assert answers(ledger) == 1
    (line,) = summary(ledger, None)
    assert (line["n"], line["agree"], line["shadow"]) == (1, 0, beside.card.label)
    (differing,) = differences(ledger, None)
    assert (differing["answer"], differing["shadow_answer"]) == ("flagged", "not flagged")


def test_it_answers_as_it_would_if_it_served(beside: Shadow, ledger: Ledger) -> None:
    if beside._decider.greatest_age > 39:
        pytest.skip("the shipped model states another population")
    beside.offer(1, IMAGE, 40.0)
    beside.close()
    (differing,) = differences(ledger, None)
    assert differing["shadow_answer"] == "outside"


def test_when_too_many_wait_one_goes_without(
    beside: Shadow, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_item: Any) -> None:
        raise queue.Full

    monkeypatch.setattr(beside._queue, "put_nowait", full)
    beside.offer(1, IMAGE)
    monkeypatch.undo()
    beside.close()
    assert answers(ledger) == 0
    assert "shadow_skipped" in capsys.readouterr().out


def test_what_waits_does_not_hold_up_the_end(
    beside: Shadow, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held, begun = threading.Event(), threading.Event()

    def answer(*_: object) -> None:
        begun.set()
        held.wait(60)

    monkeypatch.setattr(beside, "_answer", answer)
    try:
        beside.offer(1, IMAGE)
        assert begun.wait(20)
        while not beside._queue.full():
            beside.offer(1, IMAGE)
        before = time.monotonic()
        beside.close(0.2)
        assert time.monotonic() - before < 20
    finally:
        held.set()
    (line,) = [each for each in capsys.readouterr().out.splitlines() if "shadow_skipped" in each]
    assert str(beside._queue.maxsize) in line
    assert answers(ledger) == 0


def test_its_failure_is_its_own(beside: Shadow, ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    beside.offer(1, np.zeros((1, 3, 3), np.float32))  # no image that the model could take
    beside.offer(1, IMAGE)
    beside.close()
    assert "shadow_error" in capsys.readouterr().out
    assert answers(ledger) == 1


def test_a_candidate_that_is_not_there_is_said_at_the_start(tmp_path: Path, ledger: Ledger) -> None:
    settings = Settings(model=ModelSettings(shadow="nobody-1.0.0"), storage=Storage(folder=tmp_path))
    with pytest.raises(InvalidSettings, match="nobody"):
        open_shadow(settings, ledger)
    assert open_shadow(Settings(), ledger) is None
