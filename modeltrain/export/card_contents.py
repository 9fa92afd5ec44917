"""What a model's card says of a run, of its data and of an evaluation, as plain values for JSON."""

from __future__ import annotations

import json
from importlib.metadata import version as installed
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from modeltrain.model.card import SAFETENSORS
from modeltrain.model.outputs import CLASSES
from modeltrain.model.preprocess import INPUT_SIZE
from modeltrain.network.architectures import normalisation
from modeltrain.network.efficientnet_lite import LITE
from modeltrain.network.exposure import KEY
from modeltrain.training.checkpoint import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from modeltrain.data.samples import Sample
    from modeltrain.evaluation.evaluate import Evaluation

_LIBRARIES = ("torch", "torchvision", "onnxruntime", "numpy", "opencv-python-headless", "pillow", "scikit-learn")


def training(progress: Progress) -> dict[str, Any]:
    """Sum up a run, the run whose weights it began with, and those whose networks taught it."""
    history, start = progress.history, progress.start
    seconds = [line.seconds for line in history]
    return {
        "recipe": progress.recipe,
        "best_epoch": progress.kept_epoch or progress.best.epoch,
        "epochs": len(history),
        "hours": None if None in seconds else round(sum(filter(None, seconds)) / 3600, 2),
        "side": [line.side for line in history],
        "learning_rate": [float(f"{line.learning_rate:.3g}") for line in history],
        "validation_loss": [round(line.validation_loss, 4) for line in history],
        "validation_auc": [round(line.validation_auc, 4) for line in history],
        "validation_auc_alike": [
            line.validation_auc_weighted and round(line.validation_auc_weighted, 4) for line in history
        ],
        "began_with": _of_plain(start) if start else None,
        "teachers": [_of_plain(each) for each in progress.teachers],
    }


def libraries(arch: str) -> dict[str, str]:
    """Return the versions of what made a model of an architecture."""
    return {name: installed(name) for name in (*_LIBRARIES, *(["timm"] if arch == LITE else []))}


def preprocessing(folder: Path, arch: str) -> dict[str, Any]:
    """Tell how an image comes to the network of a model's folder, and what becomes of it inside."""
    with safe_open(folder / SAFETENSORS, framework="numpy") as file:
        landmarks = file.get_tensor(KEY).size if KEY in file.keys() else 0  # noqa: SIM118 - no mapping
    exposure = f"inside the network: {landmarks} percentiles of an image moved to training images' mean"
    return {
        "size": INPUT_SIZE,
        "range": "grey in [0, 1], 0 black (air), 1 white (bone)",
        "resize": "squashed to a square by Pillow's bicubic filter (antialiased)",
        "exposure": exposure if landmarks else "as it is",
        "normalisation": normalisation(arch),
    }


def _of_plain(told: dict[str, Any]) -> dict[str, Any]:
    """Sum up an earlier run, and name its data: the card itself names those of the last one alone."""
    progress = Progress.from_json(json.dumps(told))
    return training(progress) | {"data": progress.data_digest, "parts": progress.parts}


def counts(samples: Sequence[Sample]) -> dict[str, int]:
    """Count a part of the data: images, images of each class, patients."""
    classes = {name: sum(sample.label == label for sample in samples) for label, name in enumerate(CLASSES)}
    return {"images": len(samples), **classes, "patients": len({sample.patient for sample in samples})}


def figures(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation's figures, rounded to what its number of images can bear."""
    plain = evaluation.to_dict()
    plain.pop("model")
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in plain.items()}
