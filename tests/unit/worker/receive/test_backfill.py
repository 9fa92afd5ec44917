"""`cxrd pull`: its input, and how it waits and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_io.errors import InvalidData, InvalidSettings, PeerUnavailable
from dicom_io.network.query_retrieve import Query, Series
from worker.cli.app import app
from worker.receive import backfill


class Ledger:
    def __init__(self, known: set[str], waiting: list[int]) -> None:
        self.known, self.waiting = known, waiting

    def has_received(self, uid: str) -> bool:
        return uid in self.known

    def counts(self) -> dict[str, int]:
        return {"received": self.waiting.pop(0) if len(self.waiting) > 1 else self.waiting[0]}


class Archive:
    """Answers for every series but those whose name begins with `lost`; of `half` it sends one image of two."""

    def __init__(self, ledger: Ledger) -> None:
        self.asked: list[str] = []
        self._ledger = ledger

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def series(self, wanted: Query, modalities: tuple[str, ...]) -> Iterator[Series]:
        if wanted.patient_id == "nobody":
            return
        yield from [Series("1", uid, modalities[0]) for uid in (f"{wanted.patient_id}.1", "both")]

    def instances(self, series: Series) -> list[str]:
        if series.series_instance_uid.startswith("lost"):
            raise PeerUnavailable("the association was lost")
        return [f"{series.series_instance_uid}.1", f"{series.series_instance_uid}.2"]

    def fetch(self, series: Series, missing: list[str]) -> str:
        self.asked.append(series.series_instance_uid)
        self._ledger.known.update(missing[:1] if series.series_instance_uid == "half" else missing)
        return ""


def run(ledger: Ledger, uids: list[str], slept: list[float] | None = None) -> tuple[list[backfill.Step], Archive]:
    pacs = Archive(ledger)
    series = [Series("1", uid, "CR") for uid in uids]
    sleep = ([] if slept is None else slept).append
    steps = list(backfill.fetch_series(lambda: pacs, series, ledger, most_waiting=3, sleep=sleep))  # type: ignore[arg-type]
    return steps, pacs


def test_what_is_known_is_not_asked_for_and_a_failure_is_not_the_end() -> None:
    slept: list[float] = []
    steps, pacs = run(Ledger({"a.1", "a.2", "b.1"}, waiting=[5, 5, 0]), ["a", "lost", "b", "half"], slept)
    assert pacs.asked == ["b", "half"]
    assert [(step.present, step.received, step.failed, step.error) for step in steps] == [
        (2, 0, 0, ""),
        (0, 0, 1, "the association was lost"),
        (1, 1, 0, ""),
        (0, 1, 1, "not everything came"),
    ]
    assert slept == [1.0, 1.0]


def test_three_series_in_a_row_without_an_answer_are_the_end() -> None:
    run(Ledger(set(), [0]), ["lost1", "lost2", "a", "lost3", "lost4"])
    with pytest.raises(PeerUnavailable, match="3 series in a row"):
        run(Ledger(set(), [0]), ["lost1", "lost2", "lost3", "a"])


def test_it_does_not_wait_for_ever_where_nobody_answers_images() -> None:
    slept: list[float] = []
    with pytest.raises(PeerUnavailable, match="7 images wait and none is answered"):
        run(Ledger(set(), [8, 7]), ["a"], slept)
    assert len(slept) == 601


def test_each_series_is_found_once() -> None:
    pacs = Archive(Ledger(set(), [0]))
    found = backfill.find_series(lambda: pacs, [Query(patient_id="p"), Query(patient_id="q")], ("DX",))
    assert [each.series_instance_uid for each in found.series] == ["p.1", "both", "q.1"]


def test_a_search_says_how_far_it_is_and_what_matches_nothing() -> None:
    pacs = Archive(Ledger(set(), [0]))
    told: list[int] = []
    wanted = [Query(patient_id=name) for name in ("p", "nobody", "q", "nobody")]
    found = backfill.find_series(lambda: pacs, wanted, ("DX",), told.append)
    assert found.without_match == [1, 3]
    assert told == [1, 2, 3, 4]


def test_a_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("\ufeffpatient_id,other,accession_number\nP1,x,\n,y,A2\n")
    assert backfill.read_queries(path) == [(2, Query(patient_id="P1")), (3, Query(accession_number="A2"))]


@pytest.mark.parametrize(
    "text",
    [
        "Accession Number;PatientID;dates\nA 1;P1;20260101-\n",
        "accession_number\tnote\tPATIENT_ID\tdates\nA 1\tx, y; z\tP1\t20260101-\n",
        '"patient id","dates","accession_number"\r\n"P1","20260101-","A 1"\r\n',
    ],
)
def test_tables_are_read_as_programs_write_them(text: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text, newline="")
    assert backfill.read_queries(path) == [(2, Query("20260101-", "P1", "A 1"))]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name\nx\n", "none of the columns"),
        ('patient_id\nP1\n" "\n', "table.csv:3: names nothing"),
        ("", "none of the columns"),
        ("patient_id\n", "table.csv: has no rows"),
        ("dates,patient_id\n20260131,\n2026-01-31,P\n", "table.csv:3: dates are written as 20260131"),
    ],
)
def test_a_table_that_would_fetch_everything_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(InvalidData, match=words):
        backfill.read_queries(path)
    with pytest.raises(InvalidData, match="cannot be read"):
        backfill.read_queries(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "--date", "20260101"], "nowhere: no such destination"),
        (["hook", "--date", "20260101"], "not an archive"),
        (["pacs"], "name what to pull"),
        (["pacs", "--date", "yesterday"], "write it as 20260131"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "destinations:\n  - {name: pacs, host: 127.0.0.1, port: 1, ae_title: PACS}\n  - {name: hook, webhook: 'http://x/'}\n"
    )
    with pytest.raises(InvalidSettings, match=words):
        app(["pull", *arguments, "--config", str(config)], standalone_mode=False)
