"""Statistics of an evaluation, against scikit-learn, against counting by hand, and against what must hold."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dicom_io.errors import InvalidData, OutOfResources
from dicom_io.finding import Lungs
from modeltrain.data.duplicates import COMPARED, Duplicates, near_duplicates, perceptual_hash
from modeltrain.data.samples import Sample, read_sample, scan
from modeltrain.evaluation import statistics
from modeltrain.evaluation.evaluate import Answers, answers_of, measure
from modeltrain.evaluation.faithfulness import cases_of, judge_maps
from modeltrain.evaluation.figures import write_figures
from modeltrain.evaluation.report import Report, write_report
from modeltrain.evaluation.statistics import (
    Resamples,
    border_share,
    calibration_curve,
    calibration_error,
    interval,
    predictive_values,
    specificity_at_missed,
)
from modeltrain.evaluation.subgroups import details, lung_groups, worst_errors
from modeltrain.model.card import load_card, shipped_model
from modeltrain.model.decision import Decider
from modeltrain.model.outputs import AGENTS
from tests.unit.modeltrain.toys import draw, predictor, steady, write_class

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def scores(n: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    return labels, np.clip(rng.normal(0.35 + 0.3 * labels, 0.2), 0, 1).astype(np.float32)


def test_the_calibration_error_is_the_weighted_gap() -> None:
    probability = np.array([0.1, 0.1, 0.9, 0.9, 1.0], np.float32)
    labels = np.array([0, 1, 1, 1, 0])
    curve = calibration_curve(probability, labels, bins=10)
    assert [(round(a, 3), b, n) for a, b, n in curve] == [(0.1, 0.5, 2), (0.933, pytest.approx(2 / 3), 3)]
    assert calibration_error(probability, labels, bins=10) == pytest.approx((2 * 0.4 + 3 * (2.8 / 3 - 2 / 3)) / 5)


@pytest.mark.parametrize(
    ("positives", "missed", "expected"),
    [([0.2, 0.4, 0.6, 0.8], 2, 0.75), ([0.2, 0.2, 0.2, 0.8], 2, 0.25), ([0.9], 2, 1.0), ([0.3, 0.7], 0, 0.5)],
)
def test_the_specificity_where_two_are_missed(positives: list[float], missed: int, expected: float) -> None:
    negatives = [0.1, 0.25, 0.55, 0.65]
    probability = np.array([*negatives, *positives], np.float32)
    labels = np.repeat([0, 1], [4, len(positives)])
    assert specificity_at_missed(probability, labels, missed) == expected


def test_predictive_values_are_bayes() -> None:
    ppv, npv = predictive_values(0.9, 0.8, 0.1)
    assert ppv == pytest.approx(90 / (90 + 180))
    assert npv == pytest.approx(720 / 730)
    assert all(np.isnan(value) for value in (predictive_values(0, 1, 0.1)[0], predictive_values(1, 0, 0.1)[1]))


def test_the_border_holds_a_third_of_a_uniform_map_and_none_of_a_central_one() -> None:
    assert border_share(np.ones((2, 7, 7), np.float32)) == pytest.approx(1 - (180 / 224) ** 2, abs=1e-4)
    central, corner = np.zeros((2, 1, 7, 7), np.float32)
    central[0, 3, 3] = corner[0, 0, 0] = 1
    assert border_share(central) == pytest.approx(0, abs=1e-3)
    assert border_share(corner) > 0.8
    assert np.isnan(border_share(np.zeros((1, 7, 7), np.float32)))


def test_each_resample_has_the_figures_of_its_images() -> None:
    labels, probability = scores(60)
    probability = np.round(probability, 1)  # ties
    patients = [f"p{index // 2}" for index in range(60)]
    drawn = Resamples.draw(patients, labels, probability, resamples=20)
    rates = drawn.rates(0.5)
    for number, auc in enumerate(drawn.auc()):
        weights = drawn.counts[number, drawn.place]
        assert auc == pytest.approx(roc_auc_score(labels, probability, sample_weight=weights))
        repeated = np.repeat(np.arange(60), weights.astype(int))
        called, truth = probability[repeated] >= 0.5, labels[repeated] == 1
        assert rates["sensitivity"][number] == pytest.approx(called[truth].mean())
        assert rates["specificity"][number] == pytest.approx((~called[~truth]).mean())
        assert rates["accuracy"][number] == pytest.approx((called == truth).mean())
        assert (weights[::2] == weights[1::2]).all(), "a patient's images come together"


def test_intervals_by_patient_are_wider_where_a_patient_s_images_say_the_same() -> None:
    labels, probability = scores(80, seed=3)
    labels, probability = np.repeat(labels, 4), np.repeat(probability, 4)
    by_patient = interval(Resamples.draw([f"{i // 4}" for i in range(320)], labels, probability).auc())
    by_image = interval(Resamples.draw([f"{i}" for i in range(320)], labels, probability).auc())
    assert by_patient[1] - by_patient[0] > 1.5 * (by_image[1] - by_image[0])
    assert by_patient[0] < roc_auc_score(labels, probability) < by_patient[1]


def test_curves_of_resamples_rise_from_nothing_to_everything() -> None:
    labels, probability = scores(200)
    drawn = Resamples.draw([str(i) for i in range(200)], labels, probability, resamples=30)
    grid = np.linspace(0, 1, 51)
    roc, precision = drawn.roc(grid), drawn.precision(grid)
    assert (np.diff(roc, axis=1) >= 0).all()
    assert roc[:, -1] == pytest.approx(1)
    assert ((precision >= 0) & (precision <= 1)).all()
    assert precision[:, -1].mean() < precision[:, 10].mean()


def test_sets_that_are_drawn_and_counted_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, probability = scores(60)
    patients, grid = [f"p{index // 2}" for index in range(60)], np.linspace(0, 1, 11)

    def curves() -> list[NDArray[np.float64]]:
        drawn = Resamples.draw(patients, labels, probability, resamples=20)
        return [drawn.auc(), *drawn.rates(0.5).values(), drawn.roc(grid), drawn.precision(grid)]

    whole = curves()
    monkeypatch.setattr(statistics, "_AT_ONCE", 130)  # two sets at a time
    for part, expected in zip(curves(), whole, strict=True):
        np.testing.assert_array_equal(part, expected)


def test_memory_does_not_grow_with_sets_times_images() -> None:
    labels, probability = scores(40_000)
    tracemalloc.start()
    drawn = Resamples.draw([str(i) for i in range(40_000)], labels, probability, resamples=200)
    drawn.auc()
    drawn.rates(0.5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 90_000_000  # one array of all sets alone would be 64 MB, and several are needed


def test_copies_are_found_and_others_are_not(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_class(tmp_path / name / "NORMAL", [f"{name}{i}.png" for i in range(6)], opacity=False)
        write_class(tmp_path / name / "PNEUMONIA", [f"{name}{i}.png" for i in range(2)], opacity=True)
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.uniform(0, 255, (160, 160)), (0, 0), 9)
    texture = cv2.normalize(texture, np.empty_like(texture), 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    assert cv2.imwrite(str(tmp_path / "a" / "NORMAL" / "original.png"), texture)
    again = np.clip(texture * 0.9 + 12, 0, 255).astype(np.uint8)
    assert cv2.imwrite(str(tmp_path / "b" / "NORMAL" / "copy.jpg"), again, [cv2.IMWRITE_JPEG_QUALITY, 70])
    other = np.flipud(texture).copy()
    assert cv2.imwrite(str(tmp_path / "b" / "NORMAL" / "other.png"), other)
    (tmp_path / "b" / "NORMAL" / "broken.png").write_bytes(b"\x89PNG broken")
    duplicates = near_duplicates(scan(tmp_path / "a"), scan(tmp_path / "b"))
    pairs = duplicates.pairs
    assert [sample.path.name for sample in duplicates.unread] == ["broken.png"], "it is not in the way of the others"
    names = {(pair.first.path.stem, pair.second.path.stem) for pair in pairs}
    assert ("original", "copy") in names
    assert ("original", "other") not in names
    assert [pair.distance for pair in pairs] == sorted(pair.distance for pair in pairs)


def test_the_hash_does_not_see_brightness() -> None:
    grey = draw(1, opacity=True).astype(np.float32) / np.float32(255)
    assert (perceptual_hash(grey) ^ perceptual_hash(grey * np.float32(0.8) + np.float32(0.1))).bit_count() <= 2
    assert 0 <= perceptual_hash(grey) < 2**64


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    write_class(tmp_path / "NORMAL", [f"IM-{i:04d}-0001.png" for i in range(6)], opacity=False)
    kinds = [f"person{i}_{AGENTS[i % 2]}_{i}.png" for i in range(6)]
    write_class(tmp_path / "PNEUMONIA", kinds, opacity=True)
    probabilities = [0.001, 0.002, 0.004, 0.2, 0.005, 0.6, 0.9, 0.8, 0.7, 0.01, 0.99, 0.95]
    card = load_card(shipped_model())
    card.raw["calibration"] = {"slope": 1.0, "intercept": 0.0}  # what is said is what counts
    return answers_of(predictor(probabilities), scan(tmp_path), decider=Decider(card))


def test_details_are_plain_json_and_say_what_the_model_cannot(answers: Answers) -> None:
    evaluation = measure(answers, threshold=0.5, model="toy-1")
    figures = json.loads(json.dumps(details(answers, evaluation, {"screening": 0.5})))
    assert figures["auc_ci"][0] <= evaluation.auc <= figures["auc_ci"][1]
    assert (figures["subgroups"]["bacteria"]["n"], figures["subgroups"]["virus"]["n"]) == (3, 3)
    assert figures["subgroups"]["virus"]["sensitivity"] == pytest.approx(2 / 3, abs=1e-4)
    assert set(figures["operating_points"]) == {"screening", "at most 2 missed"}
    assert figures["border_share"] == {"NORMAL": pytest.approx(0, abs=1e-3), "PNEUMONIA": pytest.approx(0, abs=1e-3)}
    assert [answers.samples[index].path.stem for index in worst_errors(answers, 0.5)] == [
        "person3_virus_3",
        "IM-0005-0001",
    ]
    sure = dataclasses.replace(
        answers, probability=np.where(answers.probability == np.float32(0.6), 0.999, answers.probability)
    )
    first, *_ = worst_errors(sure, 0.2)
    assert sure.samples[first].path.stem == "IM-0005-0001", "0.999 is farther than 0.01 from 0.2"


def test_images_are_grouped_by_the_lungs_that_were_found(answers: Answers) -> None:
    assert lung_groups(answers, 0.5) == {}  # this model does not look for them
    two, one, cut = Lungs(0.3, 2), Lungs(0.1, 1), Lungs(0.2, 2, cut=True)
    lungs = [two] * 8 + [one] * 3 + [cut]
    judgements = tuple(
        dataclasses.replace(each, lungs=own) for each, own in zip(answers.judgements, lungs, strict=True)
    )
    groups = lung_groups(dataclasses.replace(answers, judgements=judgements), 0.5)
    assert {name: group["n"] for name, group in groups["lungs found"].items()} == {
        "two": 8,
        "one": 3,
        "one cut off at the edge": 1,
    }
    assert {name: group["n"] for name, group in groups["part of the image"].items()} == {
        "0–15 %": 3,
        "15–25 %": 1,
        "25–35 %": 8,
    }
    assert (groups["lungs found"]["two"]["normal"], groups["lungs found"]["two"]["specificity"]) == (6, 0.8333)


def test_where_all_are_right_the_interval_is_exact() -> None:
    labels, scores = np.repeat([0, 1], 40), np.repeat([0.1, 0.9], 40).astype(np.float32)
    resamples = Resamples.draw([f"p{i // 2}" for i in range(80)], labels, scores)
    right, wrong = resamples.rate_intervals(0.5), resamples.rate_intervals(0.95)
    # Of 20 patients all are right: 0.025^(1/20) is the least rate under which that happens once in forty times.
    assert right["sensitivity"] == right["specificity"] == [pytest.approx(0.8316, abs=1e-4), 1.0]
    assert right["accuracy"] == [pytest.approx(0.025 ** (1 / 40), abs=1e-4), 1.0]
    assert wrong["sensitivity"] == [0.0, pytest.approx(1 - 0.8316, abs=1e-4)]
    assert wrong["accuracy"] == [0.5, 0.5]


def test_the_thresholds_are_a_grid_with_the_operating_points_between(answers: Answers) -> None:
    evaluation = measure(answers, threshold=0.5, model="toy-1")
    figures = json.loads(
        json.dumps(details(answers, evaluation, {"screening": 0.5, "balanced": 0.62}), allow_nan=False)
    )
    rows = figures["thresholds"]
    thresholds = [row["threshold"] for row in rows]
    assert thresholds == sorted(thresholds)
    assert {round(0.05 * step, 2) for step in range(1, 20)} < set(thresholds)
    points = {name: row["threshold"] for row in rows for name in row["points"]}
    assert points == {"screening": 0.5, "balanced": 0.62, "at most 2 missed": pytest.approx(0.8)}
    (half,) = [row for row in rows if row["threshold"] == 0.5]
    assert (half["missed"], half["false_alarms"]) == (1, 1)
    assert [value["prevalence"] for value in half["predictive_values"]] == [0.05, 0.2, 0.5]
    ppv, npv = predictive_values(half["sensitivity"], half["specificity"], 0.2)
    assert half["predictive_values"][1] == {"prevalence": 0.2, "ppv": ppv, "npv": npv}


def test_a_predictive_value_of_nothing_is_none(answers: Answers) -> None:
    (row,) = statistics.threshold_table(answers.probability, answers.labels, [1.5], [0.2])
    assert row["predictive_values"] == [{"prevalence": 0.2, "ppv": None, "npv": pytest.approx(0.8)}]


def test_pairs_are_told_by_their_paths(answers: Answers) -> None:
    one = answers.samples[0]
    plain = Duplicates(near_duplicates([one], [one]).pairs, (one, one, one)).to_dict()
    assert plain == {
        "compared": COMPARED,
        "n": 1,
        "unread": 3,
        "pairs": [{"first": str(one.path), "second": str(one.path), "distance": 0}],
    }


def test_the_report_stands_alone_and_escapes_names(answers: Answers, tmp_path: Path) -> None:
    evaluation = measure(answers, threshold=0.5, model="toy <script>")
    out = tmp_path / "out"
    figures = write_figures(answers, evaluation, out, {"screening": 0.5, "balanced": 0.7})
    card = load_card(shipped_model())
    samples = answers.samples
    cases = cases_of([read_sample(sample) for sample in samples], samples, [steady])
    maps = judge_maps(steady, cases, threshold=0.5)
    further = details(answers, evaluation, {"screening": 0.5}) | {"heatmaps": maps.to_dict()}
    pairs = near_duplicates(answers.samples[:1], answers.samples[:1]).pairs
    duplicates = Duplicates(pairs, answers.samples[:2])
    page = write_report(Report(evaluation, further, figures, card, "e", duplicates=duplicates), out)
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "toy &lt;script&gt;" in text
    assert text.count("data:image/png;base64,") == len(figures) == 9
    assert not any(outside in text for outside in ('src="http', "href=", "url(http"))
    assert "<td>peak in the middle one of seven columns</td><td>1.0000</td>" in text
    further["heatmaps"] = None
    without = write_report(Report(evaluation, further, figures, card, "e"), out).read_text(encoding="utf-8")
    assert "The heatmaps could not be judged" in without
    assert "<td>pairs that look alike</td><td>1</td>" in text
    assert "<td>images that cannot be read, not compared</td><td>2</td>" in text


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(answers: Answers, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutOfResources, match="file: cannot be written"):
        write_figures(answers, measure(answers, threshold=0.5, model="toy-1"), tmp_path / "file", {})


def test_one_class_only_is_an_error() -> None:
    sample = Sample(__file__, 1, "p")  # type: ignore[arg-type]  # never read
    with pytest.raises(InvalidData, match="both classes"):
        measure(
            Answers((sample,), np.array([0.5], np.float32), np.zeros((1, 7, 7), np.float32)), threshold=0.5, model="m"
        )
