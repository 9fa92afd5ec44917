"""Model and heatmap of one image: the shipped ONNX engine beside a plain ResNet-18 in torch with the grad-cam package.

    .venv/bin/python benchmarks/heatmap.py [--images 60] [--threads 1 --threads 2] [--json]

Both sides begin with the same 224×224 image and end with a probability and a heatmap. The plain side has the
classifier's weights and sees the whole image, without lungs: its answers are its own, and only its time counts. The two
alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import common
from modeltrain.model.card import INT8, ONNX, Card, load_card, shipped_model
from modeltrain.model.decision import Decider
from modeltrain.model.evidence import evidence_map
from modeltrain.model.preprocess import read_picture, to_input
from worker.inference.engine import OnnxEngine

Image = NDArray[np.float32]
Answer = Callable[[Image], float]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WARM_UP = 5


@dataclass(frozen=True)
class Pairs:
    """What was measured with so many threads; times are medians in milliseconds."""

    threads: int
    images: int
    torch_ms: float
    onnx_ms: float
    ratio: float  # the median of the pairs' ratios


def main() -> None:
    """Measure and print."""
    options = _options()
    card = load_card(options.model or shipped_model())
    images = _images(options.images)
    measured = [measure(card, images, threads) for threads in options.threads]
    if options.json:
        print(json.dumps({"cores": os.cpu_count(), "pairs": [asdict(each) for each in measured]}))
        return
    print(f"{len(images)} images of 224×224, {os.cpu_count()} cores, medians\n")
    print("| threads | plain torch forward + grad-cam, ms | ONNX engine, lungs and map, ms | ratio |")
    print("|---:|---:|---:|---:|")
    for each in measured:
        print(f"| {each.threads} | {each.torch_ms:.1f} | {each.onnx_ms:.1f} | ×{each.ratio:.1f} |")


def measure(card: Card, images: Sequence[Image], threads: int) -> Pairs:
    """Give each image to both; every other time the other one goes first."""
    sides = {"torch": torch_and_grad_cam(card, threads), "onnx": engine_and_closed_form(card, threads)}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number, image in enumerate([*[images[0]] * WARM_UP, *images]):
        for name in sorted(sides, reverse=bool(number % 2)):
            begun = time.perf_counter()
            sides[name](image)
            times[name].append(1000 * (time.perf_counter() - begun))
    eager, ours = times["torch"][WARM_UP:], times["onnx"][WARM_UP:]
    return Pairs(
        threads=threads,
        images=len(images),
        torch_ms=statistics.median(eager),
        onnx_ms=statistics.median(ours),
        ratio=statistics.median(theirs / own for theirs, own in zip(eager, ours, strict=True)),
    )


def engine_and_closed_form(card: Card, threads: int) -> Answer:
    """Return what cxrd does: one forward pass of the file that serves, whose outputs hold the heatmap."""
    engine = OnnxEngine(served(card), threads)
    decider = Decider(card)

    def answer(image: Image) -> float:
        outputs = engine.predict(image[None])
        evidence_map(outputs, 0, decider.slope, decider.intercept)
        return float(decider.probability(outputs.logits)[0])

    return answer


def torch_and_grad_cam(card: Card, threads: int) -> Answer:
    """Return what the naive worker does: an eager forward pass, then grad-cam's own forward and backward pass."""
    try:
        import torch
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
        from torchvision.models import resnet18

        from modeltrain.network.architectures import load_network
    except ImportError as error:
        raise common.Missing(f"{error.name} is not installed: run make test, or pip install 'cxrd[dev]'") from error
    torch.set_num_threads(threads)
    network = resnet18(num_classes=2).eval()  # with its stride in the last stage, as torchvision has it
    network.load_state_dict(load_network(card).net.state_dict())
    cam = GradCAM(model=network, target_layers=[network.layer4])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))

    def answer(image: Image) -> float:
        tensor = (torch.from_numpy(image[None]).expand(-1, 3, -1, -1) - mean) / std
        with torch.no_grad():
            score = float(network(tensor).softmax(1)[0, 1])
        cam(input_tensor=tensor, targets=[ClassifierOutputTarget(1)])
        return score

    return answer


def served(card: Card) -> Path:
    """Return the file that serves on a CPU."""
    return card.folder / (INT8 if INT8 in card.digests else ONNX)


def _images(count: int) -> list[Image]:
    files = sorted(common.shared("data", "kermany_full").rglob("*.jpeg"))
    values = [to_input(read_picture(file, max_pixels=60_000_000)) for file in files[:count]]
    return [values[number % len(values)] for number in range(count)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=common.at_least_one, default=60, help="pairs for each number of threads")
    parser.add_argument(
        "--threads", type=common.at_least_one, action="append", help="of one forward pass (may be repeated); 1 and 2"
    )
    parser.add_argument("--model", type=Path, help="folder of the model; default: the shipped one")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    options.threads = options.threads or [1, 2]
    return options


if __name__ == "__main__":
    common.run(main)
