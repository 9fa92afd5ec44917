"""A training recipe: every number that decides what a training run does, and the presets that come with cxrd."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from dicom_io.errors import InvalidData
from modeltrain.data.augment import Augmentation


@dataclass(frozen=True, slots=True)
class Recipe:
    """A training run, but for its data. The defaults are the seed recipe.

    Attributes
    ----------
    stages
        (epochs, image side in pixels), one after the other. Validation is always at the side the model serves with.
    init
        `random`, or `imagenet` for published weights.
    fixed
        Beginnings of the names of parameters that stay as they begin (their norms' statistics follow the images all the
        same): early layers see edges anywhere, and cost the most.
    schedule
        `constant`, or `onecycle`: a cosine up to `learning_rate` over the first fifth and down to zero (Smith 2018).
    balanced
        Show as many images of each class in an epoch: all of the smaller one, and as many, drawn anew each epoch, of
        the larger.
    overlap
        Part of the images of each class that are drawn by overlap weights (`data.framing`), with replacement, so
        that their framing does not tell their class; needs `balanced`. The best epoch, of those with the largest
        images, is then the one with the highest validation AUC under these weights.
    weight_normal
        Weight of a NORMAL image in the loss, against 1 for PNEUMONIA, of which the data set holds three times as many.
    border_weight
        Weight of a second loss: the share of each class's positive Grad-CAM mass that lies in the outer tenth of the
        image, where no lung is (an attention prior, after Ross et al. 2017, "Right for the right reasons").
    subtype_weight
        Weight of a third loss: telling bacterial from viral pneumonia, on images whose agent is known.
    mix_style
        Probability, in each step and at each of two depths, that the feature maps of the batch's images swap a part of
        their channels' mean and spread (MixStyle, Zhou et al. 2021): exposure, contrast and grain then tell less of the
        class than lungs do. ResNets only.
    distillation
        Part of each training image's target that is what other networks say of it, and not its label: a doubtful label
        weighs less.
    taught_by
        Who says it: the weights that the run begins with (`start`), of each image as it is (born-again networks,
        Furlanello et al. 2018), or `teachers`, of each image as it is varied (Beyer et al. 2022).
    hint_weight
        Weight of another loss, with `teachers`: how much of what the first of them sees at each place of an image
        cannot be told from what the network itself sees there (modeltrain/training/hints.py).
    unlabelled
        Images without a label, where there are such, that are shown beside each one with a label, with `teachers`: what
        these say of them, and see in them, is all that is learnt, and it counts as much for each of them.
    standardize
        Show the network every image at one exposure, the training images' mean (`network.exposure`). Weights
        that have been trained so keep theirs, whatever the recipe says.
    mirror
        Answer with the mean of what the network says of the image and of its mirror image. It is validated so, and
        the exported model does so too, at twice the computation.
    ema
        Decay a step of the exponential moving average of the weights that is validated and kept; 0 keeps the weights
        themselves.
    precision
        `float32`, or `bfloat16`, in which convolutions run at twice the speed on processors that have it (the weights
        stay float32; the same processor still makes the same weights).
    patience
        Epochs without a higher validation AUC after which training stops; 0 never stops early.
    validation_fraction
        Part of the training folder's images that is set aside for validation, whole patients at a time.
    sensitivity
        The operating point: the highest threshold that keeps at least this sensitivity on the validation set.
    cache_bytes
        Decoded training images kept in memory, at most; the rest is read from disk in each epoch.
    """

    name: str = "seed"
    arch: str = "resnet18"
    init: Literal["random", "imagenet"] = "random"
    fixed: tuple[str, ...] = ()
    stages: tuple[tuple[int, int], ...] = ((25, 224),)
    batch_size: int = 32
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    schedule: Literal["constant", "onecycle"] = "constant"
    balanced: bool = False
    overlap: float = 0.0
    weight_normal: float = 3.0
    label_smoothing: float = 0.0
    border_weight: float = 0.0
    subtype_weight: float = 0.0
    mix_style: float = 0.0
    distillation: float = 0.0
    taught_by: Literal["start", "teachers"] = "start"
    hint_weight: float = 0.0
    unlabelled: float = 0.0
    standardize: bool = False
    mirror: bool = False
    ema: float = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    patience: int = 5
    seed: int = 42
    validation_fraction: float = 0.11
    sensitivity: float = 0.99
    cache_bytes: int = 2_000_000_000
    augmentation: Augmentation = field(default_factory=Augmentation)

    @property
    def epochs(self) -> int:
        """Epochs of all stages."""
        return sum(epochs for epochs, _ in self.stages)

    def side(self, epoch: int) -> int:
        """Return the image side of an epoch (counted from 0) in pixels."""
        sides = [side for epochs, side in self.stages for _ in range(epochs)]
        return sides[epoch]

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain values for JSON."""
        return dataclasses.asdict(self)


# Against the shortcut of modeltrain/data/framing.py, to go on from other weights: half of the images are drawn so that
# framing tells nothing, and each is framed anew (width, height, closeness, contrast, black sides), far beyond what
# the classes differ by.
_ROBUST = Recipe(
    name="robust",
    stages=((11, 224),),
    batch_size=16,
    optimizer="adamw",
    learning_rate=4e-4,
    weight_decay=0.05,
    schedule="onecycle",
    balanced=True,
    overlap=0.5,
    weight_normal=1.0,
    label_smoothing=0.05,
    border_weight=0.1,
    subtype_weight=0.1,
    ema=0.997,
    precision="bfloat16",
    patience=0,
    augmentation=Augmentation(
        rotation=8.0,
        scale=0.1,
        shift=0.06,
        brightness=0.15,
        contrast=0.3,
        gamma=0.3,
        aspect=0.3,
        crop=0.3,
        frame=0.25,
        resample=0.15,
        blur=0.1,
        noise=0.15,
        jpeg=0.1,
    ),
)

# For what goes on from `robust`: a radiograph is to be answered alike however it came to its 224 pixels.
_RESAMPLED = dataclasses.replace(_ROBUST.augmentation, resample=0.35, blur=0.2, noise=0.2, jpeg=0.2)

# From weights that have been through `robust`: exposure and what stands in an image's corners tell less, too
# (docs/training.md#what-else-tells-the-class).
_INVARIANT = dataclasses.replace(
    _ROBUST,
    name="invariant",
    stages=((14, 160), (26, 224)),
    batch_size=32,
    learning_rate=8e-4,
    overlap=0.6,
    mirror=True,
    augmentation=dataclasses.replace(_RESAMPLED, tone=0.6, margins=0.6),
)
# More images in another one's dress: about as many as in the second of the two runs that made 1.5.0.
_DRESSED = dataclasses.replace(_RESAMPLED, tone=0.8, margins=0.7)

RECIPES = {
    "seed": Recipe(),
    # For random weights, where an epoch is worth more than a pixel: the first ones run at little more than half the
    # side, in a third of the time. The last ones run at the side the model serves with: after 128 px alone, the
    # validation AUC at 224 px stays at 0.91.
    "scratch": Recipe(
        name="scratch",
        stages=((5, 128), (1, 160), (2, 192), (3, 224)),
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.05,
        schedule="onecycle",
        label_smoothing=0.05,
        ema=0.99,
        patience=0,
        augmentation=Augmentation(
            rotation=12.0,
            scale=0.12,
            shift=0.06,
            brightness=0.1,
            contrast=0.2,
            gamma=0.3,
            resample=0.3,
            blur=0.2,
            noise=0.3,
            jpeg=0.2,
        ),
    ),
    # To go on from weights that know their subject: balanced, so that an epoch costs half as much, and with the
    # evidence kept off the image's border. Variations are milder than from random weights: they slow a short run.
    "refine": Recipe(
        name="refine",
        stages=((3, 160), (4, 192), (7, 224)),
        batch_size=16,
        optimizer="adamw",
        learning_rate=5e-4,
        weight_decay=0.05,
        schedule="onecycle",
        balanced=True,
        weight_normal=1.0,
        label_smoothing=0.05,
        border_weight=0.1,
        subtype_weight=0.2,
        ema=0.995,
        patience=0,
        augmentation=Augmentation(
            rotation=8.0,
            scale=0.1,
            shift=0.05,
            brightness=0.1,
            contrast=0.2,
            gamma=0.2,
            crop=0.15,
            frame=0.15,
            resample=0.1,
            blur=0.1,
            noise=0.1,
            jpeg=0.1,
        ),
    ),
    "robust": _ROBUST,
    # From weights that have been through `robust`: doubtful labels weigh less, styles are mixed, and the answer is the
    # mean of the image's and its mirror image's. On the public images it was no better (docs/decisions.md).
    "taught": dataclasses.replace(
        _ROBUST,
        name="taught",
        stages=((10, 160), (18, 224)),
        batch_size=32,
        learning_rate=8e-4,
        overlap=0.65,
        mix_style=0.5,
        distillation=0.4,
        mirror=True,
        augmentation=_RESAMPLED,
    ),
    "invariant": _INVARIANT,
    # To teach, not to serve: ImageNet's weights see more in few radiographs than random ones do.
    "teacher": dataclasses.replace(
        _INVARIANT,
        name="teacher",
        arch="efficientnet_lite0",
        init="imagenet",
        fixed=("net.conv_stem.", "net.bn1.", "net.blocks.0.", "net.blocks.1."),
        stages=((9, 160), (5, 224)),
        ema=0.99,
        augmentation=_DRESSED,
    ),
    # From weights that have been through `invariant`, with a run of `teacher` or another that teaches.
    "distilled": dataclasses.replace(
        _INVARIANT,
        name="distilled",
        stages=((30, 160), (16, 224)),
        distillation=0.7,
        taught_by="teachers",
        hint_weight=1.0,
        unlabelled=0.5,
        augmentation=_DRESSED,
    ),
    # From weights that have been through `distilled`, which teach it themselves, of images in whose exposure they see a
    # sign: what the pupil cannot see it learns as the mean over all exposures.
    "standardized": dataclasses.replace(
        _INVARIANT,
        name="standardized",
        stages=((34, 224),),
        learning_rate=6e-4,
        distillation=0.5,
        taught_by="teachers",
        standardize=True,
        augmentation=_DRESSED,
    ),
}


def recipe_named(name: str, *, init: str | None = None, epochs: int | None = None, seed: int | None = None) -> Recipe:
    """Return a preset, with the few things changed that the command line offers.

    `epochs` replaces the stages by that many epochs at the last stage's side.

    Raises
    ------
    InvalidData
        There is no preset of this name, or a value is out of range.
    """
    if name not in RECIPES:
        raise InvalidData(f"no recipe {name!r}: choose one of {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    if init is not None:
        if init not in ("random", "imagenet"):
            raise InvalidData(f"init {init!r}: choose random or imagenet")
        recipe = dataclasses.replace(recipe, init=init)  # type: ignore[arg-type]  # checked above
    if epochs is not None:
        if epochs < 1:
            raise InvalidData(f"epochs must be 1 or more, not {epochs}")
        recipe = dataclasses.replace(recipe, stages=((epochs, recipe.stages[-1][1]),))
    return recipe if seed is None else dataclasses.replace(recipe, seed=seed)
