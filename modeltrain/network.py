"""The network: torchvision's ResNet-18 for grey radiographs, which answers with its heatmap in one forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torchvision.models import ResNet18_Weights
from torchvision.models.resnet import BasicBlock, ResNet

from dicom_io.errors import InvalidModel
from modeltrain.outputs import CLASSES
from modeltrain.registry import SAFETENSORS

if TYPE_CHECKING:
    from torch import Tensor

    from modeltrain.registry import Card

# ImageNet's channel statistics: what torchvision's published weights expect.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class TensorOutputs(NamedTuple):
    """`modeltrain.outputs.Outputs` while it is still made of tensors."""

    logits: Tensor
    layer4: Tensor
    cam: Tensor


class ChestNet(ResNet):  # type: ignore[misc]  # torchvision carries no types
    """A ResNet-18 with two classes that takes float32 [N, 1, H, W] in [0, 1].

    The parameters bear torchvision's own names, so `torchvision.models.resnet18(num_classes=2)` loads them. The grey
    channel is repeated three times and normalised inside: nobody outside can forget it.
    """

    def __init__(self) -> None:
        # Residual branches that start as zero let a network from random weights learn at a high rate (Goyal 2017).
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=len(CLASSES), zero_init_residual=True)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> TensorOutputs:
        """Return logits [N, 2], layer4 [N, 512, h, w] and cam [N, 2, h, w] (see `Outputs`)."""
        x = (image - self.mean) / self.std  # broadcasts one channel to three
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        layer4 = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits = self.fc(layer4.mean(dim=(2, 3)))
        area = layer4.shape[2] * layer4.shape[3]
        cam = torch.einsum("ck,nkhw->nchw", self.fc.weight, layer4) / area
        return TensorOutputs(logits, layer4, cam)


def build(init: str, seed: int) -> ChestNet:
    """Return a network to be trained, from seeded random weights or torchvision's ImageNet weights.

    Raises
    ------
    InvalidModel
        ImageNet weights were asked for and are neither in torch's cache nor to be downloaded.
    """
    torch.manual_seed(seed)
    network = ChestNet()
    if init == "imagenet":
        try:
            weights = ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
        except (URLError, OSError, RuntimeError) as error:
            raise InvalidModel(
                f"init imagenet: torchvision's weights cannot be had ({error}); use init random, or put "
                f"{ResNet18_Weights.IMAGENET1K_V1.url} into {torch.hub.get_dir()}/checkpoints"
            ) from error
        network.load_state_dict({k: v for k, v in weights.items() if not k.startswith("fc.")}, strict=False)
    return network


def load_network(card: Card) -> ChestNet:
    """Return a model's network from its safetensors file, computing in float32, set to evaluation.

    Raises
    ------
    InvalidModel
        The file is damaged or holds another architecture.
    """
    path = card.folder / SAFETENSORS
    network = ChestNet()
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InvalidModel(f"{path}: does not hold the weights of a {card.arch} with two classes") from error
    network.eval()
    return network
