"""A network in training: its steps, and its validation after each epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch.nn.functional import cross_entropy, relu, softplus
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from modeltrain.model.outputs import probability
from modeltrain.network import lung_crop
from modeltrain.network.architectures import ChestNet, build, pooled_score, take_up, take_up_lungs
from modeltrain.training import lung_losses
from modeltrain.training.batches import batch_count, batches, order_of
from modeltrain.training.landmarks import mean_landmarks
from modeltrain.training.optimizer import fix, follow, learning_rate, optimizer_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from modeltrain.data.samples import Images
    from modeltrain.network.architectures import TensorOutputs
    from modeltrain.training.batches import Batch
    from modeltrain.training.recipe import Recipe
    from modeltrain.training.teachers import Teachers


_HOLD = 0.05  # weight of the loss that holds low evidence
_SURE = 1.0  # the score from which a drawn opacity counts as seen


class Learner:
    """A network in training, the moving average of its weights, and its optimizer."""

    def __init__(
        self, recipe: Recipe, device: str, teachers: Teachers | None = None, *, init: str | None = None
    ) -> None:
        self.recipe = recipe
        self.device = device
        self.network = _placed(build(init or recipe.init, recipe.seed, recipe.arch, lungs=recipe.lungs), device)
        fix(self.network, recipe)
        self.average = _placed(ChestNet(recipe.arch, lungs=recipe.lungs), device)
        self.average.load_state_dict(self.network.state_dict())
        self.optimizer = optimizer_of(self.network, recipe)
        self.weights = torch.tensor([recipe.weight_normal, 1.0], device=device)
        self.teachers = teachers
        self._chance = torch.Generator()

    def begin(self, start: Path | None, lungs: Path | None = None) -> None:
        """Load another run's weights, and weights that find lungs, into the network and its average."""
        if start:
            take_up(self.network, start)
        if lungs:
            take_up_lungs(self.network, lungs)
        self.average.load_state_dict(self.network.state_dict())

    def set_exposure(self, images: Images) -> None:
        """Take the mean exposure of the training images, if the recipe has one and the weights have none."""
        if self.recipe.standardize and not self.network.standard.landmarks.numel():
            landmarks = torch.from_numpy(mean_landmarks(images)).to(self.device)
            self.network.standard.landmarks, self.average.standard.landmarks = landmarks, landmarks.clone()

    def _logits(self, network: ChestNet, images: Images, start: int) -> Tensor:
        """Return the logits of a batch of images as they are, from the `start`-th on."""
        stack = np.stack([images[i] for i in range(start, min(start + self.recipe.batch_size, len(images)))])
        batch = torch.from_numpy(stack).unsqueeze(1).to(self.device, torch.float32) / 255
        outputs: TensorOutputs = network(batch.contiguous(memory_format=torch.channels_last))
        return outputs.logits

    def learn(
        self,
        images: Images,
        epoch: int,
        *,
        weights: NDArray[np.float64] | None = None,
        progress: bool,
    ) -> tuple[float, float]:
        """Go once through the images; return the mean loss and the last learning rate.

        Parameters
        ----------
        weights
            The images' overlap weights, float64 [N].
        """
        recipe, losses, rate = self.recipe, [], 0.0
        order = order_of(images.samples, recipe, epoch, weights)
        count = batch_count(len(order), recipe.batch_size)
        label = f"epoch {epoch + 1}/{recipe.epochs} at {recipe.side(epoch)} px"
        shown = batches(images, order, recipe, epoch)
        self.network.train()
        if self.network.lungs is not None:
            self.network.lungs.eval()  # its weights are fixed, and so are its norms' statistics
        torch.manual_seed(recipe.seed + epoch)  # for dropout, after a resume too
        self._chance.manual_seed(recipe.seed + epoch)
        with tqdm(shown, label, count, disable=not progress, mininterval=2) as bar:
            for step, batch in enumerate(bar):
                rate = learning_rate(recipe, (epoch + step / count) / recipe.epochs)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                loss = self._loss(batch)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                if self.recipe.clip:
                    clip_grad_norm_(self.network.parameters(), self.recipe.clip)
                self.optimizer.step()
                follow(self.average, self.network, self.recipe.ema)
                losses.append(loss.item())
                bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", refresh=False)
        return float(np.mean(losses)), rate

    def _loss(self, batch: Batch) -> Tensor:
        """Return the loss of one batch: the classes, the place of the evidence, and the agent where it is known."""
        recipe = self.recipe
        extra: Tensor | float = 0.0
        if recipe.lungs:
            outputs, extra = self._through_lungs(batch)
        else:
            outputs = self._outputs(batch)
        labels, agents = batch.labels.to(self.device), batch.agents
        loss = cross_entropy(outputs.logits, labels, self.weights, label_smoothing=recipe.label_smoothing)
        if self.teachers:
            taught = cross_entropy(outputs.logits, self.teachers.probability(batch.images), self.weights)
            loss = (1 - recipe.distillation) * loss + recipe.distillation * taught
        if recipe.border_weight:
            loss = loss + recipe.border_weight * _border_share(outputs.evidence)
        has_agent = agents >= 0
        if recipe.subtype_weight and has_agent.any():
            subtype = cross_entropy(outputs.subtype[has_agent.to(self.device)], agents[has_agent].to(self.device))
            loss = loss + recipe.subtype_weight * subtype
        return loss + extra

    def _outputs(self, batch: Batch) -> TensorOutputs:
        """Return the network's outputs for a batch in float32, computed at the recipe's precision."""
        lower = self.recipe.precision == "bfloat16"
        with torch.autocast(self.device, torch.bfloat16, enabled=lower):
            outputs: TensorOutputs = self.network(batch.images.to(self.device, memory_format=torch.channels_last))
        return type(outputs)(*(each.float() for each in outputs))

    def _through_lungs(self, batch: Batch) -> tuple[TensorOutputs, Tensor]:
        """Return a batch's outputs, and the loss of what is drawn into it and blended from it, in one pass."""
        network, recipe = self.network, self.recipe
        images = batch.images.to(self.device)
        chance = self._chance
        with torch.no_grad():
            moved = torch.empty(len(images), 4).uniform_(-1, 1, generator=chance) * lung_losses.JITTER
            view, lungs = network.view_of(images, moved.to(self.device))
            normal = (batch.labels == 0).nonzero()[:, 0]
            normal = normal[torch.randperm(len(normal), generator=chance)[: max(1, len(images) // 4)]]
            drawn = lung_losses.draw_opacities(view.crop[normal], view.inside[normal], chance)
            one = torch.randperm(len(images), generator=chance)[: len(images) // 4]
            other = torch.randperm(len(images), generator=chance)[: len(images) // 4]
            first, second = (lung_crop.View(*(part[chosen] for part in view)) for chosen in (one, other))
            blended = lung_losses.blend(first, second, chance)
        crops = torch.cat([view.crop, drawn.crop, blended.crop]).contiguous(memory_format=torch.channels_last)
        features = network.features(crops)[-1]
        evidence = network.evidence(features)
        own, with_opacity, mixed = torch.split(evidence, [len(images), len(normal), len(one)])
        share = lung_crop.cells(view.inside)
        outputs = network.answer(features[: len(images)], own, share, view.box, lungs)
        score = pooled_score(with_opacity, share[normal])
        loss = softplus(_SURE - score).mean() if len(normal) else score.sum()
        place = lung_losses.place_loss(with_opacity, own[normal], drawn.place, share[normal])
        loss = recipe.opacities * (loss + place) + _HOLD * lung_losses.floor_loss(evidence)
        return outputs, loss + recipe.blending * lung_losses.blend_loss(mixed, own[one], own[other], blended)

    @torch.inference_mode()
    def validate(self, images: Images, weights: NDArray[np.float64] | None = None) -> tuple[float, float, float | None]:
        """Return the averaged network's class-weighted cross-entropy and AUC, at the side the model serves with.

        The third is the AUC under `weights`, float64 [N], where there are any.
        """
        self.average.eval()
        size = self.recipe.batch_size
        scores = torch.cat([self._logits(self.average, images, start) for start in range(0, len(images), size)])
        labels = torch.tensor([sample.label for sample in images.samples])
        loss = cross_entropy(scores, labels.to(self.device), self.weights).item()
        chances = probability(scores.cpu().numpy())
        auc = float(roc_auc_score(labels.numpy(), chances))
        weighted = None if weights is None else float(roc_auc_score(labels.numpy(), chances, sample_weight=weights))
        return loss, auc, weighted

    def tensors(self) -> dict[str, Tensor]:
        """Return the state that a resumed run needs, by name."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Load the state that `tensors` returned."""
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


def _border_share(evidence: Tensor) -> Tensor:
    """Return the mean share of the positive mass of maps [N, h, w] that lies in the outer tenth of the image."""
    inside = torch.ones(())
    for cells in evidence.shape[1:]:
        edges = torch.linspace(0, 1, cells + 1)
        inner = edges.clamp(0.1, 0.9)
        part = (inner[1:] - inner[:-1]) * cells
        inside = inside[..., None] * part
    positive = relu(evidence)
    mass = positive.sum(dim=(1, 2)) + 1e-4
    return ((positive * (1 - inside).to(evidence.device)).sum(dim=(1, 2)) / mass).mean()
