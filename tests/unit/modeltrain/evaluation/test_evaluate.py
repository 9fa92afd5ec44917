"""Figures of merit against values computed by hand, thresholds, and the pictures of an evaluation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from dicom_io.errors import InvalidData
from modeltrain.data.samples import Sample
from modeltrain.evaluation.evaluate import Answers, Confusion, evaluate, measure
from modeltrain.evaluation.figures import choose_cases, write_figures
from tests.unit.modeltrain.toys import predictor, write_class

if TYPE_CHECKING:
    from pathlib import Path

# Sorted by file name, NORMAL first: 3 of 4 NORMAL and 4 of 6 PNEUMONIA are called right at 0.5.
SCORES = [0.1, 0.2, 0.45, 0.8, 0.3, 0.4, 0.6, 0.7, 0.9, 0.95]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four NORMAL and six PNEUMONIA images."""
    write_class(tmp_path / "NORMAL", [f"IM-000{i}-0001.png" for i in range(4)], opacity=False)
    write_class(tmp_path / "PNEUMONIA", [f"person{i}_virus_1.png" for i in range(6)], opacity=True)
    return tmp_path


def made_up(normal: list[float], pneumonia: list[float]) -> Answers:
    """Answers without files."""
    from pathlib import Path

    samples = [Sample(Path(f"{i}.png"), int(i >= len(normal)), str(i)) for i in range(len(normal) + len(pneumonia))]
    return Answers(tuple(samples), np.array(normal + pneumonia, np.float32), np.zeros((len(samples), 7, 7), np.float32))


def test_metrics_are_those_computed_by_hand(folder: Path) -> None:
    steps: list[tuple[int, int]] = []
    result, answers = evaluate(
        predictor(SCORES), folder, threshold=0.5, model="toy-1", advance=lambda done, n: steps.append((done, n))
    )
    assert result.confusion == Confusion(true_negative=3, false_positive=1, false_negative=2, true_positive=4)
    assert (result.n, result.normal, result.pneumonia) == (10, 4, 6)
    # 24 pairs; those in which NORMAL scores higher: 0.45 over 0.3 and 0.4, 0.8 over 0.3, 0.4, 0.6 and 0.7.
    assert result.auc == pytest.approx(18 / 24)
    assert result.sensitivity == pytest.approx(4 / 6)
    assert result.specificity == pytest.approx(3 / 4)
    assert result.accuracy == pytest.approx(0.7)
    assert result.precision == pytest.approx(4 / 5)
    assert result.f1 == pytest.approx(8 / 11)
    assert steps == [(10, 10)]
    np.testing.assert_allclose(answers.probability, SCORES, atol=1e-6)
    plain = json.loads(json.dumps(result.to_dict()))
    assert {
        "n",
        "auc",
        "sensitivity",
        "specificity",
        "accuracy",
        "precision",
        "f1",
        "threshold",
        "model",
    } < plain.keys()
    assert plain["model"] == "toy-1"
    assert plain["confusion"]["false_negative"] == 2


def test_a_kaggle_folder_is_judged_on_its_test_part(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "kaggle"
    write_class(root / "test" / "NORMAL", ["a.png"], opacity=False)
    write_class(root / "test" / "PNEUMONIA", ["b.png"], opacity=True)
    result, _ = evaluate(predictor([0.2, 0.8]), root, threshold=0.5, model="toy-1")
    assert (result.n, result.auc) == (2, 1)


def test_nothing_called_positive_gives_numbers_all_the_same() -> None:
    result = measure(made_up([0.1, 0.2], [0.3, 0.4]), threshold=0.5, model="toy-1")
    assert (result.precision, result.f1, result.sensitivity, result.specificity) == (0, 0, 0, 1)


def test_one_class_only_is_refused() -> None:
    with pytest.raises(InvalidData, match="only NORMAL"):
        measure(made_up([0.1, 0.2], []), threshold=0.5, model="toy-1")
    with pytest.raises(InvalidData, match="only PNEUMONIA"):
        measure(made_up([], [0.2]), threshold=0.5, model="toy-1")


def test_unusable_folders_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    (folder / "NORMAL" / "IM-0003-0001.png").write_bytes(b"nonsense")
    with pytest.raises(InvalidData, match=r"IM-0003-0001\.png"):
        evaluate(predictor(SCORES), folder, threshold=0.5, model="toy-1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidData, match="empty"):
        evaluate(predictor([]), tmp_path / "empty", threshold=0.5, model="toy-1")


def test_cases_are_the_surest_of_each_kind_and_the_nearest_to_the_threshold() -> None:
    answers = made_up([0.1, 0.2, 0.45, 0.8], [0.3, 0.4, 0.6, 0.7, 0.9, 0.95])
    cases = {kind: indices.tolist() for kind, indices in choose_cases(answers, 0.5).items()}
    assert cases == {
        "true positive": [9, 8, 7],
        "true negative": [0, 1, 2],
        "false positive": [3],
        "false negative": [4, 5],
        "borderline": [2, 5, 6],
    }


def test_figures_are_drawn(folder: Path, tmp_path: Path) -> None:
    result, answers = evaluate(predictor(SCORES), folder, threshold=0.5, model="toy-1")
    paths = write_figures(answers, result, tmp_path / "out", {"screening": 0.5})
    assert {path.name for path in paths} > {"confusion_matrix.png", "roc.png", "metrics.png", "gradcam_grid.png"}
    for path in paths:
        picture = cv2.imread(str(path))
        assert picture is not None
        assert min(picture.shape[:2]) > 400
        assert picture.std() > 10
    grid = cv2.imread(str(paths[-1]))
    assert grid is not None
    colourful = np.ptp(grid.astype(int), axis=2) > 60
    assert 0.001 < colourful.mean() < 0.2  # overlays, and the radiographs beside them still grey
