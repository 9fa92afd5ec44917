"""Training: from a folder of labelled radiographs to the best weights on a validation set of other patients.

A run's folder holds

    best_model.safetensors   the weights of the epoch with the highest validation AUC
    last.safetensors         all that is needed to go on after the last finished epoch
    tensorboard/             the curves

Both files carry the recipe, the data's digest and the history in their header, and both replace their predecessor in
one rename, so a run that is killed, or finds the disk full, loses the epoch it was in and nothing else. How many
seconds an epoch took stands in the second alone: the first is the same, byte for byte, each time the same run is made.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from torch.nn.functional import cross_entropy, relu
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dicom_io.errors import InvalidData, OutOfResources
from modeltrain.batches import batch_count, batches, order_of
from modeltrain.data import Images
from modeltrain.framing import overlap
from modeltrain.network import ChestNet, build, take_up
from modeltrain.optimizer import fix, learning_rate, optimizer_of
from modeltrain.outputs import probability
from modeltrain.progress import BEST, LAST, Epoch, Progress, origin_of, read_progress, same_run
from modeltrain.recipe import Recipe
from modeltrain.source import Source, Sources, sources_of
from modeltrain.teachers import Teachers, check_taught

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from modeltrain.batches import Batch
    from modeltrain.network import TensorOutputs

log = logging.getLogger(__name__)


def run(
    data: Path | Source | Sources,
    out: Path,
    recipe: Recipe,
    *,
    start: Path | None = None,
    teachers: Sequence[Path] = (),
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
        NORMAL/ and PNEUMONIA/ itself; or other sources (modeltrain/source.py).
    out
        The run's folder, made if absent.
    start
        Weights of another run to begin with (its `best_model.safetensors`), instead of the recipe's `init`.
    teachers
        Weights of runs, of any architecture, whose networks the recipe's `distillation` asks; without them it asks the
        weights that the run begins with.
    resume
        Go on after the last finished epoch of the run in `out`; a run that is complete is left as it is.
    device
        `cpu`, `cuda` or `auto` (CUDA where there is a GPU).
    progress
        Show progress bars on standard error.

    Raises
    ------
    InvalidData
        The folder's layout or a picture is unusable, `out` holds a run and `resume` is false, or the run in it was made
        from another recipe or other data; `start` or a teacher is unusable, or was trained on what is validation here;
        or the recipe asks for distillation and there is nobody to ask, or there are teachers whom it does not ask.
    InvalidModel
        ImageNet weights were asked for and cannot be had; a folder that is begun with or teaches is no intact model; or
        a library that an architecture needs is not installed.
    OutOfResources
        A checkpoint or the curves cannot be written; the run can be resumed after its last finished epoch.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_taught(recipe, start, teachers)
    sources = sources_of(data)
    split = sources.split(recipe.validation_fraction, recipe.seed)
    digest = sources.digest
    parts = [part.digest for part in sources.parts]
    origin = origin_of(start, recipe, [digest, *parts]) if start else None
    asked = Teachers(teachers, recipe, [digest, *parts], device) if teachers else None
    state = Progress(_plain(recipe), digest, start=origin, parts=parts, teachers=asked.told if asked else [])
    train_images = Images(split.train, recipe.cache_bytes)
    validation_images = Images(split.validation, recipe.cache_bytes // 8)
    begins_anew = not start and not (out / LAST).exists()
    learner = Learner(recipe, device, asked, init=recipe.init if begins_anew else "random")
    if (out / LAST).exists():
        if not resume:
            raise InvalidData(f"{out}: holds a training run already; resume it or choose another folder")
        state = _load_last(out / LAST, state, learner)
        log.info("resuming after epoch %d", len(state.history))
    elif start:
        learner.begin(start)
    weights = overlap(train_images, validation_images, recipe.seed) if recipe.overlap else (None, None)
    out.mkdir(parents=True, exist_ok=True)
    # Minutes of work, so only where an epoch is left to learn.
    if recipe.distillation and start and recipe.taught_by == "start" and len(state.history) < recipe.epochs:
        learner.be_taught(start, train_images)

    with _curves(out / "tensorboard") as board:
        for epoch in range(len(state.history), recipe.epochs):
            if _stalled(state, recipe.patience):
                log.info("no higher validation AUC for %d epochs: stopped", recipe.patience)
                break
            started = time.monotonic()
            train_loss, rate = learner.learn(train_images, epoch, weights=weights[0], progress=progress)
            validation_loss, auc, alike = learner.validate(validation_images, weights[1])
            seconds = round(time.monotonic() - started, 1)
            line = Epoch(epoch + 1, recipe.side(epoch), rate, train_loss, validation_loss, auc, seconds, alike)
            state.history.append(line)
            _report(board, line)
            if state.best is line:
                _save(out / BEST, dict(learner.average.state_dict()), state.to_json(timed=False))
            _save(out / LAST, learner.tensors(), state.to_json())
    return out / BEST


class Learner:
    """A network in training, the moving average of its weights, and its optimizer."""

    def __init__(
        self, recipe: Recipe, device: str, teachers: Teachers | None = None, *, init: str | None = None
    ) -> None:
        self.recipe = recipe
        self.device = device
        self.network = _placed(build(init or recipe.init, recipe.seed, recipe.arch), device)
        self.network.mix.probability = recipe.mix_style
        fix(self.network, recipe)
        self.average = _placed(ChestNet(recipe.arch, mirror=recipe.mirror), device)
        self.average.load_state_dict(self.network.state_dict())
        self.optimizer = optimizer_of(self.network, recipe)
        self.weights = torch.tensor([recipe.weight_normal, 1.0], device=device)
        self.teachers = teachers
        self.taught: Tensor | None = None  # else what the weights that the run began with say of each training image

    def begin(self, start: Path) -> None:
        """Take up another run's weights, in the network and in its average."""
        take_up(self.network, start)
        self.average.load_state_dict(self.network.state_dict())

    @torch.inference_mode()
    def be_taught(self, start: Path, images: Images) -> None:
        """Ask other weights for the probability of each class on each image as it is and mirrored, [N, 2]."""
        teacher = _placed(ChestNet(self.recipe.arch, mirror=True), self.device)
        take_up(teacher, start)
        logits = [self._asked(teacher.eval(), images, start) for start in range(0, len(images), self.recipe.batch_size)]
        self.taught = torch.cat(logits).softmax(dim=1)

    def _asked(self, network: ChestNet, images: Images, start: int) -> Tensor:
        """Return the logits of a batch of images as they are, from the `start`-th on."""
        stack = np.stack([images[i] for i in range(start, min(start + self.recipe.batch_size, len(images)))])
        batch = torch.from_numpy(stack).unsqueeze(1).to(self.device, torch.float32) / 255
        outputs: TensorOutputs = network(batch.contiguous(memory_format=torch.channels_last))
        return outputs.logits

    def learn(
        self, images: Images, epoch: int, *, weights: NDArray[np.float64] | None = None, progress: bool
    ) -> tuple[float, float]:
        """Go once through the images; return the mean loss and the last learning rate."""
        recipe, losses, rate = self.recipe, [], 0.0
        order = order_of(images.samples, recipe, epoch, weights)
        count = batch_count(len(order), recipe.batch_size)
        label = f"epoch {epoch + 1}/{recipe.epochs} at {recipe.side(epoch)} px"
        self.network.train()
        torch.manual_seed(recipe.seed + epoch)  # what the network itself draws, after a resume too
        with tqdm(batches(images, order, recipe, epoch), label, count, disable=not progress, mininterval=2) as bar:
            for step, batch in enumerate(bar):
                rate = learning_rate(recipe, (epoch + step / count) / recipe.epochs)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                loss = self._loss(batch)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                self._follow()
                losses.append(loss.item())
                bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", refresh=False)
        return float(np.mean(losses)), rate

    def _loss(self, batch: Batch) -> Tensor:
        """Return the loss of one batch: the classes, the place of the evidence, and the agent where it is known."""
        recipe = self.recipe
        lower = recipe.precision == "bfloat16"
        with torch.autocast(self.device, torch.bfloat16, enabled=lower):
            outputs = self.network(batch.images.to(self.device, memory_format=torch.channels_last))
        outputs = type(outputs)(*(each.float() for each in outputs))
        labels, agents = batch.labels.to(self.device), batch.agents
        loss = cross_entropy(outputs.logits, labels, self.weights, label_smoothing=recipe.label_smoothing)
        target = self._target(batch)
        if target is not None:
            taught = cross_entropy(outputs.logits, target, self.weights)
            loss = (1 - recipe.distillation) * loss + recipe.distillation * taught
        if recipe.border_weight:
            loss = loss + recipe.border_weight * _border_share(outputs.cam)
        known = agents >= 0
        if recipe.subtype_weight and known.any():
            subtype = cross_entropy(outputs.subtype[known.to(self.device)], agents[known].to(self.device))
            loss = loss + recipe.subtype_weight * subtype
        return loss

    def _target(self, batch: Batch) -> Tensor | None:
        """Return what teachers say of each image of a batch, [N, 2]; None where nobody is asked."""
        if self.teachers:
            return self.teachers.probability(batch.images)
        return None if self.taught is None else self.taught[batch.indices.to(self.device)]

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the averaged weights and norm statistics towards the network's; without an average, copy them."""
        decay = self.recipe.ema
        for kept, new in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
            if decay and kept.is_floating_point():
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)

    @torch.inference_mode()
    def validate(self, images: Images, weights: NDArray[np.float64] | None = None) -> tuple[float, float, float | None]:
        """Return the averaged network's class-weighted cross-entropy and AUC, at the side the model serves with.

        The third is the AUC under `weights`, float64 [N], where there are any.
        """
        self.average.eval()
        size = self.recipe.batch_size
        scores = torch.cat([self._asked(self.average, images, start) for start in range(0, len(images), size)])
        labels = torch.tensor([sample.label for sample in images.samples])
        loss = cross_entropy(scores, labels.to(self.device), self.weights).item()
        said = probability(scores.cpu().numpy())
        alike = None if weights is None else float(roc_auc_score(labels.numpy(), said, sample_weight=weights))
        return loss, float(roc_auc_score(labels.numpy(), said)), alike

    def tensors(self) -> dict[str, Tensor]:
        """Return everything a resumed run needs, by name."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `tensors` returned."""
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimizer": {}}
        for key, value in tensors.items():
            part, name = key.split(".", 1)
            parts[part][name] = value
        self.network.load_state_dict(parts["network"])
        self.average.load_state_dict(parts["average"])
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in parts["optimizer"].items():
            index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _placed(network: ChestNet, device: str) -> ChestNet:
    """Move a network to its device; channels last is a quarter faster on a CPU and what a GPU wants."""
    return network.to(device).to(memory_format=torch.channels_last)


def _plain(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as it looks after a round trip through JSON (tuples are lists there)."""
    plain: dict[str, Any] = json.loads(json.dumps(recipe.to_dict()))
    return plain


def _completed(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe of an earlier version of cxrd with the defaults of what it did not know, which change nothing."""
    plain = _plain(Recipe())
    return plain | recipe | {"augmentation": plain["augmentation"] | recipe["augmentation"]}


def _border_share(cam: Tensor) -> Tensor:
    """Return the mean share of the positive mass of maps [N, C, h, w] that lies in the outer tenth of the image."""
    inside = torch.ones(())
    for cells in cam.shape[2:]:
        edges = torch.linspace(0, 1, cells + 1)
        inner = edges.clamp(0.1, 0.9)
        part = (inner[1:] - inner[:-1]) * cells
        inside = inside[..., None] * part
    positive = relu(cam)
    mass = positive.sum(dim=(2, 3)) + 1e-4
    return ((positive * (1 - inside).to(cam.device)).sum(dim=(2, 3)) / mass).mean()


def _stalled(state: Progress, patience: int) -> bool:
    """Whether the validation AUC has not risen for `patience` epochs."""
    return bool(patience and state.history and len(state.history) - state.best.epoch >= patience)


@contextmanager
def _curves(folder: Path) -> Iterator[SummaryWriter]:
    """Yield the writer of the curves. It writes in a thread of its own, whose failure on a full disk comes out here."""
    told = threading.excepthook
    threading.excepthook = lambda failed: None if isinstance(failed.exc_value, OSError) else told(failed)
    try:
        with SummaryWriter(str(folder)) as board:
            yield board
    except OSError as error:
        raise OutOfResources(f"{folder}: cannot be written ({error.strerror})") from error
    finally:
        threading.excepthook = told


def _report(board: SummaryWriter, line: Epoch) -> None:
    """Write one epoch's curves and log line."""
    for name in ("train_loss", "validation_loss", "validation_auc", "learning_rate", "side"):
        board.add_scalar(name, getattr(line, name), line.epoch)
    if line.validation_auc_alike is not None:
        board.add_scalar("validation_auc_alike", line.validation_auc_alike, line.epoch)
    log.info(
        "epoch %d: loss %.4f, validation loss %.4f, AUC %.4f (framed alike: %s), %.0f s",
        line.epoch,
        line.train_loss,
        line.validation_loss,
        line.validation_auc,
        "-" if line.validation_auc_alike is None else f"{line.validation_auc_alike:.4f}",
        line.seconds,
    )


def _load_last(path: Path, wanted: Progress, learner: Learner) -> Progress:
    """Put a run's last state into the learner and return where the run stood."""
    found = read_progress(path)
    found.recipe = _completed(found.recipe)
    if found.recipe != wanted.recipe:
        differing = [key for key in wanted.recipe if found.recipe.get(key) != wanted.recipe[key]]
        raise InvalidData(f"{path}: was made with another recipe (differs in {', '.join(differing) or 'its fields'})")
    if found.data_digest != wanted.data_digest:
        raise InvalidData(f"{path}: was made from other data")
    if wanted.start and not (found.start and same_run(found.start, wanted.start)):
        raise InvalidData(f"{path}: did not begin with these weights")
    pairs = list(zip(found.teachers, wanted.teachers, strict=False))
    if len(found.teachers) != len(wanted.teachers) or not all(same_run(*pair) for pair in pairs):
        raise InvalidData(f"{path}: had other teachers")
    learner.restore(load_file(path))
    return found


def _save(path: Path, tensors: dict[str, Tensor], progress: str) -> None:
    """Write tensors and the run's progress in one file, complete or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, temporary, {"progress": progress})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise OutOfResources(f"{path}: cannot be written ({error})") from error
