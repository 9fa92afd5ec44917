"""`cxrd evaluate` and `cxrd models` on labelled images of every origin: what they say, and of whom they are silent."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dicom_io.errors import InvalidData, InvalidSettings, OutOfResources
from dicom_io.header import reading
from dicom_io.objects.common import encode
from dicom_io.objects.radiograph import radiograph
from dicom_io.pixels.radiograph import AGE_BANDS, age_band, attributes
from modeltrain.data.csv_file import csv_source
from modeltrain.data.duplicates import Duplicates
from modeltrain.data.evaluation_set import evaluation_set
from modeltrain.data.seen_images import UnseenImages
from modeltrain.data.sources import Source
from modeltrain.evaluation.compare import Comparison, Difference, MapComparison
from modeltrain.evaluation.faithfulness import MEASURES
from modeltrain.model.registry import Registry
from tests.support.models import tiny
from tests.support.peers import chest
from tests.unit.modeltrain.toys import draw, kaggle_folder
from tests.unit.worker.ledger.test_receipts import NEW, NOON
from worker import settings
from worker.cli.models import compare, promote
from worker.cli.training import evaluate
from worker.engines.offline import analyze
from worker.inference.analyzer import Reader
from worker.ledger.database import open_ledger
from worker.ledger.feedback import Verdict, enter
from worker.ledger.queries import story
from worker.ledger.receipts import Ledger
from worker.models.comparison import PairedComparison
from worker.models.training_data import AUDIT, evaluation_data, training_data
from worker.settings import Settings


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A CSV file of eight DICOM objects of as many patients, the last four of them for the test."""
    (tmp_path / "images").mkdir()
    rows: list[dict[str, Any]] = []
    for number in range(8):
        dataset = radiograph(
            draw(number, opacity=bool(number % 2), side=96),
            uid_seed=str(number),
            PatientID=f"SECRET-{number}",
            PatientName="Doe^Jane",
            PatientSex="F" if number < 6 else "M",
            PatientAge="003Y" if number % 4 < 2 else "044Y",
            Manufacturer="ACME  Imaging",
            ViewPosition="AP",
        )
        dataset.save_as(tmp_path / "images" / f"{number}.dcm", enforce_file_format=True)
        label = "PNEUMONIA" if number % 2 else "NORMAL"
        rows.append({"path": f"images/{number}.dcm", "label": label, "split": "test" if number > 3 else "train"})
    path = tmp_path / "list.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"storage": {"folder": str(tmp_path / "data"), "min_free_mb": 0}}))
    return path


def test_a_list_of_dicom_objects_is_judged_by_subgroup(
    listed: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(str(listed), tmp_path / "out", as_json=True, config=config)
    said = capsys.readouterr()
    told = json.loads(said.out, parse_constant=lambda _: pytest.fail("NaN is no JSON"))
    assert (told["n"], told["data"]["name"]) == (4, "CSV file list.csv, split test")
    groups = told["attributes"]
    assert list(groups) == [
        "PatientSex", "AgeBand", "Manufacturer", "Modality", "PhotometricInterpretation", "ViewPosition",
    ]  # fmt: skip
    assert {value: group["n"] for value, group in groups["PatientSex"].items()} == {"F": 2, "M": 2}
    assert {value: group["n"] for value, group in groups["AgeBand"].items()} == {"1 to 5 years": 2, "40 to 64 years": 2}
    assert list(groups["Manufacturer"]) == ["ACME Imaging"]
    (all_four,) = groups["ViewPosition"].values()
    assert all_four["auc"] == pytest.approx(told["auc"], abs=1e-4)
    assert (all_four["normal"], all_four["pneumonia"]) == (2, 2)
    # The four images to learn from were compared with these.
    assert told["heatmaps"] is None or set(told["heatmaps"]["measures"]) == set(MEASURES)
    assert told["near_duplicates"]["compared"]
    assert told["near_duplicates"]["n"] == len(told["near_duplicates"]["pairs"])
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for words in ("CSV file list.csv, split test", "40 to 64 years", "ACME Imaging", "Thresholds", "look alike"):
        assert words in report
    text = re.sub(r"base64,[^\"]+", "", report) + said.out + said.err
    assert "SECRET" not in text
    assert "Doe" not in text


def test_near_duplicates_of_a_test_folder_are_in_the_json(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = kaggle_folder(tmp_path / "kaggle", patients=2)
    copy = root / "test" / "NORMAL" / "copy.png"
    copy.write_bytes((root / "train" / "NORMAL" / "IM-0000-0001.png").read_bytes())
    evaluate(str(root / "test"), tmp_path / "out", as_json=True, config=config)
    found = json.loads(capsys.readouterr().out)
    pairs = found["near_duplicates"]["pairs"]
    assert {"first": str(copy), "second": str(root / "train" / "NORMAL" / "IM-0000-0001.png"), "distance": 0} in pairs
    assert found["attributes"] == {}


def test_what_a_header_states_is_bounded_and_names_nobody() -> None:
    found = attributes(chest(PatientSex="Doe^Jane", PatientAge="", PatientBirthDate="", Manufacturer="M" * 64))
    assert not {"PatientSex", "AgeBand"} & set(found)
    assert found["Manufacturer"] == "M" * 40
    ages = {0.2: "under 1 year", 1: "1 to 5 years", 5.9: "1 to 5 years", 6: "6 to 17 years", 18: "18 to 39 years"}
    ages |= {64.9: "40 to 64 years", 65: "65 years and over", 102: "65 years and over"}
    assert {years: age_band(years) for years in ages} == ages
    assert list(dict.fromkeys(ages.values())) == list(AGE_BANDS)


def test_each_file_is_parsed_once_to_be_listed_and_once_to_be_judged(
    listed: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reads: list[str] = []

    def counted(path: Path, limits: Any, *, stop_before_pixels: bool) -> Any:
        reads.append(f"{path.name}{' header' if stop_before_pixels else ''}")
        return read(path, limits, stop_before_pixels=stop_before_pixels)

    read = reading._read
    monkeypatch.setattr(reading, "_read", counted)
    monkeypatch.setattr("worker.models.evaluation.near_duplicates", lambda *_: Duplicates(()))
    monkeypatch.setattr("modeltrain.evaluation.figures.write_figures", lambda *_: ())
    monkeypatch.setattr("modeltrain.evaluation.report.write_report", lambda *_, **__: tmp_path)
    evaluate(str(listed), tmp_path / "out", as_json=True, config=config)
    assert json.loads(capsys.readouterr().out)["attributes"]["PatientSex"]["F"]["n"] == 2
    judged = [name for name in reads if not name.endswith("header")]
    assert sorted(judged) == ["4.dcm", "5.dcm", "6.dcm", "7.dcm"]
    assert len(reads) == len(judged) + 8


def promoted(config: Path) -> list[dict[str, Any]]:
    with open_ledger(settings.load(config)).reading() as connection:
        rows = connection.exec_driver_sql("SELECT detail FROM event WHERE kind = 'promoted' ORDER BY id").all()
    return [json.loads(row[0]) for row in rows]


def test_a_promotion_needs_enough_images_or_force(
    listed: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = Registry(tmp_path / "data" / "models").add(tiny(tmp_path / "new")).name
    few = r"is not promoted: 2 NORMAL and 2 PNEUMONIA images are too few to tell \(at least 30 of each\)"
    with pytest.raises(InvalidSettings, match=few):
        promote(name, str(listed), config=config)
    assert promoted(config) == []
    promote(name, str(listed), least=2, margin=1, config=config)
    promote(name, str(listed), margin=1, force=True, reason="nothing better at hand", config=config)
    first, second = promoted(config)
    assert (first["forced"], first["least"], first["too_few"]) == (False, 2, False)
    assert (second["forced"], second["least"], second["too_few"]) == (True, 30, True)
    assert first["comparison"]["data"] == "CSV file list.csv, split test"
    assert len(first["comparison"]["data_sha256"]) == 64
    (tmp_path / "file").touch()
    with pytest.raises(OutOfResources, match="file: cannot be written"):
        evaluate(str(listed), tmp_path / "file", config=config)
    capsys.readouterr()
    compare([name, name], str(listed), config=config)
    shown = capsys.readouterr().out
    assert re.search(r"NORMAL images: +2\nPNEUMONIA images: +2\nIntervals: AUC by DeLong", shown)


def test_a_candidate_with_worse_heatmaps_is_refused_unless_forced(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = Registry(tmp_path / "data" / "models").add(tiny(tmp_path / "new")).name
    same = Difference(0.9, 0.9, 0, 0)
    maps = MapComparison(50, 50, {"contrast": Difference(2.0, 0.5, -2.0, -1.0), "peak_inside": same})
    result = PairedComparison(
        Comparison(50, 50, same, same, same), UnseenImages(Source("locked", (), "d"), (), {}), maps
    )
    monkeypatch.setattr("worker.models.promotion._compared", lambda *_: result)
    words = (
        r"is not promoted: its heatmaps are worse: drop of log-odds, hottest less random third 0\.500 against 2\.000 "
        r"\(difference -1\.500, -2\.000 to -1\.000, margin 0\.2\)$"
    )
    with pytest.raises(InvalidSettings, match=words):
        promote(name, "locked", config=config)
    assert promoted(config) == []
    promote(name, "locked", force=True, reason="nothing better at hand", config=config)
    (event,) = promoted(config)
    assert event["worse"] == maps.worse()
    assert event["comparison"]["maps"]["contrast"]["new"] == 0.5


def test_a_model_is_not_compared_on_what_it_has_learnt_from(
    listed: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = evaluation_set(listed).source
    two = Source("two", source.samples[:2], "d")
    versions = Registry(tmp_path / "data" / "models")
    some = versions.add(tiny(tmp_path / "some", seen=two)).name
    every = versions.add(tiny(tmp_path / "all", version="9.1.0", seen=source)).name
    other = versions.add(tiny(tmp_path / "other", version="9.2.0", seen=csv_source(listed))).name
    with pytest.raises(InvalidData, match=rf"nothing is left .*4 of 4 images are left out: {every} has learnt"):
        promote(every, str(listed), least=2, margin=1, config=config)
    with pytest.raises(InvalidData, match=rf"1 NORMAL and 1 PNEUMONIA images.*2 of 4 images are left out: {some}"):
        promote(some, str(listed), least=2, margin=1, config=config)
    assert promoted(config) == []
    capsys.readouterr()
    promote(other, str(listed), least=2, margin=1, config=config)
    assert "left out" not in capsys.readouterr().err
    (event,) = promoted(config)
    assert event["comparison"]["learnt_from"][other] == 0
    with pytest.raises(InvalidData, match="left out"):
        compare([some, every], str(listed), config=config)
    silent = versions.add(tiny(tmp_path / "silent", version="9.3.0")).name
    compare([silent, other], str(listed), config=config)
    assert f"{silent} has no list of the images that it has learnt from" in capsys.readouterr().out

    # What is judged by `evaluate` is judged as a whole, but it is said.
    loaded = tmp_path / "every.yaml"
    loaded.write_text(yaml.safe_dump({"model": {"folder": str(tmp_path / "all")}, "storage": {"min_free_mb": 0}}))
    evaluate(str(listed), tmp_path / "out", as_json=True, config=loaded)
    said = capsys.readouterr()
    assert json.loads(said.out)["data"]["learnt_from"] == 4
    assert "was trained on images of this set" in said.err
    assert "Images: 4" in said.err
    assert "These figures are too good" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_comparison_lists_nothing_that_it_does_not_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = kaggle_folder(tmp_path / "kaggle", patients=2)
    monkeypatch.setattr("modeltrain.data.sources.training_samples", lambda _: pytest.fail("listed"))
    assert evaluation_data(Settings(), str(root), beside=False).others == ()


def test_what_is_not_there_is_called_so() -> None:
    words = r"audit: no such folder or file; .* write AUDIT"
    with pytest.raises(InvalidData, match=words):
        evaluation_data(Settings(), "audit")
    with pytest.raises(InvalidData, match=words):
        training_data(Settings(), "audit")


def test_the_audit_s_verdicts_judge_too(config: Path) -> None:
    loaded = settings.load(config)
    with pytest.raises(InvalidData, match="no reader's verdict yet"):
        evaluation_data(loaded, AUDIT)
    ledger: Ledger = open_ledger(loaded)
    assert ledger.receive(NEW)
    enter(ledger, [Verdict("NORMAL", "jd", NEW.sop_instance_uid)], "x", NOON)
    judged = evaluation_data(loaded, AUDIT)
    assert [sample.name for sample in judged.source.samples] == [f"SOP instance {NEW.sop_instance_uid}"]
    assert judged.others == ()
    (sample,) = judged.source.samples
    assert (sample.uid, sample.content) == (NEW.sop_instance_uid, NEW.sha256)
    assert story(ledger, "1")


def test_a_full_disk_leaves_no_hidden_file_and_names_the_one_that_was_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.dcm").write_bytes(encode(chest("a")))
    out = tmp_path / "out"
    out.mkdir()
    # A drawing may be unlike what the model was made for; it is answered all the same.
    answering = Settings.model_validate({"model": {"out_of_distribution": "warn"}})
    reader = Reader(answering)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("dicom_io.durable.os.fsync", full)
        (answer,) = analyze([tmp_path / "a.dcm"], out, reader, answering)
    assert (answer.status, answer.reason) == ("failed", f"{out / 'a.png'}: cannot be written (No space left on device)")
    assert list(out.iterdir()) == []
    (answer,) = analyze([tmp_path / "a.dcm"], out, reader, answering)
    reader.close()
    assert answer.status == "analysed"
    (tmp_path / "other").touch()
    modes = {path.stat().st_mode for path in (*out.iterdir(), tmp_path / "other")}
    assert len(modes) == 1, "readable for whom the site's umask says"
