"""Folders of labelled radiographs: whose they are, how they are divided, what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dicom_io.errors import InvalidData
from modeltrain.data.samples import (
    Images,
    Sample,
    data_digest,
    evaluation_samples,
    patient_of,
    scan,
    split_by_patient,
    training_samples,
)
from tests.support.shared import shared
from tests.unit.modeltrain.toys import kaggle_folder, write_class


@pytest.mark.parametrize(
    ("stem", "patient"),
    [
        ("person123_bacteria_4", "person123"),
        ("person123_virus_7_2", "person123"),
        ("IM-0115-0001", "IM-0115"),
        ("IM-0115-0001-0002", "IM-0115"),
        ("NORMAL2-IM-0381-0001", "NORMAL2-IM-0381"),
        ("NORMAL2-IM-0381-0001-0003", "NORMAL2-IM-0381"),
        ("someone", "someone"),
        ("personal_note_1", "personal_note_1"),
    ],
)
def test_the_patient_stands_in_the_file_name(stem: str, patient: str) -> None:
    assert patient_of(stem) == patient


def made_up(patients: int) -> list[Sample]:
    """Samples of both classes without files: patient i has i % 4 + 1 images; every third is NORMAL."""

    return [
        Sample(Path(f"{patient}-{take}.png"), int(patient % 3 > 0), f"p{patient}")
        for patient in range(patients)
        for take in range(patient % 4 + 1)
    ]


def test_no_patient_is_on_both_sides_and_each_class_keeps_its_share() -> None:
    samples = made_up(300)
    split = split_by_patient(samples, 0.11, seed=1)
    assert {s.patient for s in split.train}.isdisjoint(s.patient for s in split.validation)
    assert sorted(split.train + split.validation, key=str) == sorted(samples, key=str)
    for label in (0, 1):
        held = sum(s.label == label for s in split.validation)
        assert held / sum(s.label == label for s in samples) == pytest.approx(0.11, abs=0.02)


def test_the_split_follows_from_the_seed_and_the_patients_not_from_the_order() -> None:
    samples = made_up(60)
    split = split_by_patient(samples, 0.2, seed=1)
    shuffled = split_by_patient(samples[::-1], 0.2, seed=1)
    assert set(split.validation) == set(shuffled.validation)
    assert set(split.validation) != set(split_by_patient(samples, 0.2, seed=2).validation)


def test_a_single_patient_cannot_be_divided() -> None:
    with pytest.raises(InvalidData, match="NORMAL: 1 patient"):
        split_by_patient(made_up(3), 0.2, seed=1)


def test_val_joins_train_and_test_is_left_alone(tmp_path: Path) -> None:
    root = kaggle_folder(tmp_path, patients=3)
    names = {sample.path.relative_to(root).parts[0] for sample in training_samples(root)}
    assert names == {"train", "val"}
    assert {sample.path.relative_to(root).parts[0] for sample in evaluation_samples(root)} == {"test"}
    assert scan(root / "test") == training_samples(root / "test") == evaluation_samples(root / "test")


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="nowhere: no such folder"):
        scan(tmp_path / "nowhere")
    with pytest.raises(InvalidData, match="has no folder NORMAL"):
        scan(tmp_path)
    write_class(tmp_path / "NORMAL", ["a.png"], opacity=False)
    with pytest.raises(InvalidData, match="has no folder PNEUMONIA"):
        scan(tmp_path)
    (tmp_path / "PNEUMONIA").mkdir()
    (tmp_path / "PNEUMONIA" / "notes.txt").write_text("nothing to see")
    with pytest.raises(InvalidData, match=r"PNEUMONIA: holds no JPEG or PNG"):
        scan(tmp_path)


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"nonsense")
    with pytest.raises(InvalidData, match=r"broken\.png"):
        Images([Sample(tmp_path / "broken.png", 0, "x")], 10**6)[0]


def test_images_are_kept_up_to_the_budget(tmp_path: Path) -> None:
    write_class(tmp_path, ["a.png", "b.png"], opacity=False)
    samples = [Sample(tmp_path / name, 0, name) for name in ("a.png", "b.png")]
    images = Images(samples, budget=32 * 32, size=32)
    first, second = images[0], images[1]
    assert first.shape == (32, 32)
    assert first.dtype == np.uint8
    assert images[0] is first
    assert images[1] is not second
    np.testing.assert_array_equal(images[1], second)


def test_the_digest_tells_names_and_contents_apart(tmp_path: Path) -> None:
    root = kaggle_folder(tmp_path / "one", patients=2)
    samples = training_samples(root)
    digest = data_digest(samples, root)
    assert data_digest(samples[::-1], root) == digest
    assert data_digest(training_samples(kaggle_folder(tmp_path / "two", patients=2)), tmp_path / "two") == digest
    assert data_digest(samples[1:], root) != digest
    samples[0].path.write_bytes(samples[1].path.read_bytes())
    assert data_digest(samples, root) != digest


def test_the_real_set_is_divided_by_patient() -> None:
    samples = training_samples(shared("data", "kermany224"))
    split = split_by_patient(samples, 0.11, seed=42)
    assert len(samples) == 5232
    assert not {s.patient for s in split.train} & {s.patient for s in split.validation}
    assert 0.10 < len(split.validation) / len(samples) < 0.12


def test_patients_who_share_a_picture_are_on_one_side() -> None:
    def sample(number: int, patient: str, content: str = "", uid: str = "") -> Sample:
        return Sample(Path(f"{number}.png"), number % 2, patient, content=content, uid=uid)

    plain = [sample(number, f"p{number:02d}") for number in range(40)]
    shared = [sample(40, "p03", content="a"), sample(42, "p05", content="a", uid="1.2"), sample(44, "p09", uid="1.2")]
    for seed in range(20):
        split = split_by_patient([*plain, *shared], 0.3, seed)
        sides = [{each.patient for each in side} for side in (split.train, split.validation)]
        assert not sides[0] & sides[1]
        assert any({"p03", "p05", "p09"} <= side for side in sides)
    hashed = [dataclasses.replace(each, content=each.path.stem) for each in plain]
    one, other = split_by_patient(plain, 0.3, 1), split_by_patient(hashed, 0.3, 1)
    assert [each.path for each in one.train] == [each.path for each in other.train], "the split of before"
