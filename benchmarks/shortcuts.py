"""How far does a model's answer follow what is not the lung: how an image was exposed, and what stands at its margins?

    python -m benchmarks.shortcuts --data FOLDER [--model FOLDER]... [--json]

FOLDER is what `cxrd train` takes. Its validation images (by patient; `test` is not opened) are judged three ways:

- as they are;
- with the exposure or the margins of a training image of the other class, half or wholly. Where these speak for a
  class, the AUC falls. Not all of the fall is a shortcut: opacities change an image's grey values too;
- in other windows, as another PACS might show them. The table says how many decisions at the default threshold differ.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks import common
from modeltrain.data.augment import Augmentation, dressed, toned
from modeltrain.data.framing import overlap
from modeltrain.data.samples import Images, split_by_patient, training_samples
from modeltrain.model.card import load_card, shipped_model
from modeltrain.model.decision import Decider
from modeltrain.training.recipe import Recipe
from worker.inference.engine import open_engine
from worker.settings import ModelSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from worker.inference.engine import Engine

    Change = Callable[[NDArray[np.uint8], NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]

_MARGINS = Augmentation(margins=1)


def _margins(image: NDArray[np.uint8], other: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    return dressed(image, other, _MARGINS, rng)


def _window(image: NDArray[np.uint8], low: float = 0.0, high: float = 1.0, gamma: float = 1.0) -> NDArray[np.uint8]:
    shown = ((image / 255 - low) / (high - low)).clip(0, 1) ** gamma
    return np.asarray(np.rint(255 * shown), np.uint8)


CHANGES: dict[str, Change] = {
    "as they are": lambda image, _other, _rng: image,
    "half the tone": lambda image, other, _rng: toned(image, other, 0.5),
    "the whole tone": lambda image, other, _rng: toned(image, other, 1.0),
    "margins": _margins,
    "half the tone and margins": lambda image, other, rng: _margins(toned(image, other, 0.5), other, rng),
    "gamma 0.7": lambda image, _other, _rng: _window(image, gamma=0.7),
    "gamma 1.4": lambda image, _other, _rng: _window(image, gamma=1.4),
    "a wider window": lambda image, _other, _rng: _window(image, -0.2, 1.2),
    "a narrower window": lambda image, _other, _rng: _window(image, 0.1, 0.9),
}


def main() -> None:
    """Read the command line and print one line for each model and change."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, action="append")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    recipe = Recipe()
    split = split_by_patient(training_samples(options.data), recipe.validation_fraction, recipe.seed)
    train, validation = (Images(part, recipe.cache_bytes) for part in (split.train, split.validation))
    weights = overlap(train, validation, recipe.seed)[1]
    labels = np.array([sample.label for sample in validation.samples])
    figures = {}
    for folder in options.model or [shipped_model()]:
        card = load_card(folder)
        engine, decider = open_engine(card, ModelSettings()), Decider(card)
        probabilities = {name: decider.probability(_logits(engine, train, validation, name)) for name in CHANGES}
        before = probabilities["as they are"] >= decider.threshold
        figures[card.version] = {
            name: {
                "auc": float(roc_auc_score(labels, score)),
                "auc_weighted": float(roc_auc_score(labels, score, sample_weight=weights)),
                "other_decisions": int(((score >= decider.threshold) != before).sum()),
            }
            for name, score in probabilities.items()
        }
        if not options.json:
            for name, each in figures[card.version].items():
                print(
                    f"{card.name} {card.version}  {name:26}  AUC {each['auc']:.4f}  "
                    f"with overlap weights {each['auc_weighted']:.4f}  "
                    f"{each['other_decisions']:3} of {len(labels)} decisions differ"
                )
    if options.json:
        print(json.dumps(figures))


def _logits(engine: Engine, train: Images, validation: Images, name: str) -> NDArray[np.float32]:
    """Return the logits of the validation images after a change, float32 [N, 2]."""
    rng = np.random.default_rng(0)  # the same lenders for each model and each change
    classes = [np.flatnonzero([sample.label != label for sample in train.samples]) for label in (0, 1)]
    logits = []
    for i, sample in enumerate(validation.samples):
        other = train[int(rng.choice(classes[sample.label]))]
        image = CHANGES[name](validation[i], other, np.random.default_rng([0, i]))
        logits.append(engine.predict(image.astype(np.float32)[np.newaxis, np.newaxis] / np.float32(255)).logits[0])
    return np.stack(logits)


if __name__ == "__main__":
    common.run(main)
