"""From a training run to a model folder: weights as safetensors and ONNX, judged as shipped, with their card."""

from __future__ import annotations

import datetime as dt
import json
import logging
import re
import shutil
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
from modeltrain.export.card_contents import counts, figures, libraries, preprocessing, training
from modeltrain.export.gate_limits import fit_gate, outlying
from modeltrain.export.int8_comparison import compare_int8
from modeltrain.export.onnx_file import onnx_predictor, quantize, rounded, write_weights
from modeltrain.model.card import (
    CARD,
    CURRENT,
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
    only_own_data,
    progress_of_model,
    read_progress,
    teachers_had_known_data,
    with_times,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from modeltrain.data.samples import Sample, Split
    from modeltrain.data.seen_images import SeenImages
    from modeltrain.model.card import Card

_RANGE_IMAGES = 100  # training images at most from which the int8 file's ranges are taken
log = logging.getLogger(__name__)


def export_model(
    weights: Path,
    data: Path | Source | Sources,
    models: Path,
    *,
    name: str,
    version: str,
    current: bool = False,
    locked_test: bool = False,
    outliers: Path | None = None,
    ages: tuple[float, float] | None = None,
    began_with: Path | None = None,
) -> Path:
    """Turn the best weights of a training run into a model folder, and return it.

    The matrices are rounded to half precision once, and both files carry these very numbers. What the card says of the
    answers (calibration, operating points, conformal sets, the gate's limits) is fitted on the validation patients with
    the finished ONNX file. An int8 copy joins it where it keeps its word on the validation patients; operating points
    then hold for both. The figures are those of the file that serves on a CPU: on the validation patients and then,
    where it is asked for, on the locked `test/`.

    Parameters
    ----------
    weights
        `best_model.safetensors` of a run.
    data
        The folder the run was trained on.
    models
        Where the folder `name-version` is made.
    current
        Also let `models/CURRENT` name it.
    locked_test
        Judge the finished file on `data/test` too and put the figures into the card. Once, for what is shipped: a test
        set that is looked at along the way steers the work, and then says nothing.
    outliers
        A folder of radiographs of other populations, for the gate (see `fit_gate`).
    ages
        Least and greatest age of the population in completed years: whose header states another one is outside. None
        leaves ages aside.
    began_with
        The model folder whose weights the run began with: what they had learnt from, these have too.

    Raises
    ------
    InvalidData
        `weights` is not from a run, `data` is not what the run was trained on, or a name is unfit for a folder.
    OutOfResources
        The folder cannot be written.
    """
    progress = with_times(read_progress(weights), weights.with_name(LAST))
    origin = load_card(began_with) if began_with else None
    earlier = seen_images_of(origin) if origin else None
    # Of a folder that tells nothing, the card may still name runs before it.
    complete = earlier.complete and teachers_had_known_data(progress) if earlier else only_own_data(progress)
    folder = _new(models, name, version)
    _make(weights, progress, data, folder, outliers, ages, earlier=earlier, complete=complete, locked_test=locked_test)
    if current:
        set_current(models, folder.name)
    return folder


def refit(
    model: Path,
    data: Path | Source | Sources,
    models: Path,
    *,
    version: str,
    mirror: bool,
    outliers: Path | None = None,
    complete: bool | None = None,
) -> Path:
    """Turn a model's weights, as they are, into a new version: another gate, another card, mirrored or not.

    Nothing is learnt. What a card says of the answers is fitted anew with the present rules, as in `export_model`.

    Parameters
    ----------
    model
        The folder of the model.
    data
        What it was trained on.
    mirror
        Whether the new version answers with the mean of the image's and its mirror image's answers.
    complete
        Whether `data` is all that the model, those that it began with and its teachers have learnt from; None where
        only its own folder tells.

    Raises
    ------
    InvalidModel
        `model` is no intact model.
    InvalidData, OutOfResources
        As `export_model`.
    """
    card = load_card(model)
    progress = progress_of_model(model)
    progress.recipe = progress.recipe | {"mirror": mirror}
    earlier = seen_images_of(card)
    if complete is None:
        complete = earlier.complete if earlier else card.raw["training"].get("began_with") is None
    ages = card.raw.get("population")
    years = (ages["least_age_years"], ages["greatest_age_years"]) if ages else None
    folder = _new(models, card.name, version)
    _make(model / SAFETENSORS, progress, data, folder, outliers, years, earlier=earlier, complete=complete, of=card)
    return folder


def _new(models: Path, name: str, version: str) -> Path:
    """Return the folder of a version that is not there yet."""
    if not (re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) and re.fullmatch(r"\d+(\.[\da-z]+)*", version)):
        raise InvalidData(f"{name}-{version}: name it with small letters, digits and hyphens, its version with digits")
    folder = models / f"{name}-{version}"
    if folder.exists():
        raise InvalidData(f"{folder}: exists already; a version is never written twice")
    return folder


def _make(
    weights: Path,
    progress: Progress,
    data: Path | Source | Sources,
    folder: Path,
    outliers: Path | None,
    ages: tuple[float, float] | None,
    *,
    earlier: SeenImages | None,
    complete: bool,
    of: Card | None = None,
    locked_test: bool = False,
) -> None:
    """Write a model folder beside its final place, and bring it there when it is whole.

    `of` is the model whose weights these are, as they are, and whose training its card tells.
    """
    models, recipe = folder.parent, progress.recipe
    sources = sources_of(data)
    split = sources.split(recipe["validation_fraction"], recipe["seed"])
    if sources.digest != progress.data_digest:
        raise InvalidData(f"{data if isinstance(data, Path) else sources.name}: is not what {weights} was trained on")

    building = models / f".{folder.name}.new"
    try:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        arch = recipe.get("arch", "resnet18")
        mirror = bool(recipe.get("mirror", False))
        _write_network(building, load_file(weights), split, outliers, arch=arch, mirror=mirror)
        write_seen_images(building, sources, earlier)
        card = _card(building, progress, split, folder.name, outliers)
        if of:
            card["training"] = of.raw["training"] | {"weights_of": of.label}
        card["data"]["layout"] = sources.name
        card["data"]["seen_images"] = {"file": SEEN_IMAGES, "keys": KEYS, "complete": complete}
        card["population"] = {"least_age_years": ages[0], "greatest_age_years": ages[1]} if ages else None
        _write_card(building, card)
        card["metrics"] = _metrics(load_card(building), split.validation)
        _write_card(building, card)
        if locked_test and isinstance(data, Path):
            judge_on_test(building, data)
        mode = (building / CARD).stat().st_mode
        for path in building.iterdir():
            path.chmod(mode)  # as the site's umask says: safetensors makes its files for their owner alone
        durable.place_folder(building, folder)
    except (OSError, SafetensorError) as error:
        raise OutOfResources(f"{folder}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def judge_on_test(folder: Path, data: Path) -> None:
    """Judge a finished model on `data/test` and enter the figures into its card. Once, for what is shipped.

    Raises
    ------
    InvalidData
        There is no test split, or an image in it cannot be read.
    InvalidModel
        The model is damaged.
    """
    card = load_card(folder)
    samples = scan(data / "test")
    raw = card.raw
    raw["metrics"]["test"] = _figures_of(card, samples)
    raw["data"]["split"]["test"] = counts(samples)
    raw["data"]["sha256"]["test"] = data_digest(samples, data)
    _write_card(folder, raw)


def set_current(models: Path, name: str) -> None:
    """Let `models/CURRENT` name a folder beside it, in one rename."""
    durable.write_file(models / CURRENT, f"{name}\n".encode())


def _write_network(
    folder: Path, state: dict[str, Tensor], split: Split, outliers: Path | None, *, arch: str, mirror: bool
) -> None:
    """Write the weight files: at half precision, with a gate fitted to the rounded weights, and as int8."""
    state = {key: value for key, value in rounded(state).items() if not key.startswith("gate.")}
    network = ChestNet(arch)
    empty = {f"gate.{name}": torch.zeros(0) for name in network.gate.NAMES}
    load_weights(network, {key: value.float() for key, value in (state | empty).items()})
    gate = fit_gate(network.eval(), split.train, split.validation, outliers, size=INPUT_SIZE)
    write_weights(state | {f"gate.{name}": value for name, value in gate.items()}, folder, arch, mirror=mirror)
    count = _RANGE_IMAGES // (1 + mirror)  # a mirror image is another image, and takes as much time
    chosen = split.train[:: max(1, len(split.train) // count)][:count]
    quantize(folder / ONNX, folder / INT8, [read_sample(sample) for sample in chosen])


def _card(folder: Path, progress: Progress, split: Split, label: str, outliers: Path | None) -> dict[str, Any]:
    """Fit the card on the finished ONNX file's answers and return it, still without figures."""
    predict = onnx_predictor(folder / ONNX)
    raw = raw_answers(predict, split.validation)
    fitted = fit_all(raw, _overlap(progress, split), raw_answers(predict, split.validation, elsewhere=True))
    strangers = outlying(split.train, outliers, size=INPUT_SIZE)
    fitted["int8"], in_both = compare_int8(folder, split, predict, raw, fitted, strangers)
    if fitted["int8"]["kept"]:
        fitted |= decided_by(in_both)
    else:
        (folder / INT8).unlink()
    arch = progress.recipe.get("arch", "resnet18")
    parts: dict[str, Any] = {"train": counts(split.train), "validation": counts(split.validation)}
    data_digests: dict[str, Any] = {"training": progress.data_digest, "parts": progress.parts}
    paths = [folder / name for name in (ONNX, INT8, SAFETENSORS, SEEN_IMAGES) if (folder / name).exists()]
    digests = {path.name: file_digest(path) for path in paths}
    return {
        "name": label.rpartition("-")[0],
        "version": label.rpartition("-")[2],
        "digest": weights_digest(digests),
        "created": dt.datetime.now(dt.UTC).replace(microsecond=0).isoformat(),
        "arch": arch,
        "mirror": bool(progress.recipe.get("mirror", False)),
        "classes": list(CLASSES),
        "population": None,
        "intended_use": "research and screening support, not for diagnosis",
        **fitted,
        "data": {
            "layout": "Kaggle: train and val joined, then split by patient; test locked",
            "sha256": data_digests,
            "digest": "SHA-256 over the lines 'relative name, NUL, SHA-256 of the file', sorted by name",
            "split": parts,
        },
        "training": training(progress),
        "preprocessing": preprocessing(folder, arch),
        "files": {path.name: {"sha256": digests[path.name], "bytes": path.stat().st_size} for path in paths},
        "precision": "convolution and linear weights stored as float16, computed in float32",
        "libraries": libraries(arch),
    }


def _overlap(progress: Progress, split: Split) -> NDArray[np.float64] | None:
    """Return the validation images' overlap weights, if the run drew its images by them."""
    if not progress.recipe.get("overlap"):
        return None
    train, validation = (Images(part, progress.recipe["cache_bytes"]) for part in (split.train, split.validation))
    return overlap(train, validation, progress.recipe["seed"])[1]


def _write_card(folder: Path, card: dict[str, Any]) -> None:
    (folder / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _metrics(card: Card, validation: Sequence[Sample]) -> dict[str, Any]:
    """Return the figures of the file that serves on a CPU, at the default operating point."""
    return {"of": _served(card), "validation": _figures_of(card, validation), "test": None}


def _served(card: Card) -> str:
    return INT8 if INT8 in card.digests else ONNX


def _figures_of(card: Card, samples: Sequence[Sample]) -> dict[str, Any]:
    """Judge the file that serves on a CPU."""
    decider = Decider(card)
    answers = answers_of(onnx_predictor(card.folder / _served(card)), samples, decider=decider)
    evaluation = measure(answers, threshold=decider.threshold, model=card.label)
    return figures(evaluation) | key_figures(answers, evaluation, decider.points)
