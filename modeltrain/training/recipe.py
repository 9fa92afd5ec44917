"""A training recipe: every number of a training run. Four come with cxrd."""

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
        Beginnings of the names of parameters that are not trained. The running statistics of their norms follow the
        images all the same.
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
    distillation
        Part of each training image's target that is the teachers' mean probability of that very picture, as it is
        varied, and not its label (Beyer et al. 2022). 0 has no teachers.
    standardize
        Bring every image to one exposure, the training images' mean (`network.exposure`). Weights that have an exposure
        keep it, whatever the recipe says.
    lungs
        Look at the lungs alone (`network.lung_crop`); needs weights that find them.
    opacities
        Weight of a loss of opacities that are drawn into normal lungs: each is a pneumonia, and the change of the map
        must lie where it was drawn (after Ross et al. 2017, "Right for the right reasons"). Needs `lungs`.
    blending
        Weight of a loss of pictures that are blended from two: each place must say what it said in the picture that it
        comes from, so that a place speaks for itself (after CutMix, Yun et al. 2019, and Puzzle-CAM, Jo and Yu 2021).
        Needs `lungs`.
    clip
        Largest norm of a step's gradient, to which longer ones are shortened; 0 leaves them as they are.
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
    distillation: float = 0.0
    standardize: bool = False
    lungs: bool = False
    opacities: float = 0.0
    blending: float = 0.0
    clip: float = 0.0
    ema: float = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    patience: int = 5
    seed: int = 42
    validation_fraction: float = 0.11
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
    # Far beyond what the classes differ by: every image is framed anew.
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

_STANDARDIZED = dataclasses.replace(
    _ROBUST,
    name="standardized",
    stages=((34, 224),),
    batch_size=32,
    learning_rate=6e-4,
    overlap=0.6,
    distillation=0.5,
    standardize=True,
    # Most images take grey values and margins from another image, whichever class that one has.
    augmentation=dataclasses.replace(
        _ROBUST.augmentation, resample=0.35, blur=0.2, noise=0.2, jpeg=0.2, tone=0.8, margins=0.7
    ),
)

RECIPES = {
    # The first project's, and the one for random weights.
    "seed": Recipe(),
    # For local images: goes on from the weights of a model, and keeps framing from telling the class.
    "robust": _ROBUST,
    # For networks of the whole image: goes on from a model's weights, sees every image at one exposure, has a teacher.
    "standardized": _STANDARDIZED,
    # The shipped model's: looks at the lungs alone, and is told where drawn opacities are.
    "lungs": dataclasses.replace(
        _ROBUST,
        name="lungs",
        stages=((11, 224),),
        learning_rate=2e-4,
        overlap=0.0,
        border_weight=0.0,
        clip=1.0,
        ema=0.99,
        precision="float32",
        fixed=("lungs.",),
        lungs=True,
        opacities=0.15,
        blending=0.05,
        # Framing and exposure are out of its sight: strong variations of both only slowed it down.
        augmentation=dataclasses.replace(
            _ROBUST.augmentation,
            scale=0.08,
            shift=0.04,
            brightness=0.1,
            contrast=0.2,
            gamma=0.2,
            aspect=0.1,
            crop=0.0,
            frame=0.1,
            noise=0.1,
            tone=0.25,
            margins=0.1,
        ),
    ),
    # For a network that teaches and does not serve: ImageNet's weights see more in few radiographs than random ones.
    "teacher": dataclasses.replace(
        _STANDARDIZED,
        name="teacher",
        arch="efficientnet_lite0",
        init="imagenet",
        fixed=("net.conv_stem.", "net.bn1.", "net.blocks.0.", "net.blocks.1."),
        stages=((9, 160), (5, 224)),
        learning_rate=8e-4,
        distillation=0.0,
        standardize=False,
        ema=0.99,
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
