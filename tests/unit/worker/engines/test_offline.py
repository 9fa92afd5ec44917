"""`cxrd analyze`: answers in the files' order, and the evidence of each picture for machines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dicom_io.objects.common import encode
from tests.support.models import tiny
from tests.support.peers import chest
from tests.unit.worker.inference.test_analyzer import LEFT, RIGHT, TWO, picture
from worker.engines.offline import analyze, output_names
from worker.inference.analyzer import Reader
from worker.results.kinds import KINDS
from worker.settings import RulesSettings, Settings


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A tiny model that looks for lungs."""
    made = Reader(Settings(), tiny(tmp_path_factory.mktemp("models") / "tiny", lungs=True, bias=60.0))
    yield made
    made.close()


def write(path: Path, values: np.ndarray[Any, np.dtype[np.float32]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    # An image of two shades, or of an even slope, shows nothing.
    shaded = values + 0.1 * np.sin(np.linspace(0, 12, len(values)))[:, None] ** 2
    cv2.imwrite(str(path), (shaded * 255).astype(np.uint8))
    return path


def read(files: list[Path], out: Path, reader: Reader, settings: Settings | None = None) -> list[dict[str, Any]]:
    out.mkdir(exist_ok=True)
    outcomes = analyze(files, out, reader, settings or Settings(), maps=True)
    return [json.loads(json.dumps(outcome.as_json())) for outcome in outcomes]


def test_each_picture_has_its_map_and_score_whatever_the_answer(tmp_path: Path, reader: Reader) -> None:
    pictures = {
        "two": (TWO, "analysed", "flagged", ""),
        "none": (picture(), "not_analysed", "outside", "no lungs found"),
        "one": (picture(RIGHT), "analysed", "uncertain", "only one lung found"),
        "cut": (picture(RIGHT, (300, 80, 448, 380)), "analysed", "flagged", "a lung is cut off at the image's edge"),
    }
    files = [write(tmp_path / "in" / f"{name}.png", values) for name, (values, *_) in pictures.items()]
    rows = read(files, tmp_path / "out", reader)
    assert [Path(row["file"]).stem for row in rows] == list(pictures)
    for row, (name, (_, *expected)) in zip(rows, pictures.items(), strict=True):
        assert [row["status"], row["answer"], row["caution"]] == expected
        assert row["score"] == pytest.approx(60.5, abs=0.5)
        evidence = np.load(tmp_path / "out" / f"{name}.npy")
        assert str(tmp_path / "out" / f"{name}.npy") in row["outputs"]
        assert (evidence.shape, evidence.dtype) == ((224, 224), np.float32)
        assert (evidence >= 0).all()
        assert (evidence.max() > 0) == (name != "none")
    assert (rows[1]["reason"], rows[1]["regions"]) == ("outside: no lungs found", [])
    assert [row["lungs_count"] for row in rows] == [2, 0, 1, 2]
    assert [row["lungs_cut"] for row in rows] == [False, False, False, True]


def test_a_map_lies_in_the_frame_of_the_picture_that_was_given(tmp_path: Path, reader: Reader) -> None:
    """Squashed to the square, as absolute numbers: half the picture's height is half the map's."""
    wide = np.asarray(cv2.resize(TWO, (900, 300), interpolation=cv2.INTER_NEAREST), np.float32)
    read([write(tmp_path / "in" / "wide.png", wide)], tmp_path / "out", reader)
    evidence = np.load(tmp_path / "out" / "wide.npy")
    inside = np.zeros((224, 224), bool)
    for left, top, right, bottom in (RIGHT, LEFT):
        inside[top // 2 : bottom // 2, left // 2 : right // 2] = True
    assert evidence[~cv2.dilate(inside.astype(np.uint8), np.ones((9, 9))).astype(bool)].max() == 0
    assert evidence[cv2.erode(inside.astype(np.uint8), np.ones((9, 9))).astype(bool)].min() > 0


def test_dicom_objects_get_maps_alike_unless_the_rules_leave_them_out(tmp_path: Path, reader: Reader) -> None:
    (tmp_path / "chest.dcm").write_bytes(encode(chest()))
    (tmp_path / "lateral.dcm").write_bytes(encode(chest("lateral", ViewPosition="LL")))
    seen, lateral = read([tmp_path / "chest.dcm", tmp_path / "lateral.dcm"], tmp_path / "out", reader)
    assert np.load(tmp_path / "out" / "chest.npy").shape == (224, 224)
    assert seen["score"] is not None
    assert (lateral["status"], lateral["answer"], lateral["score"]) == ("not_analysed", None, None)
    assert not list((tmp_path / "out").glob("lateral*"))


def test_without_the_option_there_is_no_map(tmp_path: Path, reader: Reader) -> None:
    file = write(tmp_path / "in" / "two.png", TWO)
    (tmp_path / "out").mkdir()
    (outcome,) = analyze([file], tmp_path / "out", reader, Settings())
    assert outcome.status == "analysed"
    assert not list((tmp_path / "out").glob("*.npy"))


def test_no_file_is_replaced(tmp_path: Path, reader: Reader) -> None:
    files = [write(tmp_path / folder / "x.png", values) for folder, values in (("a", TWO), ("b", picture(RIGHT)))]
    before = [file.read_bytes() for file in files]
    rows = read(files, tmp_path / "a", reader)  # into the first one's own folder
    assert [file.read_bytes() for file in files] == before
    outputs = [Path(name).name for row in rows for name in row["outputs"]]
    assert len(set(outputs)) == len(outputs)
    assert {name for name in outputs if name.endswith(".npy")} == {"x-2.npy", "x-3.npy"}
    assert [row["answer"] for row in rows] == ["flagged", "uncertain"]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a/x.png", "b/x.jpg", "b/x-2.dcm", "c/x.dcm"], ["x", "x-2", "x-2-2", "x-3"]),
        (["a/x.dcm", "a/x.sr.dcm"], ["x", "x.sr-2"]),  # a report of the one has the name of the other's picture
        (["out/x.dcm", "a/x.png"], ["x-2", "x-3"]),
        (["out/x.jpg"], ["x"]),
    ],
)
def test_names_of_outputs_are_given_once(files: list[str], names: list[str]) -> None:
    given = output_names([Path(file) for file in files], Path("out"))
    assert given == names
    every = [name + suffix for name in given for suffix in (".png", ".npy", *(kind.suffix for kind in KINDS.values()))]
    assert len(set(every)) == len(every)


def test_one_bad_file_does_not_stop_the_others(tmp_path: Path, reader: Reader) -> None:
    bad, good = tmp_path / "bad.png", write(tmp_path / "in" / "good.png", TWO)
    bad.write_bytes(b"no picture")
    rows = read([bad, good, bad, good], tmp_path / "out", reader, Settings(rules=RulesSettings()))
    assert [row["status"] for row in rows] == ["failed", "analysed", "failed", "analysed"]
    assert rows[0]["answer"] is None
