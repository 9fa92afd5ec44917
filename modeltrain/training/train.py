"""Training: from a folder of labelled radiographs to the best weights on a validation set of other patients.

A run's folder holds

    best_model.safetensors   the weights of the epoch with the highest validation AUC, of those with the largest images
    last.safetensors         all that is needed to go on after the last finished epoch
    tensorboard/             the curves

Both files carry the recipe, the data's digest and the history in their header. Each replaces its predecessor in one
rename: a run that is killed, or finds the disk full, loses the epoch it was in and nothing else. Only the second holds
times: the first has the same bytes each time the same run is made.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch.utils.tensorboard import SummaryWriter

from dicom_io.errors import InvalidData, OutOfResources
from modeltrain.data.framing import overlap
from modeltrain.data.samples import Images
from modeltrain.data.sources import Source, Sources, sources_of
from modeltrain.training.beginnings import NONE, Beginnings, check_beginnings
from modeltrain.training.checkpoint import BEST, LAST, Epoch, Progress, origin_of, read_progress
from modeltrain.training.learner import Learner
from modeltrain.training.lineage import code_commit
from modeltrain.training.lung_weights import checked_record
from modeltrain.training.recipe import Recipe
from modeltrain.training.teachers import Teachers
from modeltrain.training.tensor_file import save_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


log = logging.getLogger(__name__)


def run(
    data: Path | Source | Sources,
    out: Path,
    recipe: Recipe,
    beginnings: Beginnings = NONE,
    *,
    resume: bool = False,
    device: str = "cpu",
    progress: bool = True,
) -> Path:
    """Train a network and return the path of its best weights.

    The same recipe and data give the same split and order, and on one machine's CPU the same weights.

    Parameters
    ----------
    data
        A Kaggle-style folder (`train/{NORMAL,PNEUMONIA}`, `val` joined to it, `test` never opened), or one that holds
        NORMAL/ and PNEUMONIA/ itself; or other sources (modeltrain/data/sources.py).
    out
        The run's folder, made if absent.
    beginnings
        Weights of other runs that go into this one.
    resume
        Go on after the last finished epoch of the run in `out`; a run that is complete is left as it is.
    device
        `cpu`, `cuda` or `auto` (CUDA where there is a GPU).
    progress
        Show progress bars on standard error.

    Raises
    ------
    InvalidData
        The folder's layout or a picture is unusable. `out` holds a run and `resume` is false, or that run had another
        recipe or other data. Weights to begin with are unusable, or have seen what is for validation here. The recipe
        needs a teacher and there is none, or the other way round; or weights that find lungs.
    InvalidModel
        ImageNet weights cannot be loaded, a model folder is not intact, or a library that an architecture needs is not
        installed.
    OutOfResources
        A checkpoint or the curves cannot be written; the run can be resumed after its last finished epoch.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_beginnings(recipe, beginnings)
    sources = sources_of(data)
    split = sources.split(recipe.validation_fraction, recipe.seed)
    digest = sources.digest
    parts = [part.digest for part in sources.parts]
    start, teachers = beginnings.start, beginnings.teachers
    origin = origin_of(start, recipe, [digest, *parts]) if start else []
    taught_by = Teachers(teachers, recipe, [digest, *parts], device) if teachers else None
    segmentation = _segmentation(recipe, beginnings, [digest, *parts])
    origins = taught_by.origins if taught_by else []
    state = Progress(
        _plain(recipe),
        digest,
        parts=parts,
        began_with=origin[0].run if origin else "",
        teachers=[each[0].run for each in origins],
        ancestors=list({each.run: each for each in chain(*origins, origin)}.values()),
        commit=code_commit(),
        segmentation=segmentation,
    )
    train_images = Images(split.train, recipe.cache_bytes)
    validation_images = Images(split.validation, recipe.cache_bytes // 8)
    begins_anew = not start and not (out / LAST).exists()
    learner = Learner(recipe, device, taught_by, init=recipe.init if begins_anew else "random")
    if (out / LAST).exists():
        if not resume:
            raise InvalidData(f"{out}: holds a training run; continue it with --resume, or choose another folder")
        state = _load_last(out / LAST, state, learner)
        log.info("resuming after epoch %d", len(state.history))
    elif start or beginnings.lungs:
        learner.begin(start, beginnings.lungs)
    learner.set_exposure(train_images)
    weights = overlap(train_images, validation_images, recipe.seed) if recipe.overlap else (None, None)
    out.mkdir(parents=True, exist_ok=True)

    with _curves(out / "tensorboard") as board:
        for epoch in range(len(state.history), recipe.epochs):
            # Only epochs with the largest images can be the best, so a run does not stop before them.
            last_stage = bool(state.history) and state.history[-1].side == recipe.stages[-1][1]
            if last_stage and _stalled(state, recipe.patience):
                log.info("stopped: no higher validation AUC for %d epochs", recipe.patience)
                break
            started = time.monotonic()
            train_loss, rate = learner.learn(train_images, epoch, weights=weights[0], progress=progress)
            validation_loss, auc, weighted = learner.validate(validation_images, weights[1])
            seconds = round(time.monotonic() - started, 1)
            line = Epoch(epoch + 1, recipe.side(epoch), rate, train_loss, validation_loss, auc, seconds, weighted)
            state.history.append(line)
            _report(board, line)
            if state.best is line:
                save_tensors(out / BEST, learner.average.state_dict(), {"progress": state.to_json(timed=False)})
            save_tensors(out / LAST, learner.tensors(), {"progress": state.to_json()})
    return out / BEST


def _segmentation(recipe: Recipe, beginnings: Beginnings, parts: Sequence[str]) -> dict[str, Any]:
    """Return the record of the weights that find lungs; empty where the recipe looks for none, or there is none."""
    if not (recipe.lungs and beginnings.finds_lungs):
        return {}
    record = checked_record(beginnings.finds_lungs, (recipe.seed, recipe.validation_fraction), parts)
    return record.to_dict() if record else {}


def _plain(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as it looks after a round trip through JSON (tuples are lists there)."""
    plain: dict[str, Any] = json.loads(json.dumps(recipe.to_dict()))
    return plain


def _stalled(state: Progress, patience: int) -> bool:
    """Whether the validation AUC has not risen for `patience` epochs."""
    return bool(patience and state.history and len(state.history) - state.best.epoch >= patience)


@contextmanager
def _curves(folder: Path) -> Iterator[SummaryWriter]:
    """Yield the writer of the curves. It writes in a thread of its own, whose failure on a full disk comes out here."""
    before = threading.excepthook
    threading.excepthook = lambda failed: None if isinstance(failed.exc_value, OSError) else before(failed)
    try:
        with SummaryWriter(str(folder)) as board:
            yield board
    except OSError as error:
        raise OutOfResources(f"{folder}: cannot be written ({error.strerror})") from error
    finally:
        threading.excepthook = before


def _report(board: SummaryWriter, line: Epoch) -> None:
    """Write one epoch's curves and log line."""
    for name in ("train_loss", "validation_loss", "validation_auc", "learning_rate", "side"):
        board.add_scalar(name, getattr(line, name), line.epoch)
    if line.validation_auc_weighted is not None:
        board.add_scalar("validation_auc_weighted", line.validation_auc_weighted, line.epoch)
    log.info(
        "epoch %d: loss %.4f, validation loss %.4f, AUC %.4f (by overlap weights: %s), %.0f s",
        line.epoch,
        line.train_loss,
        line.validation_loss,
        line.validation_auc,
        "-" if line.validation_auc_weighted is None else f"{line.validation_auc_weighted:.4f}",
        line.seconds,
    )


def _load_last(path: Path, expected: Progress, learner: Learner) -> Progress:
    """Put a run's last state into the learner and return where the run stood."""
    state = read_progress(path)
    if state.recipe != expected.recipe:
        differing = [key for key in expected.recipe if state.recipe.get(key) != expected.recipe[key]]
        raise InvalidData(f"{path}: cannot resume, the recipe differs in {', '.join(differing) or 'its fields'}")
    if state.data_digest != expected.data_digest:
        raise InvalidData(f"{path}: cannot resume, the data differ")
    if expected.began_with not in ("", state.began_with):
        raise InvalidData(f"{path}: cannot resume, the run began with other weights")
    if state.teachers != expected.teachers:
        raise InvalidData(f"{path}: cannot resume, the run had other teachers")
    if state.segmentation != expected.segmentation:
        raise InvalidData(f"{path}: cannot resume, the run had other weights that find lungs")
    learner.restore(load_file(path))
    return state
