"""Training of the network that finds lungs, from radiographs and masks that people drew.

A run takes half an hour on two cores, so it is made in one go: `lungs.safetensors` is written at its end.
"""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate
from tqdm import tqdm

from dicom_io.errors import InvalidData
from modeltrain.data.lung_masks import masks_digest, read_pairs, reframed, varied
from modeltrain.data.sources import Sources, folder_source
from modeltrain.network.lungs import Lungs
from modeltrain.training.batches import made_ahead
from modeltrain.training.lineage import code_commit
from modeltrain.training.lung_weights import LUNGS, LungRecord, Overlap, save_lungs
from modeltrain.training.optimizer import follow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from modeltrain.data.lung_masks import Pairs

log = logging.getLogger(__name__)

_SMOOTH = 20.0  # pixels that are added to the Dice loss: an empty mask has one, too
_BELOW = 0.9  # of Dice: images below are counted


@dataclass(frozen=True, slots=True)
class LungRecipe:
    """Every number of a run but for the variations (`data.lung_masks.varied`).

    Attributes
    ----------
    learning_rate
        The highest one: it rises to it over the first fifth and falls to zero along a cosine (Smith 2018).
    average
        Highest decay a step of the moving average of the weights, which is measured and kept.
    seed, validation_fraction
        Divide the patients as `cxrd train` divides them with the same two.
    """

    name: str = "lungs-unet"
    epochs: int = 14
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    average: float = 0.995
    seed: int = 42
    validation_fraction: float = 0.11


def run(
    data: Path, masks: Path, out: Path, recipe: LungRecipe = LungRecipe(), *, credit: str = "", progress: bool = True
) -> LungRecord:
    """Train the network that finds lungs, write `lungs.safetensors` and return its record.

    Parameters
    ----------
    data
        A folder of radiographs as for `training.train.run`; labels only divide the patients.
    masks
        A folder with a PNG of the same name, place and size for each image (`data.lung_masks`). Images without one are
        left out and counted.
    out
        The run's folder, made if absent.
    credit
        Who drew the masks, and under which licence: for the card of a model that is made with these weights.
    progress
        Show progress bars on standard error.

    Raises
    ------
    InvalidData
        A folder's layout or a picture is unusable, no image has a mask, or `out` holds such weights.
    OutOfResources
        The file cannot be written.
    """
    path = out / LUNGS
    if path.exists():
        raise InvalidData(f"{path}: exists already; choose another folder")
    sources = Sources((folder_source(data),))
    split = sources.split(recipe.validation_fraction, recipe.seed)
    pairs, held = (read_pairs(samples, data, masks) for samples in (split.train, split.validation))
    if len(pairs) < recipe.batch_size:
        raise InvalidData(f"{masks}: holds {len(pairs)} masks for training, fewer than a batch of {recipe.batch_size}")
    out.mkdir(parents=True, exist_ok=True)
    learner = _Learner(recipe, len(pairs) // recipe.batch_size)
    for epoch in range(recipe.epochs):
        loss = learner.learn(pairs, epoch, progress=progress)
        log.info("epoch %d: loss %.4f, Dice on validation %.4f", epoch + 1, loss, learner.overlap(held).mean)
    record = LungRecord(
        recipe=recipe.name,
        seed=recipe.seed,
        validation_fraction=recipe.validation_fraction,
        epochs=recipe.epochs,
        data=sources.digest,
        parts=tuple(part.digest for part in sources.parts),
        masks=masks_digest((pairs, held), masks),
        train=len(pairs),
        validation=len(held),
        without_mask=pairs.without_mask + held.without_mask,
        dice=learner.overlap(held),
        dice_reframed=learner.overlap(held, anew=True),
        credit=credit,
        commit=code_commit(),
    )
    save_lungs(path, learner.average.state_dict(), record)
    return record


class _Learner:
    """The network in training, the moving average of its weights, and its optimizer."""

    def __init__(self, recipe: LungRecipe, steps: int) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.steps = recipe, steps
        self.network = Lungs().to(memory_format=torch.channels_last)
        self.average = deepcopy(self.network).eval()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), weight_decay=recipe.weight_decay)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, recipe.learning_rate, total_steps=recipe.epochs * steps, pct_start=0.2
        )
        self._taken = 0

    def learn(self, pairs: Pairs, epoch: int, *, progress: bool) -> float:
        """Go once through the pairs and return the mean loss."""
        self.network.train()
        losses = []
        label = f"epoch {epoch + 1}/{self.recipe.epochs}"
        with tqdm(_batches(pairs, epoch, self.recipe), label, self.steps, disable=not progress, mininterval=2) as bar:
            for images, masks in bar:
                loss = _loss(self.network(images), masks)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                self.schedule.step()
                # Quickly in the beginning, when there is little to average.
                follow(self.average, self.network, min(self.recipe.average, (1 + self._taken) / (10 + self._taken)))
                self._taken += 1
                losses.append(loss.item())
        return float(np.mean(losses))

    def overlap(self, pairs: Pairs, *, anew: bool = False) -> Overlap:
        """Return how well the average agrees with masks, of the images as they are or framed and exposed anew."""
        rng = np.random.default_rng(self.recipe.seed)
        dice = []
        for image, mask in zip(pairs.images, pairs.masks, strict=True):
            grey, drawn = reframed(image, mask, rng) if anew else (image.astype(np.float32) / 255, mask)
            dice.append(dice_of(self.average, grey, drawn))
        return Overlap(round(float(np.mean(dice)), 4), round(min(dice), 4), sum(value < _BELOW for value in dice))


@torch.inference_mode()
def dice_of(network: Lungs, grey: NDArray[np.float32], mask: NDArray[np.uint8]) -> float:
    """Return the Dice coefficient of the lungs that a network finds in an image [H, W], and of a mask [H, W]."""
    logits = network(torch.from_numpy(grey)[None, None])[:, None]
    lungs = interpolate(logits, size=grey.shape, mode="bilinear")[0, 0].numpy() > 0
    return float(2 * (lungs & (mask > 0)).sum() / (lungs.sum() + (mask > 0).sum() + 1e-6))


def _batches(pairs: Pairs, epoch: int, recipe: LungRecipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Return an epoch's varied images float32 [N, 1, 224, 224] and masks [N, 224, 224], from a thread of their own."""
    order = np.random.default_rng([recipe.seed, epoch]).permutation(len(pairs))
    size = recipe.batch_size

    def batch(step: int) -> tuple[Tensor, Tensor]:
        chosen = order[step * size : (step + 1) * size]
        chances = (np.random.default_rng([recipe.seed, epoch, int(index)]) for index in chosen)
        each = [varied(pairs.images[i], pairs.masks[i], rng) for i, rng in zip(chosen, chances, strict=True)]
        images, masks = (torch.from_numpy(np.stack(part)) for part in zip(*each, strict=True))
        return images[:, None], masks

    return made_ahead(batch, len(order) // size)


def _loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the cross-entropy and the Dice loss (Milletari et al. 2016) of logits [N, h, w] and masks [N, 2h, 2w]."""
    target = interpolate(masks[:, None], size=logits.shape[1:], mode="area")[:, 0]
    chance = logits.sigmoid()
    both, sum_of_both = (chance * target).sum((1, 2)), chance.sum((1, 2)) + target.sum((1, 2))
    dice = (2 * both + _SMOOTH) / (sum_of_both + _SMOOTH)
    return binary_cross_entropy_with_logits(logits, target) + (1 - dice).mean()
