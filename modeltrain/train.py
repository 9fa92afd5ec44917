"""Training: from a folder of labelled radiographs to the best weights on a validation set of other patients.

A run's folder holds

    best_model.safetensors   the weights of the epoch with the lowest validation loss
    last.safetensors         all that is needed to go on after the last finished epoch
    tensorboard/             the curves

Both files carry the recipe, the data's digest and the history in their header, and both replace their predecessor in one
rename, so a run that is killed loses the epoch it was in and nothing else.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torch.nn.functional import cross_entropy
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dicom_io.errors import InvalidData, OutOfResources
from modeltrain.augment import augment
from modeltrain.data import Images, data_digest, split_by_patient, training_samples
from modeltrain.network import ChestNet, build
from modeltrain.outputs import probability
from modeltrain.preprocess import INPUT_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from modeltrain.recipe import Recipe

BEST, LAST = "best_model.safetensors", "last.safetensors"
_LOOKAHEAD = 4  # batches made in advance by the augmenting thread
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of a run's history; losses are weighted by class, times are seconds."""

    epoch: int
    side: int
    learning_rate: float
    train_loss: float
    validation_loss: float
    validation_auc: float
    seconds: float


@dataclass(slots=True)
class Progress:
    """Where a run stands; travels in the header of both files."""

    recipe: dict[str, Any]
    data_digest: str
    history: list[Epoch] = field(default_factory=list)

    @property
    def best(self) -> Epoch:
        """The epoch with the lowest validation loss."""
        return min(self.history, key=lambda epoch: epoch.validation_loss)

    def to_json(self) -> str:
        """Return the header's text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Progress:
        """Read the header's text."""
        raw = json.loads(text)
        return cls(raw["recipe"], raw["data_digest"], [Epoch(**line) for line in raw["history"]])


def run(
    data: Path, out: Path, recipe: Recipe, *, resume: bool = False, device: str = "cpu", progress: bool = True
) -> Path:
    """Train a network and return the path of its best weights.

    The same recipe and data give the same split and order, and on one machine's CPU the same weights.

    Parameters
    ----------
    data
        A Kaggle-style folder (`train/{NORMAL,PNEUMONIA}`, `val` joined to it, `test` never opened), or one that holds
        NORMAL/ and PNEUMONIA/ itself.
    out
        The run's folder, made if absent.
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
        from another recipe or other data.
    InvalidModel
        ImageNet weights were asked for and cannot be had.
    OutOfResources
        A checkpoint cannot be written.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    split = split_by_patient(training_samples(data), recipe.validation_fraction, recipe.seed)
    state = Progress(_plain(recipe), data_digest(split.train + split.validation, data))
    train_images = Images(split.train, recipe.cache_bytes)
    validation_images = Images(split.validation, recipe.cache_bytes // 8)
    out.mkdir(parents=True, exist_ok=True)

    # Channels last is a quarter faster on a CPU and what a GPU wants.
    network = build(recipe.init, recipe.seed).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = ChestNet().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average.load_state_dict(network.state_dict())
    optimizer = _optimizer(network, recipe)
    weights = torch.tensor([recipe.weight_normal, 1.0], device=device)
    if (out / LAST).exists():
        if not resume:
            raise InvalidData(f"{out}: holds a training run already; resume it or choose another folder")
        state = _load_last(out / LAST, state, network, average, optimizer)
        log.info("resuming after epoch %d", len(state.history))

    steps = math.ceil(max(1, len(train_images) // recipe.batch_size))
    with SummaryWriter(str(out / "tensorboard")) as board:
        for epoch in range(len(state.history), recipe.epochs):
            if _stalled(state, recipe.patience):
                log.info("no lower validation loss for %d epochs: stopped", recipe.patience)
                break
            started, side, losses = time.monotonic(), recipe.side(epoch), []
            network.train()
            bar = tqdm(
                _batches(train_images, recipe, epoch, side),
                total=steps, desc=f"epoch {epoch + 1}/{recipe.epochs} at {side} px", disable=not progress, mininterval=2,
            )  # fmt: skip
            for step, (images, labels) in enumerate(bar):
                rate = _learning_rate(recipe, (epoch * steps + step) / (recipe.epochs * steps))
                for group in optimizer.param_groups:
                    group["lr"] = rate
                logits = network(images.to(device, memory_format=torch.channels_last)).logits
                loss = cross_entropy(logits, labels.to(device), weights, label_smoothing=recipe.label_smoothing)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                _follow(average, network, recipe.ema)
                losses.append(loss.item())
                bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", refresh=False)
            bar.close()
            validation_loss, auc = _validate(average, validation_images, recipe, device)
            line = Epoch(
                epoch + 1, side, rate, float(np.mean(losses)), validation_loss, auc, round(time.monotonic() - started, 1)
            )
            state.history.append(line)
            _plot(board, line)
            log.info(
                "epoch %d: loss %.4f, validation loss %.4f, AUC %.4f, %.0f s",
                line.epoch, line.train_loss, validation_loss, auc, line.seconds,
            )  # fmt: skip
            if state.best is line:
                _save(out / BEST, dict(average.state_dict()), state)
            _save(out / LAST, _last_tensors(network, average, optimizer), state)
    return out / BEST


def read_progress(path: Path) -> Progress:
    """Read what a run's file says about the run.

    Raises
    ------
    InvalidData
        The file is missing, damaged or not written by a training run.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return Progress.from_json(file.metadata()["progress"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InvalidData(f"{path}: not a file of a training run ({error})") from error


def _plain(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as it looks after a round trip through JSON (tuples are lists there)."""
    plain: dict[str, Any] = json.loads(json.dumps(recipe.to_dict()))
    return plain


def _optimizer(network: ChestNet, recipe: Recipe) -> torch.optim.Optimizer:
    """Adam as the seed has it, or AdamW, which leaves norms and biases undecayed."""
    if recipe.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)


def _learning_rate(recipe: Recipe, done: float) -> float:
    """Return the learning rate after a part (0 to 1) of the run's steps."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    rise = 0.2
    level = 0.5 - 0.5 * math.cos(math.pi * (done / rise if done < rise else (1 - done) / (1 - rise)))
    return recipe.learning_rate * max(level, 1 / 50 if done < rise else 1e-3)


def _batches(images: Images, recipe: Recipe, epoch: int, side: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield an epoch's augmented batches, made in one thread of their own while the network works (OpenCV lets go of
    the interpreter). Each image's chance depends on seed, epoch and index alone, so a resumed run sees the same images.
    """
    order = np.random.default_rng([recipe.seed, epoch]).permutation(len(images))
    # An incomplete last batch is left out: batch normalisation needs company.
    count = max(1, len(images) // recipe.batch_size)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        chosen = order[number * recipe.batch_size : (number + 1) * recipe.batch_size]
        varied = [
            augment(images[int(i)], side, recipe.augmentation, np.random.default_rng([recipe.seed, epoch, int(i)]))
            for i in chosen
        ]
        return torch.from_numpy(np.stack(varied)), torch.tensor([images.samples[int(i)].label for i in chosen])

    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(batch, number) for number in range(min(_LOOKAHEAD, count)))
        for number in range(_LOOKAHEAD, count + _LOOKAHEAD):
            yield waiting.popleft().result()
            if number < count:
                waiting.append(pool.submit(batch, number))


@torch.no_grad()
def _follow(average: ChestNet, network: ChestNet, decay: float) -> None:
    """Move the averaged weights and norm statistics towards the network's; decay 0 copies them."""
    for kept, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if decay and kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


@torch.inference_mode()
def _validate(network: ChestNet, images: Images, recipe: Recipe, device: str) -> tuple[float, float]:
    """Return the class-weighted cross-entropy and the AUC on the validation images, at the serving side."""
    network.eval()
    logits = []
    for start in range(0, len(images), recipe.batch_size):
        stack = [images[i] for i in range(start, min(start + recipe.batch_size, len(images)))]
        batch = torch.from_numpy(np.stack(stack)).unsqueeze(1).to(device).float() / 255
        logits.append(network(batch.contiguous(memory_format=torch.channels_last)).logits.float().cpu())
    labels = torch.tensor([sample.label for sample in images.samples])
    scores = torch.cat(logits)
    loss = cross_entropy(scores, labels, torch.tensor([recipe.weight_normal, 1.0])).item()
    return loss, float(roc_auc_score(labels.numpy(), probability(scores.numpy())))


def _stalled(state: Progress, patience: int) -> bool:
    """Whether the validation loss has not fallen for `patience` epochs."""
    return bool(patience and state.history and len(state.history) - state.best.epoch >= patience)


def _plot(board: SummaryWriter, line: Epoch) -> None:
    """Write one epoch's curves."""
    for name in ("train_loss", "validation_loss", "validation_auc", "learning_rate", "side"):
        board.add_scalar(name, getattr(line, name), line.epoch)  # type: ignore[no-untyped-call]


def _last_tensors(network: ChestNet, average: ChestNet, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return everything a resumed run needs, by name."""
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    return tensors


def _load_last(
    path: Path, wanted: Progress, network: ChestNet, average: ChestNet, optimizer: torch.optim.Optimizer
) -> Progress:
    """Put a run's last state into the networks and the optimizer, and return where it stood."""
    found = read_progress(path)
    if found.recipe != wanted.recipe:
        differing = [key for key in wanted.recipe if found.recipe.get(key) != wanted.recipe[key]]
        raise InvalidData(f"{path}: was made with another recipe (differs in {', '.join(differing) or 'its fields'})")
    if found.data_digest != wanted.data_digest:
        raise InvalidData(f"{path}: was made from other data")
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimizer": {}}
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118  # not a dict
            part, name = key.split(".", 1)
            parts[part][name] = file.get_tensor(key)
    network.load_state_dict(parts["network"])
    average.load_state_dict(parts["average"])
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in parts["optimizer"].items():
        index, name = key.split(".")
        moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return found


def _save(path: Path, tensors: dict[str, Tensor], state: Progress) -> None:
    """Write tensors and the run's progress in one file, complete or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, temporary, {"progress": state.to_json()})
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
