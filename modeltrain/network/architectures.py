"""The networks: published classifiers for grey radiographs, with logits and heatmap in one forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.error import URLError

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import dropout

from dicom_io.errors import InvalidData, InvalidModel
from modeltrain.model.card import SAFETENSORS
from modeltrain.model.outputs import AGENTS, CLASSES
from modeltrain.network.efficientnet_lite import LITE, lite_classifier, lite_weights
from modeltrain.network.exposure import Exposure
from modeltrain.network.out_of_distribution import OutOfDistribution

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from modeltrain.model.card import Card

# ImageNet's channel statistics: what torchvision's published weights expect.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_LITE_MEAN = _LITE_STD = (0.5, 0.5, 0.5)  # and what EfficientNet-Lite's expect: grey in [-1, 1]

_IMAGENET = "ImageNet mean and standard deviation"

_OWN = ("net.", "subtype.", "gate.", "standard.")

ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "densenet121", "efficientnet_b0", "convnext_tiny", LITE)


def normalisation(arch: str) -> str:
    """Return the normalisation inside the network, in words."""
    return f"inside the network: three equal channels, {'mean and deviation 0.5' if arch == LITE else _IMAGENET}"


class TensorOutputs(NamedTuple):
    """`modeltrain.model.outputs.Outputs` while it is still made of tensors."""

    logits: Tensor
    cam: Tensor
    subtype: Tensor
    outlier: Tensor


class ChestNet(nn.Module):
    """A classifier of two classes that takes float32 [N, 1, H, W] in [0, 1].

    Names of parameters begin with that of their part. The grey channel is repeated three times and normalised inside.

    Attributes
    ----------
    standard
        The first step: with landmarks, it brings every image to one exposure (modeltrain/network/exposure.py).
    net
        torchvision's own module of that architecture, or timm's for EfficientNet-Lite. Its parameters keep their names.
    subtype
        A second linear layer on the same features: bacterial against viral pneumonia.
    gate
        The out-of-distribution score (modeltrain/network/out_of_distribution.py), of the image as it is.
    mirror
        Whether an answer is the mean of the image's and its mirror image's. The mirror image's map is turned back.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, arch: str = "resnet18", *, mirror: bool = False) -> None:
        super().__init__()
        if arch not in ARCHITECTURES:
            raise InvalidData(f"no architecture {arch!r}: choose one of {', '.join(ARCHITECTURES)}")
        self.arch = arch
        self.mirror = mirror
        self.standard = Exposure()
        self.net = _classifier(arch)
        self.rectify = nn.ReLU()  # DenseNet ends without one, and Grad-CAM looks behind it
        self.subtype = nn.Linear(self.head.in_features, len(AGENTS))
        self.gate = OutOfDistribution()
        mean, std = (_LITE_MEAN, _LITE_STD) if arch == LITE else (_MEAN, _STD)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def head(self) -> nn.Linear:
        """The linear layer that makes the logits."""
        layer = self.net.fc if self.arch.startswith("resnet") else self.net.classifier
        while not isinstance(layer, nn.Linear):
            layer = layer[-1]
        return layer

    def taps(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return feature maps [N, C, h, w] of increasing depth; the last is the one that is pooled and classified."""
        return self._features(self.standard(image))

    def _features(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps of images at the landmarks' exposure."""
        x = (image - self.mean) / self.std  # broadcasts one channel to three
        if self.arch.startswith("resnet"):
            net = self.net
            second = net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x))))))
            third = net.layer3(second)
            return second, third, net.layer4(third)
        x = self.net.forward_features(x) if self.arch == LITE else self.net.features(x)
        return (self.rectify(x) if self.arch.startswith("densenet") else x,)

    def forward(self, image: Tensor) -> TensorOutputs:
        """Return logits [N, 2], cam [N, 2, h, w], subtype [N, 2] and outlier [N] (see `Outputs`)."""
        if not self.mirror:
            return self._answer(self.taps(image))
        # One batch: the images, and behind them their mirror images.
        image = self.standard(image)
        both = self._answer(self._features(torch.cat([image, image.flip(3)])))
        logits, cam, subtype, outlier = (each.reshape(2, -1, *each.shape[1:]) for each in both)
        return TensorOutputs(logits.mean(0), (cam[0] + cam[1].flip(3)) / 2, subtype.mean(0), outlier[0])

    def _answer(self, taps: tuple[Tensor, ...]) -> TensorOutputs:
        """Return the outputs of feature maps, each image for itself."""
        features = taps[-1]
        pooled = features.mean(dim=(2, 3))
        area = features.shape[2] * features.shape[3]
        if self.arch.startswith("convnext"):
            logits, gradient = self._through_norm(pooled)
            cam = torch.einsum("nck,nkhw->nchw", gradient, features) / area
        else:
            logits = self.head(self._dropout(pooled))
            cam = torch.einsum("ck,nkhw->nchw", self.head.weight, features) / area
        return TensorOutputs(logits, cam, self.subtype(pooled), self.gate(taps, pooled))

    def _dropout(self, pooled: Tensor) -> Tensor:
        """Return pooled features [N, C] as the last layer learns from them; outside training they are as they were."""
        if self.arch == LITE:
            return dropout(pooled, self.net.drop_rate, self.training)
        if self.arch.startswith("efficientnet"):
            dropped: Tensor = self.net.classifier[0](pooled)
            return dropped
        return pooled

    def _through_norm(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Return ConvNeXt's logits, and their gradient [N, 2, C] by the pooled features, which a layer norm follows."""
        norm = self.net.classifier[0]
        centred = pooled - pooled.mean(dim=1, keepdim=True)
        scale = torch.rsqrt(centred.square().mean(dim=1, keepdim=True) + norm.eps)
        unit = centred * scale
        logits = self.head(unit * norm.weight + norm.bias)
        weights = self.head.weight * norm.weight  # [2, C]
        along = torch.einsum("ck,nk->nc", weights, unit)[..., None] / unit.shape[1]
        mean = weights.mean(dim=1)[None, :, None]
        return logits, (weights - mean - unit[:, None] * along) * scale[..., None]


def _classifier(arch: str) -> Any:
    """Return the published network of two classes, from random weights."""
    if arch == LITE:
        return lite_classifier(len(CLASSES))
    # Residual branches that start as zero let a network from random weights learn at a high rate (Goyal 2017).
    options = {"zero_init_residual": True} if arch.startswith("resnet") else {}
    return torchvision.models.get_model(arch, num_classes=len(CLASSES), **options)


def build(init: str, seed: int, arch: str = "resnet18") -> ChestNet:
    """Return a network to be trained, from seeded random weights or published ImageNet weights.

    Raises
    ------
    InvalidData
        There is no such architecture here.
    InvalidModel
        ImageNet weights are neither in torch's cache nor can they be downloaded; the package of EfficientNet-Lite's is
        not installed, or is another; or timm is missing.
    """
    torch.manual_seed(seed)
    network = ChestNet(arch)
    if init == "imagenet" and arch == LITE:
        network.net.load_state_dict(lite_weights(network.net), strict=False)
    elif init == "imagenet":
        published = torchvision.models.get_model_weights(arch).DEFAULT
        try:
            weights = published.get_state_dict(progress=False, check_hash=True)
        except (URLError, OSError, RuntimeError) as error:
            raise InvalidModel(
                f"init imagenet: torchvision's weights cannot be downloaded ({error}); use init random, or put "
                f"{published.url} into {torch.hub.get_dir()}/checkpoints"
            ) from error
        own = network.net.state_dict()
        network.net.load_state_dict({k: v for k, v in weights.items() if v.shape == own[k].shape}, strict=False)
    return network


def load_weights(network: ChestNet, state: dict[str, Tensor]) -> None:
    """Put saved weights into a network.

    They are a network's own state, or a model folder's (`bare_names`). Where they hold no out-of-distribution score the
    network's own stays.

    Raises
    ------
    RuntimeError
        The weights are of another architecture.
    """
    full = {key if key.startswith(_OWN) else f"net.{key}": value for key, value in state.items()}
    own = {key: value for key, value in network.state_dict().items() if key.startswith("gate.")}
    full = own | full
    network.gate.fill({key.removeprefix("gate."): value for key, value in full.items() if key.startswith("gate.")})
    network.load_state_dict(full)


def take_up(network: ChestNet, path: Path) -> None:
    """Load the weights of a run or of a model folder, but for the out-of-distribution score.

    That score belongs to these very features: export fits a new one.

    Raises
    ------
    InvalidData
        The file is missing, damaged or holds another architecture.
    """
    try:
        weights = {key: value.float() for key, value in load_file(path).items() if not key.startswith("gate.")}
        load_weights(network, weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InvalidData(f"{path}: does not hold weights of the architecture {network.arch}") from error


def bare_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state under torchvision's or timm's own names, so that their classifier of that kind can load it too."""
    return {key.removeprefix("net."): value for key, value in state.items()}


def load_network(card: Card) -> ChestNet:
    """Return a model's network from its safetensors file, computing in float32, set to evaluation.

    Raises
    ------
    InvalidModel
        The file is damaged or holds another architecture.
    """
    path = card.folder / SAFETENSORS
    try:
        network = ChestNet(card.arch, mirror=card.mirror)
        load_weights(network, load_file(path))
    except (OSError, SafetensorError, RuntimeError, InvalidData) as error:
        raise InvalidModel(f"{path}: does not hold the weights of a {card.arch} with two classes") from error
    return network.float().eval()
