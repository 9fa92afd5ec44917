"""From a training run to a model folder: weights as safetensors and ONNX, judged as shipped, with their card."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import re
import shutil
from importlib.metadata import version as installed
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import torch
from onnxscript import optimizer
from safetensors.torch import load_file, save_file

from dicom_io.errors import InvalidData, OutOfResources
from modeltrain.data import data_digest, scan, split_by_patient, training_samples
from modeltrain.evaluate import Evaluation, ask, choose_threshold, measure
from modeltrain.network import ChestNet
from modeltrain.outputs import CLASSES, Outputs
from modeltrain.preprocess import INPUT_SIZE
from modeltrain.registry import CARD, CURRENT, ONNX, SAFETENSORS, file_digest
from modeltrain.train import Progress, read_progress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from modeltrain.data import Sample, Split
    from modeltrain.evaluate import Predict

OPSET = 18
_LIBRARIES = ("torch", "torchvision", "onnxruntime", "numpy", "opencv-python-headless", "pillow", "scikit-learn")
log = logging.getLogger(__name__)


def export_model(
    weights: Path,
    data: Path,
    models: Path,
    *,
    name: str,
    version: str,
    current: bool = False,
    locked_test: bool = False,
) -> Path:
    """Turn the best weights of a training run into a model folder, and return it.

    The matrices are rounded to half precision once, and both files carry these very numbers. Threshold and figures are
    those of the finished ONNX file: the threshold from the validation patients alone and then, where it is asked for,
    the figures on the locked `test/`.

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

    Raises
    ------
    InvalidData
        `weights` is not from a run, `data` is not what the run was trained on, or a name is unfit for a folder.
    OutOfResources
        The folder cannot be written.
    """
    if not (re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) and re.fullmatch(r"\d+(\.[\da-z]+)*", version)):
        raise InvalidData(f"{name}-{version}: name it with small letters, digits and hyphens, its version with digits")
    folder = models / f"{name}-{version}"
    if folder.exists():
        raise InvalidData(f"{folder}: exists already; a version is never written twice")
    progress = read_progress(weights)
    recipe = progress.recipe
    split = split_by_patient(training_samples(data), recipe["validation_fraction"], recipe["seed"])
    if data_digest(split.train + split.validation, data) != progress.data_digest:
        raise InvalidData(f"{data}: is not the data that {weights} was trained on")

    building = models / f".{folder.name}.new"
    try:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        write_weights(_rounded(load_file(weights)), building)
        card = _card(building, progress, split, data if locked_test else None, f"{name}-{version}")
        (building / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for path in (*building.iterdir(), building):
            _sync(path)
        building.replace(folder)
        _sync(models)
        if current:
            set_current(models, folder.name)
    except OSError as error:
        raise OutOfResources(f"{folder}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def set_current(models: Path, name: str) -> None:
    """Let `models/CURRENT` name a folder beside it, in one rename."""
    temporary = models / f".{CURRENT}.new"
    temporary.write_text(f"{name}\n", encoding="utf-8")
    _sync(temporary)
    temporary.replace(models / CURRENT)
    _sync(models)


def write_weights(state: dict[str, Tensor], folder: Path) -> None:
    """Write `model.safetensors` and `model.onnx` from a state dict whose matrices are at half precision."""
    save_file(state, folder / SAFETENSORS)
    network = ChestNet()
    network.load_state_dict(state)
    onnx.save_model(_onnx_model(network.eval()), folder / ONNX)


def onnx_predictor(path: Path, threads: int = 0) -> Predict:
    """Return the forward pass of an ONNX file on the CPU (`threads` 0: as many as there are cores)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def predict(images: NDArray[np.float32]) -> Outputs:
        return Outputs(*session.run(list(Outputs._fields), {"image": images}))

    return predict


def _rounded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state with its matrices at half precision.

    The vectors (norms and biases, a thousandth of the file) stay as they are: a small running variance would lose its
    digits.
    """
    return {key: value.half() if value.ndim > 1 else value for key, value in state.items()}


def _onnx_model(network: ChestNet) -> onnx.ModelProto:
    """Return the network as ONNX: input `image` [N, 1, 224, 224], outputs `logits`, `layer4` and `cam`."""
    example = torch.zeros(2, 1, INPUT_SIZE, INPUT_SIZE)
    # `optimize=True` would fold the norms into the convolutions, whose weights were then other numbers than those in
    # the safetensors file. ONNX Runtime folds them when it loads the file.
    program = torch.onnx.export(
        network,
        (example,),
        input_names=["image"],
        output_names=list(Outputs._fields),
        dynamic_shapes={"image": {0: torch.export.Dim("N")}},
        opset_version=OPSET,
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    if program is None:
        raise TypeError("torch.onnx.export returned nothing")
    optimizer.inline(program.model)
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    _forget_sources(program.model)
    return _halved(program.model_proto)


def _forget_sources(model: onnx_ir.Model) -> None:
    """Take out the exporter's notes, which hold stack traces with this machine's paths."""
    for node in onnx_ir.traversal.RecursiveGraphIterator(model.graph):
        node.metadata_props.clear()
        node.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.metadata_props.clear()


def _halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store the matrices at half precision, each followed by a Cast back to float, which the runtime folds at load."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or tensor.name in ("mean", "std") or len(tensor.dims) < 2:
            continue
        name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
        half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            raise ValueError(f"{name} is not at half precision")
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], f"cast.{name}", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model


def _card(folder: Path, progress: Progress, split: Split, locked: Path | None, label: str) -> dict[str, Any]:
    """Judge the finished ONNX file and return the model's card."""
    predict = onnx_predictor(folder / ONNX)
    recipe = progress.recipe
    answers = ask(predict, split.validation)
    threshold = choose_threshold(answers, recipe["sensitivity"])
    validation = measure(answers, threshold=threshold, model=label)
    parts: dict[str, Any] = {"train": _counts(split.train), "validation": _counts(split.validation)}
    digests = {"training": progress.data_digest}
    test = None
    if locked:
        samples = scan(locked / "test")
        parts["test"], digests["test"] = _counts(samples), data_digest(samples, locked)
        test = _figures(measure(ask(predict, samples), threshold=threshold, model=label))
    return {
        "format": 1,
        "name": label.rpartition("-")[0],
        "version": label.rpartition("-")[2],
        "created": dt.datetime.now(dt.UTC).replace(microsecond=0).isoformat(),
        "arch": "resnet18",
        "classes": list(CLASSES),
        "intended_use": "research and screening support, not for diagnosis",
        "threshold": {
            "value": threshold,
            "chosen_on": "validation",
            "rule": f"the highest threshold, rounded down to four digits, that keeps a sensitivity of at least "
            f"{recipe['sensitivity']} on the validation patients",
        },
        "metrics": {"validation": _figures(validation), "test": test},
        "data": {
            "layout": "Kaggle: train and val joined, then split by patient; test locked",
            "sha256": digests,
            "digest": "SHA-256 over the lines 'relative name, NUL, SHA-256 of the file', sorted by name",
            "split": parts,
        },
        "training": _training(progress),
        "preprocessing": {
            "size": INPUT_SIZE,
            "range": "grey in [0, 1], 0 black (air), 1 white (bone)",
            "resize": "squashed to a square by Pillow's bicubic filter (antialiased)",
            "normalisation": "inside the network: three equal channels, ImageNet mean and standard deviation",
        },
        "files": {
            file: {"sha256": file_digest(folder / file), "bytes": (folder / file).stat().st_size}
            for file in (ONNX, SAFETENSORS)
        },
        "precision": "convolution and linear weights stored as float16, computed in float32",
        "libraries": {library: installed(library) for library in _LIBRARIES},
    }


def _training(progress: Progress) -> dict[str, Any]:
    """Sum up a run, and the run whose weights it began with."""
    history = progress.history
    return {
        "recipe": progress.recipe,
        "best_epoch": progress.best.epoch,
        "epochs": len(history),
        "hours": round(sum(line.seconds for line in history) / 3600, 2),
        "side": [line.side for line in history],
        "learning_rate": [float(f"{line.learning_rate:.3g}") for line in history],
        "validation_loss": [round(line.validation_loss, 4) for line in history],
        "validation_auc": [round(line.validation_auc, 4) for line in history],
        "began_with": _training(Progress.from_json(json.dumps(progress.start))) if progress.start else None,
    }


def _counts(samples: Sequence[Sample]) -> dict[str, int]:
    """Count a part of the data: images, images of each class, patients."""
    classes = {name: sum(sample.label == label for sample in samples) for label, name in enumerate(CLASSES)}
    return {"images": len(samples), **classes, "patients": len({sample.patient for sample in samples})}


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation's figures, rounded to what its number of images can bear."""
    plain = evaluation.to_dict()
    plain.pop("model")
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in plain.items()}


def _sync(path: Path) -> None:
    """Make a file or a folder's entries last."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
