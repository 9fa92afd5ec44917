"""`cxrd pull`: its input, and how it waits and goes on."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dicom_io.errors import InvalidData, InvalidSettings, PeerUnavailable
from dicom_io.query import Moved, Series, Wanted
from dicom_io.scu import Peer
from worker import pull
from worker.cli import app

PACS = Peer("127.0.0.1", 1, "PACS")


class Ledger:
    def __init__(self, known: set[str], waiting: list[int]) -> None:
        self.known, self.waiting = known, waiting

    def knows(self, uid: str) -> bool:
        return uid in self.known

    def counts(self) -> dict[str, int]:
        return {"received": self.waiting.pop(0) if self.waiting else 0}


class Archive:
    asked: list[str]

    def __init__(self) -> None:
        self.asked = []

    def instances(self, series: Series) -> list[str]:
        if series.series_instance_uid == "lost":
            raise PeerUnavailable("the association was lost")
        return [f"{series.series_instance_uid}.1", f"{series.series_instance_uid}.2"]

    def move(self, series: Series, destination: str) -> Moved:
        self.asked.append(f"{series.series_instance_uid} to {destination}")
        return Moved(2, 0)


def test_what_is_known_is_not_asked_for_and_a_failure_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    pacs = Archive()

    @contextmanager
    def opened(_peer: Peer) -> Any:
        yield pacs

    monkeypatch.setattr(pull, "archive", opened)
    slept: list[float] = []
    ledger: Any = Ledger({"a.1", "a.2", "b.1"}, waiting=[5, 5, 0])
    series = [Series("1", uid, "CR") for uid in ("a", "lost", "b")]
    steps = list(pull.fetch(PACS, series, ledger, "CXRD", most_waiting=3, sleep=slept.append))
    assert pacs.asked == ["b to CXRD"]
    assert [(step.known, step.came, bool(step.error)) for step in steps] == [(2, 0, False), (0, 0, True), (1, 1, False)]
    assert slept == [1.0, 1.0]


def test_a_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("\ufeffpatient_id,other,accession_number\nP1,x,\n,y,A2\n")
    assert pull.wanted_of(path) == [Wanted(patient_id="P1"), Wanted(accession_number="A2")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name\nx\n", "none of the columns"),
        ('patient_id\nP1\n" "\n', "table.csv:3: names nothing"),
        ("", "none of the columns"),
    ],
)
def test_a_table_that_would_fetch_everything_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(InvalidData, match=words):
        pull.wanted_of(path)
    with pytest.raises(InvalidData, match="cannot be read"):
        pull.wanted_of(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "--date", "20260101"], "nowhere: not in the configuration"),
        (["web", "--date", "20260101"], "no DICOM node"),
        (["pacs"], "name what to pull"),
        (["pacs", "--date", "yesterday"], "write it as 20260131"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "destinations:\n  - {name: pacs, host: 127.0.0.1, port: 1, ae_title: PACS}\n  - {name: web, url: 'http://x/'}\n"
    )
    with pytest.raises(InvalidSettings, match=words):
        app(["pull", *arguments, "--config", str(config)], standalone_mode=False)
