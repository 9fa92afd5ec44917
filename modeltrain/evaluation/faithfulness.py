"""Are a model's maps faithful, so that what they mark moves the answer, and about this image?

No masks that people drew are needed: the lungs are those that a model finds. Where it looks for none, the whole image
stands in their place. All is seeded, so that two runs say the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from scipy.special import expit

from dicom_io.errors import InvalidData
from modeltrain.evaluation.replaced_places import (
    area_of,
    box_of,
    inner_place,
    nearness,
    normal_for,
    random_place,
    replaced,
    strongest,
    with_opacity,
)
from modeltrain.evaluation.statistics import Resamples, interval
from modeltrain.model.evidence import evidence_map
from modeltrain.model.lung_areas import LEAST_LUNG, lung_mask
from modeltrain.model.outputs import CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from modeltrain.data.samples import Sample
    from modeltrain.evaluation.evaluate import Predict
    from modeltrain.model.decision import Decider
    from modeltrain.model.outputs import Outputs

MOST = 100
"""Images of each class. One of PNEUMONIA takes 24 forward passes, one of NORMAL three: 2,700 at most."""
MEASURES = {
    "peak_inside": "peak inside the lungs",
    "heat_inside": "heat inside the lungs",
    "peak_in_middle": "peak in the middle one of seven columns",
    "correlation": "correlation between maps of different patients",
    "drop_hottest": "drop of log-odds, hottest third made normal",
    "drop_random": "drop of log-odds, random third made normal",
    "drop_central": "drop of log-odds, central third made normal",
    "contrast": "drop of log-odds, hottest less random third",
    "opacity_raises": "drawn opacity raises the score",
    "opacity_found": "map peaks at the drawn opacity",
    "opacity_side": "map lies on the drawn opacity's side",
    "deletion": "area under deletion, by the map",
    "deletion_random": "area under deletion, in random order",
    "insertion": "area under insertion, by the map",
    "insertion_random": "area under insertion, in random order",
}
"""What is measured, in words."""
_STEPS = 6  # of the curves: parts of the lungs that are replaced one after the other; two are a third
_COLUMNS = 7  # of which the fourth lies over the spine
_REACH = 48 / 224  # part of the side within which a map meets an opacity: one and a half cells of 7×7
_MAP = 56  # side of maps that are compared with each other
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Case:
    """A radiograph, float32 [S, S] in [0, 1], its lungs, bool [S, S], and whose it is."""

    image: NDArray[np.float32]
    lungs: NDArray[np.bool_]
    patient: str


@dataclass(frozen=True, slots=True)
class Cases:
    """The radiographs that maps are judged by.

    Attributes
    ----------
    pneumonia, normal
        By their true class.
    has_lungs
        Whether the lungs were found by a model; else they are the whole images.
    left_out
        Images in which no lungs were found.
    """

    pneumonia: tuple[Case, ...]
    normal: tuple[Case, ...]
    has_lungs: bool
    left_out: int

    def __len__(self) -> int:
        return len(self.pneumonia) + len(self.normal)


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """What maps are worth, image by image.

    Attributes
    ----------
    cases
        The radiographs.
    values
        By the names of `MEASURES`, but for `correlation`: float64 of each PNEUMONIA image, or of each NORMAL one where
        a name begins with `opacity_`. NaN where an image does not tell: an empty map has no peak, and only an opacity
        that makes the answer PNEUMONIA has to be found.
    maps
        float32 [P, 56·56], of the PNEUMONIA images.
    """

    cases: Cases
    values: Mapping[str, NDArray[np.float64]]
    maps: NDArray[np.float32]

    @property
    def lungs(self) -> dict[str, NDArray[np.float32]] | None:
        """How often each place is lung, float32 [S, S] in [0, 1] by class; None where lungs were not looked for."""
        if not self.cases.has_lungs:
            return None
        each = zip(CLASSES, (self.cases.normal, self.cases.pneumonia), strict=True)
        return {name: np.mean([case.lungs for case in own], axis=0, dtype=np.float32) for name, own in each}

    def patients(self, name: str) -> list[str]:
        """Return whose images the values of a measure belong to."""
        return [case.patient for case in self._of(name)]

    def _of(self, name: str) -> tuple[Case, ...]:
        return self.cases.normal if name.startswith("opacity_") else self.cases.pneumonia

    def resampled(self, name: str) -> NDArray[np.float64]:
        """Return a measure once for all images, then for each of 1,000 sets of patients drawn anew: float64 [1001]."""
        patients = self.patients(name)
        ones = np.ones(len(patients), np.int64)
        sets = np.concatenate(
            [np.ones((1, len(patients))), *Resamples.draw(patients, ones, ones.astype(np.float32)).weights()]
        )
        if name == "correlation":
            return _mean_correlation(self.maps, np.array(patients), sets)
        return _means(self.values[name], sets)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: of each measure its value and 95 % interval, None where unknown, and images."""
        measures = {}
        for name in MEASURES:
            finite = np.isfinite(self.values[name]) if name in self.values else self.maps.any(axis=1)
            value, *sets = self.resampled(name)
            is_number = bool(np.isfinite(value))
            measures[name] = {
                "value": round(float(value), 4) if is_number else None,
                "ci": interval(np.array(sets)) if is_number else None,
                "n": int(finite.sum()),
            }
        share = np.mean([case.lungs.mean() for case in self.cases.pneumonia])
        return {
            "normal": len(self.cases.normal),
            "pneumonia": len(self.cases.pneumonia),
            "without_lungs": self.cases.left_out,
            "lungs": "found by the model" if self.cases.has_lungs else "not looked for: the whole image",
            "lung_share": round(float(share), 4),
            "measures": measures,
        }


def chosen(samples: Sequence[Sample], most: int = MOST, seed: int = 0) -> tuple[int, ...]:
    """Return the indices of at most so many radiographs of each class, drawn at random."""
    rng = np.random.default_rng(seed)
    labels = np.array([sample.label for sample in samples], dtype=np.int64)
    every = [np.flatnonzero(labels == label) for label in range(len(CLASSES))]
    drawn = [rng.choice(own, min(most, len(own)), replace=False) for own in every]
    return tuple(sorted(int(index) for index in np.concatenate(drawn)))


def cases_of(images: Sequence[NDArray[np.float32]], samples: Sequence[Sample], finders: Sequence[Predict]) -> Cases:
    """Return radiographs with their lungs.

    Parameters
    ----------
    images
        float32 [1, S, S] in [0, 1].
    samples
        Where each comes from.
    finders
        Models; the lungs are those of the first that looks for them.

    Raises
    ------
    InvalidData
        Of a class there is no image in which lungs were found.
    """
    lungs = [np.ones(image.shape[1:], bool) for image in images]
    has_lungs = False
    for predict in finders:
        masks = _lungs_in(predict, images)
        if masks is not None:
            lungs, has_lungs = masks, True
            break
    by_class: list[list[Case]] = [[] for _ in CLASSES]
    for image, mask, sample in zip(images, lungs, samples, strict=True):
        if mask.mean() >= LEAST_LUNG:
            by_class[sample.label].append(Case(image[0], mask, sample.patient))
    if not all(by_class):
        raise InvalidData("maps cannot be judged: a class has no image in which lungs were found")
    normal, pneumonia = (tuple(own) for own in by_class)
    return Cases(pneumonia, normal, has_lungs, len(images) - len(normal) - len(pneumonia))


def judge_maps(
    predict: Predict,
    cases: Cases,
    *,
    threshold: float,
    decider: Decider | None = None,
    seed: int = 0,
    advance: Callable[[int, int], None] | None = None,
) -> Faithfulness:
    """Judge a model's maps.

    Places in PNEUMONIA images are replaced by the same place of a random NORMAL one. Opacities are drawn into NORMAL
    ones. The same seed gives any model the same pictures, but for the order that its own map has.

    Parameters
    ----------
    threshold
        Probability from which the answer is PNEUMONIA.
    decider
        The model's decider, whose calibration makes two models' log-odds comparable; without it they are as they come.
    advance
        Called after each image with the number of images done and of all.
    """
    model = _Model(predict, *((decider.slope, decider.intercept) if decider else (1.0, 0.0)), threshold)
    rng = np.random.default_rng(seed)
    rows: list[dict[str, float]] = []
    maps = []
    for done, case in enumerate(cases.pneumonia, start=1):
        donor = cases.normal[int(rng.integers(len(cases.normal)))]
        odds, heat = model.look(case.image)
        moved = _moved_by(model, case, donor, (float(odds[0]), heat), rng)
        rows.append(_place_of(heat, case.lungs, has_lungs=cases.has_lungs) | moved)
        maps.append(cv2.resize(heat, (_MAP, _MAP), interpolation=cv2.INTER_AREA).ravel())
        if advance:
            advance(done, len(cases))
    opacities = []
    for done, case in enumerate(cases.normal, start=len(cases.pneumonia) + 1):
        opacities.append(_found_in(model, case, rng))
        if advance:
            advance(done, len(cases))
    values = {name: np.array([row[name] for row in part]) for part in (rows, opacities) for name in part[0]}
    return Faithfulness(cases, values, np.stack(maps))


@dataclass(frozen=True, slots=True)
class _Model:
    """A model with its calibration and its threshold."""

    predict: Predict
    slope: float
    intercept: float
    threshold: float

    def log_odds(self, images: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        """Return the calibrated log-odds of images [S, S]."""
        parts = [self._of(outputs) for outputs in _outputs(self.predict, [image[np.newaxis] for image in images])]
        return np.concatenate(parts)

    def look(self, *images: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return the calibrated log-odds of images [S, S], and the evidence map [S, S] of the last."""
        outputs = self.predict(np.stack(images)[:, np.newaxis])
        heat = evidence_map(outputs, len(images) - 1, self.slope, self.intercept, side=images[-1].shape[-1])
        return self._of(outputs), heat

    def _of(self, outputs: Outputs) -> NDArray[np.float64]:
        logits = outputs.logits.astype(np.float64)
        return self.slope * (logits[:, 1] - logits[:, 0]) + self.intercept


def _outputs(predict: Predict, images: Sequence[NDArray[np.float32]]) -> Iterator[Outputs]:
    """Yield the outputs of images [1, S, S], sixteen at a time."""
    for start in range(0, len(images), _BATCH):
        yield predict(np.stack(images[start : start + _BATCH]))


def _lungs_in(predict: Predict, images: Sequence[NDArray[np.float32]]) -> list[NDArray[np.bool_]] | None:
    """Return the lungs of images [1, S, S] at their side; None where the model does not look for them."""
    masks = []
    for outputs in _outputs(predict, images):
        if outputs.lungs[0].size == 1:
            return None
        side = images[0].shape[-1]
        masks += [lung_mask(lungs, side, side) for lungs in outputs.lungs]
    return masks


def _place_of(heat: NDArray[np.float32], lungs: NDArray[np.bool_], *, has_lungs: bool) -> dict[str, float]:
    """Return where a map lies."""
    total = float(heat.sum(dtype=np.float64))
    if total <= 0:
        return dict.fromkeys(("peak_inside", "heat_inside", "peak_in_middle"), np.nan)
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    inside = {"peak_inside": float(lungs[row, column]), "heat_inside": float(heat[lungs].sum(dtype=np.float64)) / total}
    middle = float(int(column) * _COLUMNS // heat.shape[1] == _COLUMNS // 2)
    return (inside if has_lungs else dict.fromkeys(inside, np.nan)) | {"peak_in_middle": middle}


def _moved_by(
    model: _Model, case: Case, donor: Case, answer: tuple[float, NDArray[np.float32]], rng: np.random.Generator
) -> dict[str, float]:
    """Return how an answer, log-odds and map, moves as places of its image are made normal.

    They are taken in the map's order and in a random one.
    Deletion begins with the image and replaces the first places first. Insertion begins with all of them replaced and
    brings the first back first (Petsiuk et al. 2018). Areas are those of the probability over the part of the lungs.
    """
    normal, area = normal_for(case.image, case.lungs, donor.image, donor.lungs), area_of(case.lungs)
    start, heat = answer
    shape = case.image.shape[0], case.image.shape[1]
    left, top, right, bottom = box_of(case.lungs)
    middle = nearness(shape, ((left + right) / 2, (top + bottom) / 2))
    chance = nearness(shape, random_place(case.lungs, rng))
    # Where a map says nothing, its order is the random one.
    own = heat + chance * np.float32(1e-6)
    steps = [number / _STEPS for number in range(1, _STEPS)]
    masks = [mask for order in (own, -own, chance, -chance) for mask in strongest(order, area, steps)]
    masks += strongest(middle, area, [1 / 3]) + strongest(middle, area, [1.0])
    odds = model.log_odds(replaced(case.image, normal, masks))
    end = odds[-1]
    deleted, inserted, deleted_at_random, inserted_at_random = odds[:-2].reshape(4, -1)
    third = steps.index(1 / 3)
    drops = {"hottest": deleted[third], "random": deleted_at_random[third], "central": odds[-2]}
    return {
        **{f"drop_{name}": float(start - after) for name, after in drops.items()},
        "contrast": float(deleted_at_random[third] - deleted[third]),
        # To leave out the last places first is to insert the first ones, read from the end.
        "deletion": _area([start, *deleted, end]),
        "insertion": _area([start, *inserted, end]),
        "deletion_random": _area([start, *deleted_at_random, end]),
        "insertion_random": _area([start, *inserted_at_random, end]),
    }


def _area(odds: Sequence[float]) -> float:
    """Return the area under the probabilities of evenly spaced steps, by trapezia over a width of one."""
    p = expit(np.array(odds))
    return float((p[1:] + p[:-1]).mean() / 2)


def _found_in(model: _Model, case: Case, rng: np.random.Generator) -> dict[str, float]:
    """Return whether an opacity drawn into an image raises its score, and whether the map finds it.

    It has to be found where it makes the answer PNEUMONIA.
    """
    place = inner_place(case.lungs, rng)
    marked = with_opacity(case.image, place, rng)
    (before, after), heat = model.look(case.image, marked)
    shares = {"opacity_raises": float(after > before), "opacity_found": np.nan, "opacity_side": np.nan}
    if not expit(before) < model.threshold <= expit(after):
        return shares
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    apart = float(np.hypot(column - place[0], row - place[1]))
    left, _, right, _ = box_of(case.lungs)
    middle = (left + right) // 2
    sides = float(heat[:, :middle].sum()), float(heat[:, middle:].sum())
    own, other = sides if place[0] < middle else sides[::-1]
    hit = bool(heat.any()) and apart <= _REACH * heat.shape[1]
    return shares | {"opacity_found": float(hit), "opacity_side": float(own > other)}


def _means(values: NDArray[np.float64], sets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of those values that are known in each set [R, N]; NaN where none is."""
    finite = np.isfinite(values)
    total = sets[:, finite].sum(axis=1)
    sums = sets[:, finite] @ values[finite]
    return _divided(sums, total)


def _mean_correlation(
    maps: NDArray[np.float32], patients: NDArray[np.str_], sets: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean correlation between the maps of different patients in each set; empty maps do not count."""
    filled = maps.std(axis=1) > 0
    if filled.sum() < 2:
        return np.full(len(sets), np.nan)
    correlation = np.corrcoef(maps[filled].astype(np.float64))
    others = patients[filled][:, np.newaxis] != patients[filled]
    weights = sets[:, filled]
    total = np.einsum("ri,ij,rj->r", weights, others.astype(np.float64), weights, optimize=True)
    sums = np.einsum("ri,ij,rj->r", weights, np.where(others, correlation, 0), weights, optimize=True)
    return _divided(sums, total)


def _divided(sums: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.divide(sums, total, out=np.full(len(sums), np.nan), where=total > 0))
