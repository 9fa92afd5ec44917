"""From a training run to a model folder: weights as safetensors and ONNX, judged as shipped, with their card."""

from __future__ import annotations

import datetime as dt
import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dicom_io import durable
from dicom_io.errors import InvalidData, OutOfResources
from modeltrain.data.framing import overlap
from modeltrain.data.samples import Images, data_digest, read_sample, scan
from modeltrain.data.seen_images import KEYS, seen_images_of, write_seen_images
from modeltrain.data.sources import Source, Sources, sources_of
from modeltrain.evaluation.evaluate import answers_of, measure
from modeltrain.evaluation.subgroups import key_figures
from modeltrain.export.calibrate import decided_by, fit_all, raw_answers
from modeltrain.export.card_contents import (
    counts,
    libraries,
    preprocessing,
    rounded_figures,
    segmentation,
    training,
    write_card,
)
from modeltrain.export.gate_limits import fit_out_of_distribution, out_of_distribution_images
from modeltrain.export.int8_comparison import compare_int8
from modeltrain.export.int8_file import write_int8
from modeltrain.export.onnx_file import onnx_predictor, rounded, write_weights
from modeltrain.model.card import (
    CARD,
    INT8,
    ONNX,
    SAFETENSORS,
    SEEN_IMAGES,
    file_digest,
    load_card,
    weights_digest,
)
from modeltrain.model.decision import Decider
from modeltrain.model.outputs import CLASSES
from modeltrain.model.preprocess import INPUT_SIZE
from modeltrain.network.architectures import ChestNet, load_weights
from modeltrain.training.checkpoint import (
    LAST,
    Progress,
    lungs_had_known_data,
    only_own_data,
    read_progress,
    teachers_had_known_data,
    with_times,
)
from modeltrain.training.lung_weights import LungRecord, checked_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from modeltrain.data.samples import Sample, Split
    from modeltrain.model.card import Card

_RANGE_IMAGES = 100  # training images at most from which the int8 file's ranges and mean errors are taken
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NewVersion:
    """What a new model is called, and what goes into it beside its weights.

    Attributes
    ----------
    name, version
        The folder is called `name-version`.
    out_of_distribution
        A folder of radiographs of other populations, for the out-of-distribution score (`fit_out_of_distribution`).
    ages
        Least and greatest age of the population in completed years: whose header states another one is out of
        distribution. None leaves ages aside.
    began_with
        The model folder whose weights the run began with: what they had learnt from, these have too.
    lungs
        The file of the weights that find lungs (`training.lung_weights`), for a run whose own file lacks their record.
    locked_test
        Measure the finished file on `data/test` too and put the figures into the card. Once, for what is shipped: a
        test set that is looked at along the way steers the work, and then says nothing.
    """

    name: str
    version: str
    out_of_distribution: Path | None = None
    ages: tuple[float, float] | None = None
    began_with: Path | None = None
    lungs: Path | None = None
    locked_test: bool = False

    def folder(self, models: Path) -> Path:
        """Return the model's folder, which is not there yet.

        Raises
        ------
        InvalidData
            It is there, or a name is unfit for a folder.
        """
        folder = models / f"{self.name}-{self.version}"
        named = re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name) and re.fullmatch(r"\d+(\.[\da-z]+)*", self.version)
        if not named:
            raise InvalidData(f"{folder.name}: name it with small letters, digits and hyphens, its version with digits")
        if folder.exists():
            raise InvalidData(f"{folder}: exists already; a version is never written twice")
        return folder


def export_model(weights: Path, data: Path | Source | Sources, models: Path, new: NewVersion) -> Path:
    """Turn the best weights of a training run into a model folder, and return it.

    The matrices are rounded to half precision once. What the card says of the answers (calibration, operating points,
    conformal sets, limits of the out-of-distribution score) is fitted on the validation patients with the finished ONNX
    file. An int8 copy joins it where it decides like the other on the validation patients; operating points then hold
    for both. The figures are those of the file that serves on a CPU: on the validation patients and then, where it is
    asked for, on the locked `test/`.

    Parameters
    ----------
    weights
        `best_model.safetensors` of a run.
    data
        The folder the run was trained on.
    models
        Where the folder is made.

    Raises
    ------
    InvalidData
        `weights` is not from a run, `data` is not what the run was trained on, or a name is unfit for a folder.
    OutOfResources
        The folder cannot be written.
    """
    progress = with_times(read_progress(weights), weights.with_name(LAST))
    folder = new.folder(models)
    sources = sources_of(data)
    if sources.digest != progress.data_digest:
        raise InvalidData(f"{data if isinstance(data, Path) else sources.name}: is not what {weights} was trained on")
    building = models / f".{folder.name}.new"
    try:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        _fill(building, weights, progress, sources, new)
        if new.locked_test and isinstance(data, Path):
            _measure_on_test(building, data)
        mode = (building / CARD).stat().st_mode
        for path in building.iterdir():
            path.chmod(mode)  # as the site's umask says: safetensors makes its files for their owner alone
        durable.place_folder(building, folder)
    except (OSError, SafetensorError) as error:
        raise OutOfResources(f"{folder}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def _fill(folder: Path, weights: Path, progress: Progress, sources: Sources, new: NewVersion) -> None:
    """Write a model's files into a folder: weights, the list of seen images, the card with its figures."""
    recipe = progress.recipe
    split = sources.split(recipe["validation_fraction"], recipe["seed"])
    lungs = bool(recipe.get("lungs", False))
    state = load_file(weights)
    record = _lungs_of(new, state, progress)
    lungs_known = not lungs or lungs_had_known_data(progress, record)
    predecessor = seen_images_of(load_card(new.began_with, serves=False)) if new.began_with else None
    _write_network(folder, state, split, new.out_of_distribution, arch=progress.arch, lungs=lungs)
    write_seen_images(folder, sources, predecessor)
    # A predecessor without a list may still be named, with its data, in the run's record.
    complete = predecessor.complete and teachers_had_known_data(progress) if predecessor else only_own_data(progress)
    card = _card(folder, progress, split, new)
    card["data"]["layout"] = sources.name
    card["segmentation"] = segmentation(record)
    card["data"]["seen_images"] = {"file": SEEN_IMAGES, "keys": KEYS, "complete": complete and lungs_known}
    write_card(folder, card)
    served = load_card(folder)
    card["metrics"] = {"of": _served(served), "validation": _figures_of(served, split.validation), "test": None}
    write_card(folder, card)


def _measure_on_test(folder: Path, data: Path) -> None:
    """Measure a finished model on `data/test` and enter the figures into its card.

    Raises
    ------
    InvalidData
        There is no test split, or an image in it cannot be read.
    """
    card = load_card(folder)
    samples = scan(data / "test")
    raw = card.raw
    raw["metrics"]["test"] = _figures_of(card, samples)
    raw["data"]["split"]["test"] = counts(samples)
    raw["data"]["sha256"]["test"] = data_digest(samples, data)
    write_card(folder, raw)


def _write_network(
    folder: Path, state: dict[str, Tensor], split: Split, out_of_distribution: Path | None, *, arch: str, lungs: bool
) -> None:
    """Write the weight files: at half precision, the out-of-distribution score fitted to the rounded ones; as int8."""
    state = {key: value for key, value in rounded(state).items() if not key.startswith("gate.")}
    network = ChestNet(arch, lungs=lungs)
    empty = {f"gate.{name}": torch.zeros(0) for name in network.gate.NAMES}
    load_weights(network, {key: value.float() for key, value in (state | empty).items()})
    tensors = fit_out_of_distribution(
        network.eval(), split.train, split.validation, out_of_distribution, size=INPUT_SIZE
    )
    write_weights(state | {f"gate.{name}": value for name, value in tensors.items()}, folder, arch, lungs=lungs)
    chosen = split.train[:: max(1, len(split.train) // _RANGE_IMAGES)][:_RANGE_IMAGES]
    write_int8(folder, [read_sample(sample) for sample in chosen])


def _card(folder: Path, progress: Progress, split: Split, new: NewVersion) -> dict[str, Any]:
    """Fit the card on the finished ONNX file's answers and return it, still without figures."""
    predict = onnx_predictor(folder / ONNX)
    raw = raw_answers(predict, split.validation)
    fitted = fit_all(raw, _overlap(progress, split), raw_answers(predict, split.validation, shift=True))
    other_images = out_of_distribution_images(split.train, new.out_of_distribution, size=INPUT_SIZE)
    fitted["int8"], in_both = compare_int8(folder, split, predict, raw, fitted, other_images)
    if fitted["int8"]["kept"]:
        fitted |= decided_by(in_both)
    else:
        (folder / INT8).unlink()
    parts: dict[str, Any] = {"train": counts(split.train), "validation": counts(split.validation)}
    data_digests: dict[str, Any] = {"training": progress.data_digest, "parts": progress.parts}
    paths = [folder / name for name in (ONNX, INT8, SAFETENSORS, SEEN_IMAGES) if (folder / name).exists()]
    digests = {path.name: file_digest(path) for path in paths}
    return {
        "name": new.name,
        "version": new.version,
        "digest": weights_digest(digests),
        "created": dt.datetime.now(dt.UTC).replace(microsecond=0).isoformat(),
        "arch": progress.arch,
        "lungs": bool(progress.recipe.get("lungs", False)),
        "classes": list(CLASSES),
        "population": {"least_age_years": new.ages[0], "greatest_age_years": new.ages[1]} if new.ages else None,
        "intended_use": "research and screening support, not for diagnosis",
        **fitted,
        "data": {
            "sha256": data_digests,
            "digest": "SHA-256 over the lines 'relative name, NUL, SHA-256 of the file', sorted by name",
            "split": parts,
        },
        "training": training(progress),
        "preprocessing": preprocessing(folder, progress.arch, lungs=bool(progress.recipe.get("lungs", False))),
        "files": {path.name: {"sha256": digests[path.name], "bytes": path.stat().st_size} for path in paths},
        "precision": "convolution and linear weights stored as float16, computed in float32",
        "libraries": libraries(progress.arch),
    }


def _lungs_of(new: NewVersion, state: dict[str, Tensor], progress: Progress) -> LungRecord | None:
    """Return the record of the weights that find lungs: the run's, or else that in the file that `new` names.

    The weights in that file must be those of the run, `state`.

    Raises
    ------
    InvalidData
        They are others, have no record, or have seen validation patients of the run.
    """
    if progress.segmentation:
        return LungRecord.from_dict(progress.segmentation)
    if new.lungs is None:
        return None
    split = (progress.recipe["seed"], progress.recipe["validation_fraction"])
    record = checked_record(new.lungs, split, progress.data_digests)
    own, others = (
        rounded({name: value for name, value in each.items() if name.startswith("lungs.")})
        for each in (state, load_file(new.lungs))
    )
    alike = own.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in own.items())
    if record is None or not alike:
        raise InvalidData(f"{new.lungs}: is not the record of the weights that find lungs in this run")
    return record


def _overlap(progress: Progress, split: Split) -> NDArray[np.float64] | None:
    """Return the validation images' overlap weights, if the run drew its images by them."""
    if not progress.recipe.get("overlap"):
        return None
    train, validation = (Images(part, progress.recipe["cache_bytes"]) for part in (split.train, split.validation))
    return overlap(train, validation, progress.recipe["seed"])[1]


def _served(card: Card) -> str:
    return INT8 if INT8 in card.digests else ONNX


def _figures_of(card: Card, samples: Sequence[Sample]) -> dict[str, Any]:
    """Judge the file that serves on a CPU."""
    decider = Decider(card)
    answers = answers_of(onnx_predictor(card.folder / _served(card)), samples, decider=decider)
    evaluation = measure(answers, threshold=decider.threshold, model=card.label)
    figures = evaluation.to_dict() | key_figures(answers, evaluation, decider.points)
    del figures["model"]
    return {name: rounded_figures(value) for name, value in figures.items()}
