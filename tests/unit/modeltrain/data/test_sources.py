"""Training data from folders and CSV files: what is read, how it is divided, and what is refused by which words."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dicom_io.errors import InvalidData
from dicom_io.objects.radiograph import radiograph
from modeltrain.data.csv_file import csv_source
from modeltrain.data.evaluation_set import evaluation_set
from modeltrain.data.samples import Images, Sample, read_sample
from modeltrain.data.sources import Source, Sources, folder_source, readable, sources_of
from tests.unit.modeltrain.toys import draw, kaggle_folder, write_class

if TYPE_CHECKING:
    from pathlib import Path


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def listed(tmp_path: Path) -> list[dict[str, Any]]:
    """Rows for four DICOM objects and four pictures of four patients each."""
    (tmp_path / "images").mkdir()
    rows: list[dict[str, Any]] = []
    for number in range(4):
        label = "PNEUMONIA" if number % 2 else "NORMAL"
        dataset = radiograph(draw(number, opacity=bool(number % 2)), uid_seed=str(number), PatientID=f"ID{number}")
        dataset.save_as(tmp_path / "images" / f"{number}.dcm", enforce_file_format=True)
        rows.append({"path": f"images/{number}.dcm", "label": label})
        write_class(tmp_path / "images", [f"person{number}_virus_{number}.png"], bool(number % 2), first=number)
        rows.append({"path": f"images/person{number}_virus_{number}.png", "label": label.lower()})
    return rows


def test_a_csv_file_lists_dicom_objects_and_pictures(tmp_path: Path, listed: list[dict[str, Any]]) -> None:
    source = csv_source(table(tmp_path / "list.csv", listed))
    assert [sample.label for sample in source.samples] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert len({sample.patient for sample in source.samples}) == 8
    assert not any("ID" in sample.patient for sample in source.samples), "no Patient ID in the clear"
    dicom, picture = read_sample(source.samples[0]), read_sample(source.samples[1])
    assert dicom.shape == picture.shape == (1, 224, 224)
    assert np.abs(dicom - picture).mean() < 0.1, "the same drawing, seen in two forms"
    again = csv_source(table(tmp_path / "other.csv", listed[::-1]))
    assert again.digest == source.digest, "the order of rows is no content"


def test_a_csv_file_may_say_the_split_itself(tmp_path: Path, listed: list[dict[str, Any]]) -> None:
    rows = [
        row | {"patient": f"p{i // 2}", "split": "validation" if i >= 4 else "train"} for i, row in enumerate(listed)
    ]
    split = sources_of(csv_source(table(tmp_path / "list.csv", rows))).split(0.5, 1)
    assert {sample.patient for sample in split.validation} == {"p2", "p3"}
    assert {sample.patient for sample in split.train} == {"p0", "p1"}


@pytest.mark.parametrize("middle", ["train", "validation"])
def test_rows_of_the_test_are_not_learnt_from(tmp_path: Path, listed: list[dict[str, Any]], middle: str) -> None:
    sides = ["train", "train", "train", "train", middle, middle, "test", "test"]
    order = (0, 1, 2, 3, 4, 6, 5, 7)  # of each class one patient for the validation
    rows = [listed[i] | {"patient": f"p{i}", "split": side} for i, side in zip(order, sides, strict=True)]
    source = csv_source(table(tmp_path / "list.csv", rows))
    assert (source.name, len(source.samples)) == ("CSV file list.csv, without its test", 6)
    assert not {"p5", "p7"} & {sample.patient for sample in source.samples}
    split = sources_of(source).split(0.2, 1)
    assert len(split.train) + len(split.validation) == 6
    assert {sample.label for sample in split.validation} == {0, 1}, "set aside by patient where no row is"
    without = csv_source(table(tmp_path / "other.csv", rows[:6]))
    assert without.digest == source.digest
    judged = evaluation_set(tmp_path / "list.csv")
    assert {sample.patient for sample in judged.source.samples} == {"p5", "p7"}


def test_a_picture_on_two_sides_is_refused_whatever_it_is_called(tmp_path: Path, listed: list[dict[str, Any]]) -> None:
    copy = tmp_path / "images" / "copy.dcm"
    copy.write_bytes((tmp_path / listed[0]["path"]).read_bytes())
    rows = [row | {"patient": f"p{i}", "split": "train"} for i, row in enumerate(listed)]
    rows.append({"path": "images/copy.dcm", "label": "NORMAL", "patient": "p8", "split": "test"})
    with pytest.raises(InvalidData, match=r"0.dcm and copy.dcm are one picture in train and in test"):
        csv_source(table(tmp_path / "list.csv", rows))


def test_a_broken_object_in_a_list_is_found_by_its_reader(tmp_path: Path, listed: list[dict[str, Any]]) -> None:
    (tmp_path / listed[0]["path"]).write_bytes(b"\0" * 200)
    source = csv_source(table(tmp_path / "list.csv", listed))
    with pytest.raises(InvalidData, match=r"1 image\(s\) cannot be read: .*0.dcm: not a DICOM file"):
        readable(source, skip=False)
    assert len(readable(source, skip=True).samples) == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: {"label": "SICK"}}, r"row 3: label 'SICK' is neither NORMAL nor PNEUMONIA"),
        ({0: {"path": "images/none.dcm"}}, r"row 2: no such file: images/none.dcm"),
        ({2: {"path": ""}}, r"row 4: no such file: \(empty\)"),
        ({3: {"agent": "fungus"}}, r"row 5: agent 'fungus' is neither bacteria nor virus"),
        ({4: {"split": "later"}}, r"row 6: split 'later' is neither train nor validation nor test"),
        ({4: {"split": "train"}}, r"split: is empty in some rows"),
        ({2: {"path": "images/0.dcm", "label": "PNEUMONIA"}}, r"row 4: 0.dcm has another label there \(row 2\)"),
        ({4: {"path": "images/0.dcm"}}, r"row 6: 0.dcm stands there too \(row 2\)"),
        ({i: {"label": "NORMAL"} for i in range(8)}, r"holds no PNEUMONIA: both classes are needed"),
        ({i: {"label": "?"} for i in range(8)}, r"row 2: .*; row 3: .*; row 4: .*; and 5 more"),
        (
            {i: {"patient": "one", "split": "validation" if i > 5 else "train"} for i in range(8)},
            r"rows 2 and 8: one patient in train and in validation",
        ),
        (
            {i: {"patient": f"{i}" if i < 6 else "5", "split": "test" if i > 5 else "train"} for i in range(8)},
            r"rows 7 and 8: one patient in train and in test",
        ),
        (
            {i: {"split": "train" if i in (0, 1) else "test"} for i in range(8)},
            r"beside its test it holds no PNEUMONIA",
        ),
    ],
)
def test_a_faulty_csv_file_is_refused_by_row(
    tmp_path: Path, listed: list[dict[str, Any]], change: dict[int, dict[str, str]], message: str
) -> None:
    rows = [row | {"patient": "", "agent": "", "split": ""} | change.get(i, {}) for i, row in enumerate(listed)]
    with pytest.raises(InvalidData, match=message) as raised:
        csv_source(table(tmp_path / "list.csv", rows))
    assert str(raised.value).startswith(str(tmp_path / "list.csv"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("path\n", "has no column label"), ("path,label\n", "holds no rows"), (b"\xff\xfe\x00", "CSV")],
)
def test_what_is_no_list_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidData, match=message):
        csv_source(path)


def test_a_folder_is_judged_on_its_test_and_compared_with_its_train(tmp_path: Path) -> None:
    root = kaggle_folder(tmp_path / "data", patients=3)
    for path in (root, root / "test"):
        judged = evaluation_set(path)
        assert [sample.path.parent.parent.name for sample in judged.source.samples] == ["test", "test"]
        assert {sample.path.parent.parent.name for sample in judged.others} == {"train", "val"}
    own = evaluation_set(root / "val")
    assert (len(own.source.samples), own.others) == (2, ())
    assert evaluation_set(root).source.name == "folder data/test"
    with pytest.raises(InvalidData, match="no such folder"):
        evaluation_set(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("sides", "judged", "name"),
    [
        (["", "", "", ""], [0, 1, 2, 3], "CSV file list.csv"),
        (["train", "train", "test", "test"], [2, 3], "CSV file list.csv, split test"),
        (["train", "validation", "test", "test"], [2, 3], "CSV file list.csv, split test"),
        (["validation", "validation", "train", "train"], [0, 1], "CSV file list.csv, split validation"),
    ],
)
def test_a_csv_file_is_judged_on_the_rows_that_are_set_aside(
    tmp_path: Path, listed: list[dict[str, Any]], sides: list[str], judged: list[int], name: str
) -> None:
    rows = [row | {"patient": f"p{i // 2}", "split": sides[i // 2]} for i, row in enumerate(listed)]
    chosen = evaluation_set(table(tmp_path / "list.csv", rows))
    assert {sample.patient for sample in chosen.source.samples} == {f"p{number}" for number in judged}
    others = set(range(4)) - set(judged)
    assert {sample.patient for sample in chosen.others} == {f"p{number}" for number in others}
    assert chosen.source.name == name


def test_a_csv_file_that_cannot_judge_is_refused(tmp_path: Path, listed: list[dict[str, Any]]) -> None:
    rows = [row | {"patient": "one", "split": "test" if i > 5 else "train"} for i, row in enumerate(listed)]
    with pytest.raises(InvalidData, match="rows 2 and 8: one patient in train and in test"):
        evaluation_set(table(tmp_path / "list.csv", rows))
    with pytest.raises(InvalidData, match="holds no NORMAL"):
        evaluation_set(table(tmp_path / "list.csv", [row for row in listed if row["label"].upper() == "PNEUMONIA"]))


def test_an_error_says_what_an_image_is_called(tmp_path: Path) -> None:
    path = tmp_path / "digest.dcm"
    path.write_bytes(b"no DICOM")
    with pytest.raises(InvalidData, match=r"^SOP instance 1\.2: .*digest\.dcm"):
        read_sample(Sample(path, 0, "p", title="SOP instance 1.2"))


def test_parts_are_divided_each_by_itself(tmp_path: Path) -> None:
    base, extra = (folder_source(kaggle_folder(tmp_path / name, patients=n)) for name, n in (("a", 9), ("b", 5)))
    renamed = tuple(Sample(s.path, s.label, f"site-{s.patient}", s.agent) for s in extra.samples)
    alone = sources_of(base).split(0.2, 7)
    mixed = Sources((base, Source("site", renamed, extra.digest))).split(0.2, 7)
    assert set(alone.train) < set(mixed.train)
    assert set(alone.validation) < set(mixed.validation)
    assert not {s.patient for s in mixed.train} & {s.patient for s in mixed.validation}
    assert Sources((base, extra)).digest not in (base.digest, extra.digest)


def test_one_picture_of_two_parts_is_on_one_side_and_has_one_label(tmp_path: Path) -> None:
    base = folder_source(kaggle_folder(tmp_path / "a", patients=9))
    held = next(s for s in sources_of(base).split(0.2, 7).validation)
    for label, words in ((held.label, "in training and in validation"), (1 - held.label, "with two labels")):
        copy = Sample(tmp_path / "copy.png", label, "site-1", content=held.content)
        with pytest.raises(InvalidData, match=rf"copy.png and {held.path.name} are one picture {words}"):
            Sources((base, Source("one image", (copy,), "d"))).split(0.2, 7)
    one, other = (Sample(tmp_path / f"{name}.dcm", 0, name, uid="1.2", content=name) for name in "ab")
    with pytest.raises(InvalidData, match=r"[ab].dcm and [ab].dcm are one picture in training and in validation"):
        Sources((base, Source("two", (one, other, *base.samples[:0]), "d", frozenset({"b"})))).split(0.2, 7)


def test_a_small_part_is_for_training_as_a_whole_and_a_shared_patient_is_refused(tmp_path: Path) -> None:
    base = folder_source(kaggle_folder(tmp_path / "a", patients=9))
    held = next(s for s in sources_of(base).split(0.2, 7).validation)
    small = Source("one image", (Sample(held.path, 1, "site-1"),), "d")
    assert small.samples[0] in Sources((small, base)).split(0.2, 7).train
    leaking = Source("one image", (Sample(held.path, 1, held.patient),), "d")
    with pytest.raises(InvalidData, match=r"a patient is in training and in validation: IM-\S+ and IM-"):
        Sources((leaking, base)).split(0.2, 7)


def test_unreadable_images_are_found_before_training(tmp_path: Path) -> None:
    root = kaggle_folder(tmp_path / "data", patients=4)
    for name in ("IM-0100-0001.png", "IM-0101-0001.png"):
        (root / "train" / "NORMAL" / name).write_bytes(b"\x89PNG broken")
    source = folder_source(root)
    with pytest.raises(InvalidData, match=r"2 image\(s\) cannot be read: .*IM-0100-0001.png"):
        readable(source, skip=False)
    intact = readable(source, skip=True)
    assert len(intact.samples) == len(source.samples) - 2
    assert intact.name.endswith("without 2 unreadable image(s)")
    assert intact.digest != source.digest


def test_memory_is_bounded_by_the_budget(tmp_path: Path) -> None:
    write_class(tmp_path / "NORMAL", [f"{i}.png" for i in range(12)], opacity=False)
    write_class(tmp_path / "PNEUMONIA", [f"{i}.png" for i in range(12)], opacity=True)
    images = Images(folder_source(tmp_path).samples, budget=5 * 32 * 32, size=32)
    for index in range(24):
        assert images[index].shape == (32, 32)
    assert len(images._cache) == 5
