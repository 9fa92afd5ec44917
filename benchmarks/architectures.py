"""Trains several architectures from random weights with the same budget and prints one table (Markdown).

    python -m benchmarks.architectures --data FOLDER [--epochs 4] [--side 112] [--arch resnet18 --arch densenet121 …]

The budget is the number of images that are shown: the same images, in the same order, with the same variations. Figures
are of the validation patients at the side trained with; the test split is not opened. Milliseconds are those of one
224-pixel image in a batch of eight, ONNX Runtime in single precision on one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from modeltrain.data.samples import Images, split_by_patient, training_samples
from modeltrain.export.onnx_file import onnx_predictor, rounded, write_weights
from modeltrain.network.architectures import ARCHITECTURES
from modeltrain.training.learner import Learner
from modeltrain.training.recipe import RECIPES


class Row(NamedTuple):
    """One line of the table."""

    arch: str
    parameters: float
    auc: float
    loss: float
    minutes: float
    milliseconds: float


def main() -> None:
    """Read the command line, train, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--side", type=int, default=112)
    parser.add_argument("--arch", action="append", choices=ARCHITECTURES)
    options = parser.parse_args()
    names = options.arch or ["resnet18", "densenet121", "efficientnet_b0"]
    print(f"{options.epochs} epochs, as many images of each class, {options.side} px")
    print("| architecture | parameters (million) | validation AUC | validation loss | training (min) | ONNX (ms) |")
    print("|---|---|---|---|---|---|")
    for arch in names:
        row = trained(arch, options.data, options.epochs, options.side)
        print(
            f"| {row.arch} | {row.parameters:.1f} | {row.auc:.4f} | {row.loss:.3f} | {row.minutes:.1f} "
            f"| {row.milliseconds:.0f} |",
            flush=True,
        )


def trained(arch: str, data: Path, epochs: int, side: int) -> Row:
    """Train one architecture and measure it."""
    recipe = dataclasses.replace(
        RECIPES["robust"],
        name="comparison",
        arch=arch,
        stages=((epochs, side),),
        learning_rate=1e-3,
        ema=0.98,
        precision="bfloat16",
    )
    split = split_by_patient(training_samples(data), recipe.validation_fraction, recipe.seed)
    train, validation = Images(split.train, recipe.cache_bytes), Images(split.validation, recipe.cache_bytes, side)
    learner = Learner(recipe, "cpu")
    started = time.monotonic()
    for epoch in range(epochs):
        learner.learn(train, epoch, progress=False)
    minutes = (time.monotonic() - started) / 60
    loss, auc, _ = learner.validate(validation)
    parameters = sum(parameter.numel() for parameter in learner.network.parameters()) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        write_weights(rounded({k: v.contiguous() for k, v in learner.average.state_dict().items()}), Path(folder), arch)
        milliseconds = forward_time(Path(folder) / "model.onnx")
    return Row(arch, parameters, auc, loss, minutes, milliseconds)


def forward_time(path: Path) -> float:
    """Return the CPU milliseconds of one image, the median of five batches of eight."""
    predict = onnx_predictor(path, threads=1)
    batch = np.random.default_rng(0).random((8, 1, 224, 224), dtype=np.float32)
    predict(batch)
    times = []
    for _ in range(5):
        started = time.process_time()
        predict(batch)
        times.append((time.process_time() - started) / len(batch))
    return 1000 * float(np.median(times))


if __name__ == "__main__":
    main()
