"""Measures of maps on models that are drawn: one whose map is what it goes by, one whose map is always the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from dicom_io.errors import InvalidData
from modeltrain.data.samples import Sample
from modeltrain.evaluation.compare import MAP_MARGINS, compare_maps
from modeltrain.evaluation.faithfulness import MEASURES, Cases, cases_of, chosen, judge_maps
from modeltrain.evaluation.replaced_places import (
    area_of,
    box_of,
    nearness,
    normal_for,
    replaced,
    strongest,
    with_opacity,
)
from modeltrain.model.outputs import Outputs
from tests.unit.modeltrain.toys import draw

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modeltrain.evaluation.evaluate import Predict
    from modeltrain.evaluation.faithfulness import Faithfulness

EACH = 12
CELLS = 14


def drawn_lungs(side: int = 224) -> NDArray[np.uint8]:
    """The lungs of every drawn chest: 1 inside."""
    mask = np.zeros((side, side), np.uint8)
    for x in (0.3, 0.7):
        cv2.ellipse(mask, (int(x * side), side // 2), (side // 7, side // 3), 0, 0, 360, 1, -1)
    return mask


def model(*, blind: bool = False, lungs: bool = True, found: bool = True) -> Predict:
    """Return a forward pass that calls bright places in the lungs pneumonia.

    A blind one answers alike, but its map is the same spot above the lungs for every image.
    """
    mask = drawn_lungs(112).astype(np.float32)
    share = cv2.resize(mask, (CELLS, CELLS), interpolation=cv2.INTER_AREA)

    def predict(images: NDArray[np.float32]) -> Outputs:
        count = len(images)
        grey = images.reshape(count, CELLS, 16, CELLS, 16).mean(axis=(2, 4))
        evidence = np.where(share > 0.9, 30 * (grey - 0.35), -6).astype(np.float32)
        score = evidence[:, share > 0.9].max(axis=1)
        if blind:
            evidence = np.full_like(evidence, -6)
            evidence[:, :2, 6:8] = 3
        logits = np.stack([-score / 2, score / 2], axis=1).astype(np.float32)
        box = np.tile(np.array([0, 0, 1, 1], np.float32), (count, 1))
        nothing = np.full((count, 2), np.nan, np.float32)
        # A blind model's map is not cut to the lungs: its lungs are everything.
        own = np.ones_like(mask) if blind else mask * found
        seen = np.tile(own, (count, 1, 1)) if lungs else np.ones((count, 1, 1), np.float32)
        return Outputs(logits, evidence, box, seen, nothing, nothing[:, 0])

    return predict


def drawn(seed: int, *, opacity: bool) -> NDArray[np.float32]:
    """A drawn radiograph, float32 [224, 224] in [0, 1]."""
    return draw(seed, opacity=opacity, side=224).astype(np.float32) / np.float32(255)


def radiographs() -> tuple[list[NDArray[np.float32]], list[Sample]]:
    labels = [0] * EACH + [1] * EACH
    images = [drawn(seed, opacity=bool(label))[np.newaxis] for seed, label in enumerate(labels)]
    return images, [Sample(Path(f"{seed}.png"), label, str(seed)) for seed, label in enumerate(labels)]


@pytest.fixture(scope="module")
def cases() -> Cases:
    return cases_of(*radiographs(), [model()])


@pytest.fixture(scope="module")
def faithful(cases: Cases) -> Faithfulness:
    return judge_maps(model(), cases, threshold=0.5)


@pytest.fixture(scope="module")
def blind(cases: Cases) -> Faithfulness:
    return judge_maps(model(blind=True), cases, threshold=0.5)


def values(judged: Faithfulness) -> dict[str, float]:
    return {name: each["value"] for name, each in judged.to_dict()["measures"].items()}


def test_a_map_that_the_answer_goes_by_is_found_faithful(faithful: Faithfulness) -> None:
    told = values(faithful)
    assert told["peak_inside"] == 1
    assert told["heat_inside"] > 0.9
    assert told["peak_in_middle"] == 0
    assert told["drop_hottest"] > 1.5 * max(told["drop_random"], told["drop_central"])
    assert told["contrast"] == pytest.approx(told["drop_hottest"] - told["drop_random"], abs=2e-3)
    assert told["opacity_raises"] == 1
    assert told["opacity_found"] == told["opacity_side"] == 1
    assert told["deletion"] < told["deletion_random"] - 0.1
    assert told["insertion"] > told["insertion_random"] + 0.1


def test_the_same_spot_for_every_image_is_not(blind: Faithfulness) -> None:
    told = values(blind)
    assert told["peak_inside"] == 0
    assert told["peak_in_middle"] == 1
    assert told["correlation"] == pytest.approx(1, abs=1e-3)
    assert told["contrast"] < 0.5
    assert told["opacity_raises"] == 1, "its answers are those of the other"
    assert told["opacity_found"] == 0


def test_two_runs_say_the_same_and_it_is_json(faithful: Faithfulness, cases: Cases) -> None:
    again = judge_maps(model(), cases, threshold=0.5)
    assert again.to_dict() == faithful.to_dict()
    told = json.loads(json.dumps(faithful.to_dict(), allow_nan=False))
    assert list(told["measures"]) == list(MEASURES)
    for each in told["measures"].values():
        assert each["ci"][0] <= each["value"] <= each["ci"][1]
    assert (told["normal"], told["pneumonia"], told["without_lungs"]) == (EACH, EACH, 0)


def test_forward_passes_are_those_that_are_stated() -> None:
    passes = [0]

    def counted(images: NDArray[np.float32]) -> Outputs:
        passes[0] += len(images)
        return model()(images)

    steps: list[tuple[int, int]] = []
    judged = cases_of(*radiographs(), [counted])
    judge_maps(counted, judged, threshold=0.5, advance=lambda done, of: steps.append((done, of)))
    assert passes[0] == EACH * (24 + 3)
    assert steps == [(done, 2 * EACH) for done in range(1, 2 * EACH + 1)]


def test_an_empty_map_tells_of_no_place_and_orders_them_at_random(cases: Cases) -> None:
    def nowhere(images: NDArray[np.float32]) -> Outputs:
        outputs = model()(images)
        return outputs._replace(evidence=np.full_like(outputs.evidence, -1))

    told = judge_maps(nowhere, cases, threshold=0.5).to_dict()["measures"]
    assert told["peak_inside"] == told["correlation"] == {"value": None, "ci": None, "n": 0}
    assert told["contrast"]["value"] == 0
    assert told["deletion"] == told["deletion_random"]
    assert told["opacity_found"]["value"] == told["opacity_side"]["value"] == 0


def test_without_lungs_the_whole_image_stands_in_their_place() -> None:
    images, samples = radiographs()
    whole = cases_of(images, samples, [model(lungs=False)])
    assert not whole.has_lungs
    assert all(case.lungs.all() for case in whole.pneumonia)
    told = judge_maps(model(lungs=False), whole, threshold=0.5)
    assert told.lungs is None
    assert told.to_dict()["measures"]["peak_inside"]["value"] is None
    assert told.to_dict()["measures"]["contrast"]["value"] > 0
    both = cases_of(images, samples, [model(lungs=False), model()])
    assert both.has_lungs, "of two models the one that finds lungs gives them to both"


def test_images_without_lungs_are_left_out_and_none_at_all_is_an_error() -> None:
    images, samples = radiographs()
    with pytest.raises(InvalidData, match="no image in which lungs were found"):
        cases_of(images, samples, [model(found=False)])

    def sometimes(batch: NDArray[np.float32]) -> Outputs:
        outputs = model()(batch)
        return outputs._replace(lungs=outputs.lungs * (batch.max(axis=(2, 3)) > 0)[..., np.newaxis])

    images[0] = np.zeros_like(images[0])
    assert cases_of(images, samples, [sometimes]).left_out == 1


def test_a_model_with_worse_maps_is_refused_and_the_better_one_is_not(
    faithful: Faithfulness, blind: Faithfulness
) -> None:
    worse = compare_maps(faithful, blind).worse()
    assert len(worse) == 3, "its answers are no worse, so that opacities raise its score as well"
    assert "peak inside the lungs 0.000 against 1.000 (difference -1.000" in worse[-1]
    assert "margin 0.05" in worse[-1]
    assert compare_maps(blind, faithful).worse() == []
    same = compare_maps(faithful, faithful)
    assert same.worse() == []
    assert set(same.measures) == set(MAP_MARGINS)
    assert {each.high for each in same.measures.values()} == {0}


def test_few_of_each_class_are_drawn_and_always_the_same() -> None:
    samples = [Sample(Path(f"{i}.png"), int(i % 3 == 0), str(i)) for i in range(90)]
    some = chosen(samples, most=10)
    assert some == chosen(samples, most=10) == tuple(sorted(set(some)))
    assert [samples[index].label for index in some].count(1) == 10
    assert len(some) == 20
    assert len(chosen(samples, most=40)) == 40 + 30
    assert chosen(samples, most=10, seed=1) != some


def test_a_normal_radiograph_is_laid_onto_the_lungs_with_their_grey_values() -> None:
    lungs = drawn_lungs() > 0
    image = drawn(1, opacity=True)
    donor = (draw(2, opacity=False, side=224) / np.float32(255) * np.float32(0.5) + np.float32(0.1)).astype(np.float32)
    moved = np.roll(donor, 20, axis=1)
    normal = normal_for(image, lungs, moved, np.roll(lungs, 20, axis=1))
    assert normal[lungs].mean() == pytest.approx(draw(3, opacity=False, side=224)[lungs].mean() / 255, abs=0.03)
    assert box_of(np.roll(lungs, 20, axis=1))[0] == box_of(lungs)[0] + 20


def test_a_part_of_an_area_is_replaced_where_the_strength_is_highest() -> None:
    lungs = drawn_lungs() > 0
    area = area_of(lungs)
    assert (area & lungs).sum() == lungs.sum() < area.sum()
    spot = nearness((224, 224), (67.0, 112.0))
    (third,) = strongest(spot, area, [1 / 3])
    assert third.sum() == pytest.approx(area.sum() / 3, rel=0.02)
    assert third[112, 67] == pytest.approx(1)
    assert third[112, 157] == 0
    (other,) = replaced(np.zeros((224, 224), np.float32), np.ones((224, 224), np.float32), [third])
    np.testing.assert_array_equal(other, third)


def test_an_opacity_is_brightest_at_its_place_and_stays_an_image() -> None:
    image = drawn(1, opacity=False)
    marked = with_opacity(image, (67.0, 112.0), np.random.default_rng(0))
    change = marked - image
    assert change.dtype == np.float32
    assert change.min() >= 0
    assert marked.max() <= 1
    assert change[100:125, 55:80].mean() > 0.15
    assert change[:, 112:].max() < 1e-3
