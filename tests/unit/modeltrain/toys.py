"""Small drawn radiographs in folders, and a network that need not be trained: what the model's tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import nn

from dicom_io.finding import STRONG_EVIDENCE
from modeltrain.model.outputs import Outputs
from modeltrain.network.architectures import ChestNet
from modeltrain.training.lineage import Ancestor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from modeltrain.evaluation.evaluate import Predict
    from modeltrain.model.outputs import Outputs


def draw(seed: int, opacity: bool, side: int = 64) -> NDArray[np.uint8]:
    """Draw a chest of a kind: two dark lungs, one of them clouded where there is an opacity."""
    rng = np.random.default_rng(seed)
    chest = np.full((side, side), 150, np.uint8)
    for x in (0.3, 0.7):
        cv2.ellipse(chest, (int(x * side), side // 2), (side // 7, side // 3), 0, 0, 360, 50, -1)
    if opacity:
        cv2.circle(chest, (int(0.3 * side), int(rng.uniform(0.4, 0.6) * side)), side // 7, 170, -1)
    return np.clip(chest + rng.normal(0, 6, chest.shape), 0, 255).astype(np.uint8)


def batch(count: int) -> NDArray[np.float32]:
    """Return drawn radiographs, every other one with an opacity: float32 [count, 1, 224, 224]."""
    drawn = [draw(seed, opacity=bool(seed % 2), side=224) for seed in range(count)]
    return np.stack(drawn)[:, np.newaxis].astype(np.float32) / np.float32(255)


def write_class(folder: Path, names: list[str], opacity: bool, first: int = 0) -> None:
    """Write one drawn radiograph for each name; `first` is the seed of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names, start=first):
        assert cv2.imwrite(str(folder / name), draw(seed, opacity))


def kaggle_folder(root: Path, patients: int = 8) -> Path:
    """Write a folder in the Kaggle layout: two images for each patient in train, one each in val and test."""
    normal = [f"IM-{patient:04d}-{take:04d}.png" for patient in range(patients) for take in (1, 2)]
    pneumonia = [
        f"person{patient}_{kind}_{patient}.png" for patient in range(patients) for kind in ("virus", "bacteria")
    ]
    write_class(root / "train" / "NORMAL", normal, opacity=False)
    write_class(root / "train" / "PNEUMONIA", pneumonia, opacity=True)
    for part, number in (("val", 900), ("test", 950)):
        write_class(root / part / "NORMAL", [f"NORMAL2-IM-{number}-0001.png"], opacity=False, first=number)
        write_class(root / part / "PNEUMONIA", [f"person{number}_virus_1.png"], opacity=True, first=number)
    return root


def draw_mask(side: int = 64) -> NDArray[np.uint8]:
    """Draw the lungs of `draw` in white: uint8 [side, side]."""
    mask = np.zeros((side, side), np.uint8)
    for x in (0.3, 0.7):
        cv2.ellipse(mask, (int(x * side), side // 2), (side // 7, side // 3), 0, 0, 360, 255, -1)
    return mask


def write_masks(folder: Path, data: Path) -> Path:
    """Write a mask for each training radiograph of a Kaggle folder; return the masks' folder."""
    for path in sorted(data.rglob("*.png")):
        place = folder / path.relative_to(data)
        if place.relative_to(folder).parts[0] != "test":
            place.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(place), draw_mask())
    return folder


class DrawnLungs(nn.Module):
    """Finds the same lungs in every image: a stand-in for trained weights."""

    def __init__(self, mask: NDArray[np.uint8]) -> None:
        super().__init__()
        chance = cv2.resize((mask > 0).astype(np.float32), (112, 112), interpolation=cv2.INTER_AREA)
        self._logits = torch.from_numpy((chance - 0.5) * 20)

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return maps that say nothing."""
        return tuple(torch.zeros(len(image), channels, 7, 7) for channels in (96, 128))

    def logits(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Return the lungs, [N, 112, 112]."""
        return self._logits.expand(len(maps[0]), -1, -1)

    def forward(self, image: Tensor) -> Tensor:
        """Return the lungs, [N, 112, 112]."""
        return self.logits(self.maps(image))


def network_of_lungs(mask: NDArray[np.uint8], seed: int = 0) -> ChestNet:
    """Return a lively network that looks at the lungs of a mask, uint8 [H, W], in every image."""
    network = lively_network(seed, lungs=True)
    network.lungs = DrawnLungs(mask)  # type: ignore[assignment]  # of the same form
    return network


def lively_network(seed: int = 0, *, lungs: bool = False) -> ChestNet:
    """Return a network with random weights in which every layer has its say, as in a trained one."""
    torch.manual_seed(seed)
    network = ChestNet(lungs=lungs)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith("bn2.weight"):  # these start at zero
                value.uniform_(0.5, 1)
        network.head.weight.mul_(10)
    network.eval()
    return network


def ancestor(data: str, parts: Sequence[str] = (), run: str = "before", began_with: str = "") -> Ancestor:
    """Return a run that learnt from this data."""
    several = tuple(parts) if len(parts) > 1 else ()
    return Ancestor(run, "", "quick", "resnet18", 42, 0.11, data, several, began_with, (), "")


def steady(images: NDArray[np.float32]) -> Outputs:
    """Answer each image with 0.5 and the same map: a spot above the middle."""
    return predictor([0.5] * len(images))(images)


def predictor(scores: list[float]) -> Predict:
    """Return a forward pass that answers with these probabilities, one image after the other."""
    waiting = iter(scores)

    def predict(images: NDArray[np.float32]) -> Outputs:
        assert images.dtype == np.float32
        p = np.array([next(waiting) for _ in images])
        logits = np.stack([np.zeros_like(p), np.log(p / (1 - p))], axis=1).astype(np.float32)
        evidence = np.full((len(p), 7, 7), -1, np.float32)
        evidence[:, 2, 3] = STRONG_EVIDENCE
        box = np.tile(np.array([0, 0, 1, 1], np.float32), (len(p), 1))
        nothing = np.full((len(p), 2), np.nan, np.float32)
        return Outputs(logits, evidence, box, np.ones((len(p), 1, 1), np.float32), nothing, nothing[:, 0])

    return predict
