"""What a model's card says of a run, of its data and of an evaluation, as plain values for JSON."""

from __future__ import annotations

import json
from importlib.metadata import version as installed
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from modeltrain.model.card import CARD, SAFETENSORS
from modeltrain.model.outputs import CLASSES
from modeltrain.model.preprocess import INPUT_SIZE
from modeltrain.network.architectures import normalisation
from modeltrain.network.efficientnet_lite import LITE
from modeltrain.network.exposure import KEY
from modeltrain.network.lung_crop import SIDE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from modeltrain.data.samples import Sample
    from modeltrain.training.checkpoint import Progress
    from modeltrain.training.lung_weights import LungRecord

_LUNG_STEPS = {
    "lungs": "inside the network: the lungs are found in the whole image, by a U-Net at half its side",
    "crop": f"inside the network: the box of the lungs becomes {SIDE}×{SIDE} pixels, all else even grey",
    "exposure": "inside the network: percentiles of the chest between the lungs' outer edges are set",
}
_LIBRARIES = (
    "cxrd",
    "torch",
    "torchvision",
    *("onnxruntime", "numpy", "opencv-python-headless", "pillow", "scikit-learn"),
)


def training(progress: Progress) -> dict[str, Any]:
    """Sum up a run, and list the runs that went into it.

    `run`, `began_with` and `teachers` are runs' digests. Whoever wants to make the weights again checks out `commit`.
    """
    history = progress.history
    seconds = [line.seconds for line in history]
    return {
        "run": progress.digest,
        "commit": progress.commit,
        "recipe": progress.recipe,
        "best_epoch": progress.best.epoch,
        "epochs": len(history),
        "hours": None if None in seconds else round(sum(filter(None, seconds)) / 3600, 2),
        "side": [line.side for line in history],
        "learning_rate": [float(f"{line.learning_rate:.3g}") for line in history],
        "validation_loss": [round(line.validation_loss, 4) for line in history],
        "validation_auc": [round(line.validation_auc, 4) for line in history],
        "validation_auc_weighted": [
            line.validation_auc_weighted and round(line.validation_auc_weighted, 4) for line in history
        ],
        "began_with": progress.began_with,
        "teachers": progress.teachers,
        "ancestors": [ancestor.to_dict() for ancestor in progress.ancestors],
    }


def libraries(arch: str) -> dict[str, str]:
    """Return the versions of what made a model of an architecture."""
    return {name: installed(name) for name in (*_LIBRARIES, *(["timm"] if arch == LITE else []))}


def segmentation(record: LungRecord | None) -> dict[str, Any] | None:
    """Tell how the weights that find lungs came to be; None without a record, and for one that sees the whole image."""
    return {**record.to_dict(), "digest": record.digest} if record else None


def preprocessing(folder: Path, arch: str, *, lungs: bool) -> dict[str, Any]:
    """Tell how an image comes to the network of a model's folder, and what becomes of it inside."""
    return {
        "size": INPUT_SIZE,
        "range": "grey in [0, 1], 0 black (air), 1 white (bone)",
        "resize": "squashed to a square by Pillow's bicubic filter (antialiased)",
        **(_LUNG_STEPS if lungs else {"exposure": _exposure(folder)}),
        "normalisation": normalisation(arch),
    }


def _exposure(folder: Path) -> str:
    """Tell what becomes of the exposure of a whole image."""
    with safe_open(folder / SAFETENSORS, framework="numpy") as file:
        landmarks = file.get_tensor(KEY).size if KEY in file.keys() else 0  # noqa: SIM118 - no mapping
    return (
        f"inside the network: {landmarks} percentiles of an image moved to training images' mean"
        if landmarks
        else ("as it is")
    )


def counts(samples: Sequence[Sample]) -> dict[str, int]:
    """Count a part of the data: images, images of each class, patients."""
    classes = {name: sum(sample.label == label for sample in samples) for label, name in enumerate(CLASSES)}
    return {"images": len(samples), **classes, "patients": len({sample.patient for sample in samples})}


def rounded_figures(value: Any) -> Any:
    """Return plain values with their numbers rounded to four digits, which is what some hundred images can bear."""
    if isinstance(value, dict):
        return {key: rounded_figures(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded_figures(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write `model.json`, one line for each entry of the card and of its parts."""
    (folder / CARD).write_text(_lines(card, depth=2) + "\n", encoding="utf-8")


def _lines(value: Any, depth: int) -> str:
    """Return JSON whose outer `depth` objects have a line for each entry."""
    if not depth or not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    entries = [f"{json.dumps(name)}: {_lines(each, depth - 1)}" for name, each in value.items()]
    return "{\n" + ",\n".join(entries) + "\n}"
