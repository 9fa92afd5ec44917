"""The weights of other runs that go into a training run: those that it begins with, that find lungs, that teach it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicom_io.errors import InvalidData
from modeltrain.model.card import SAFETENSORS
from modeltrain.network.architectures import ChestNet, has_lungs
from modeltrain.training.checkpoint import BEST, runs_behind
from modeltrain.training.lung_weights import LUNGS
from modeltrain.training.optimizer import fix

if TYPE_CHECKING:
    from pathlib import Path

    from modeltrain.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Beginnings:
    """Files of weights that go into a run.

    Attributes
    ----------
    start
        Weights of another run to begin with (its `best_model.safetensors`, or a model folder's), instead of the
        recipe's `init`.
    lungs
        Weights that find lungs (`lung_weights`, or a model folder's), for a recipe that looks at them. Without this
        file, those in `start` do.
    teachers
        Weights of runs, of any architecture, whose networks the recipe's `distillation` asks.
    """

    start: Path | None = None
    lungs: Path | None = None
    teachers: tuple[Path, ...] = ()

    @property
    def finds_lungs(self) -> Path | None:
        """The file whose weights find the lungs; None where there is none."""
        return self.lungs or self.start


NONE = Beginnings()


def check_beginnings(recipe: Recipe, beginnings: Beginnings) -> None:
    """Check a recipe against the weights that go into its run, before any image is read.

    Raises
    ------
    InvalidData
        The recipe needs a teacher and there is none, or there are teachers and it takes none; or a teacher's file is
        not of a training run; or the recipe keeps layers fixed that are random or that its architecture does not have;
        or it looks at lungs and no weights find them, or the other way round.
    InvalidModel
        A teacher's folder is no intact model, or a library that an architecture needs is not installed.
    """
    start, teachers = beginnings.start, beginnings.teachers
    if recipe.distillation and not teachers:
        raise InvalidData(f"recipe {recipe.name}: needs a teacher (cxrd retrain --teacher)")
    if teachers and not recipe.distillation:
        raise InvalidData(f"recipe {recipe.name}: takes no teacher (--recipe standardized does)")
    if beginnings.lungs and not recipe.lungs:
        raise InvalidData(f"recipe {recipe.name}: does not look at the lungs (--recipe lungs does)")
    if recipe.lungs and not (beginnings.finds_lungs and has_lungs(beginnings.finds_lungs)):
        raise InvalidData(f"recipe {recipe.name}: needs weights that find lungs (--lungs, from cxrd train-lungs)")
    others = [name for name in recipe.fixed if not name.startswith("lungs.")]
    if others and recipe.init == "random" and not start:
        raise InvalidData(f"recipe {recipe.name}: fixed layers need weights to begin with (--init imagenet)")
    fix(ChestNet(recipe.arch, lungs=recipe.lungs), recipe)
    for path in teachers:
        ChestNet(runs_behind(path)[0].arch)


def weights_in(path: Path) -> Path:
    """Return the file of weights in a run's or a model's folder; a file is returned as it is."""
    if not path.is_dir():
        return path
    return path / next((name for name in (BEST, LUNGS) if (path / name).exists()), SAFETENSORS)
