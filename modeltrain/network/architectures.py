"""The networks: published classifiers for grey radiographs, with logits and heatmap in one forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.error import URLError

import torch
import torchvision
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import dropout

from dicom_io.errors import InvalidData, InvalidModel
from modeltrain.model.card import SAFETENSORS
from modeltrain.model.outputs import AGENTS, CLASSES
from modeltrain.network import lung_crop
from modeltrain.network.efficientnet_lite import LITE, lite_classifier, lite_weights
from modeltrain.network.exposure import Exposure
from modeltrain.network.lungs import Lungs
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

_OWN = ("net.", "subtype.", "gate.", "standard.", "lungs.")
_DEEPEST = 2  # maps of the lungs' search that the out-of-distribution score looks at
_SHARPNESS = 0.5  # of the log-mean-exp over the lungs: 0 is their mean, infinity the strongest place

ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "densenet121", "efficientnet_b0", "convnext_tiny", LITE)


def normalisation(arch: str) -> str:
    """Return the normalisation inside the network, in words."""
    return f"inside the network: three equal channels, {'mean and deviation 0.5' if arch == LITE else _IMAGENET}"


class TensorOutputs(NamedTuple):
    """`modeltrain.model.outputs.Outputs` while it is still made of tensors."""

    logits: Tensor
    evidence: Tensor
    box: Tensor
    lungs: Tensor
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
        The out-of-distribution score (modeltrain/network/out_of_distribution.py).
    lungs
        Finds the lungs (modeltrain/network/lungs.py), to which the classifier's sight is then confined
        (modeltrain/network/lung_crop.py); None: it sees the whole image. Its last stage then has no stride but a
        dilation, which makes the cells of the map half as wide (Yu, Koltun and Funkhouser 2017).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, arch: str = "resnet18", *, lungs: bool = False) -> None:
        super().__init__()
        if arch not in ARCHITECTURES:
            raise InvalidData(f"no architecture {arch!r}: choose one of {', '.join(ARCHITECTURES)}")
        if lungs and arch != "resnet18":
            raise InvalidData(f"{arch}: only resnet18 can look at the lungs alone")
        self.arch = arch
        self.standard = Exposure()
        self.lungs = Lungs() if lungs else None
        self.net = _classifier(arch)
        if lungs:
            _dilate(self.net.layer4)
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
        """Return the feature maps [N, C, h, w] that the out-of-distribution score looks at.

        The last is the one that is pooled and classified. With lungs, the deepest maps of their search come first: they
        see the whole image, the classifier sees the lungs alone.
        """
        if self.lungs is None:
            return self.features(self.standard(image))
        view, _, maps = self._look(image)
        return *maps[-_DEEPEST:], *self.features(view.crop)

    def view_of(self, image: Tensor, jitter: Tensor | None = None) -> tuple[lung_crop.View, Tensor]:
        """Return what the classifier sees of images, and their lungs, float32 [N, H/2, W/2] in [0, 1]."""
        return self._look(image, jitter)[:2]

    def _look(self, image: Tensor, jitter: Tensor | None = None) -> tuple[lung_crop.View, Tensor, tuple[Tensor, ...]]:
        """Return what `view_of` does, and the maps of the search for the lungs."""
        if self.lungs is None:
            raise TypeError("this network does not look for lungs")
        maps = self.lungs.maps(image)
        lungs = self.lungs.logits(maps).sigmoid()
        return lung_crop.view(image, lungs, jitter), lungs, maps

    def features(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps of images at the landmarks' exposure, or of crops."""
        x = (image - self.mean) / self.std  # broadcasts one channel to three
        if self.arch.startswith("resnet"):
            net = self.net
            second = net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x))))))
            third = net.layer3(second)
            return second, third, net.layer4(third)
        x = self.net.forward_features(x) if self.arch == LITE else self.net.features(x)
        return (self.rectify(x) if self.arch.startswith("densenet") else x,)

    def forward(self, image: Tensor) -> TensorOutputs:
        """Return the outputs of images, each for itself (see `Outputs`)."""
        if self.lungs is None:
            return self._of_whole(self.features(self.standard(image)))
        view, lungs, maps = self._look(image)
        taps = self.features(view.crop)
        share = lung_crop.cells(view.inside)
        answer = self.answer(taps[-1], self.evidence(taps[-1]), share, view.box, lungs)
        return answer._replace(outlier=self.gate((*maps[-_DEEPEST:], *taps)))

    def answer(self, features: Tensor, evidence: Tensor, share: Tensor, box: Tensor, lungs: Tensor) -> TensorOutputs:
        """Return the outputs, but for the out-of-distribution score, of a network that looks at lungs.

        Parameters
        ----------
        features, evidence
            The last feature map [N, C, h, w] and its evidence [N, h, w].
        share
            The part of each cell that is lung, [N, h, w].
        box, lungs
            As in `Outputs`.
        """
        score = pooled_score(evidence, share)
        logits = torch.stack([-score / 2, score / 2], dim=1)
        nothing = torch.full_like(score, torch.nan)
        return TensorOutputs(logits, evidence, box, lungs, self.subtype(_mean_of(features, share)), nothing)

    def evidence(self, features: Tensor) -> Tensor:
        """Return what each place of feature maps [N, C, h, w] says by itself, [N, h, w]."""
        weight, bias = self.head.weight, self.head.bias
        return torch.einsum("c,nchw->nhw", weight[1] - weight[0], features) + (bias[1] - bias[0])

    def _of_whole(self, taps: tuple[Tensor, ...]) -> TensorOutputs:
        """Return the outputs of feature maps of whole images."""
        features = taps[-1]
        pooled = features.mean(dim=(2, 3))
        if self.arch.startswith("convnext"):
            logits, gradient = self._through_norm(pooled)
            evidence = torch.einsum("nc,nchw->nhw", gradient[:, 1] - gradient[:, 0], features)
        else:
            logits = self.head(self._dropout(pooled))
            evidence = self.evidence(features)
        whole = torch.ones_like(pooled[:, :4]) * torch.tensor([0.0, 0.0, 1.0, 1.0], device=pooled.device)
        lungs = torch.ones_like(pooled[:, :1, None])
        return TensorOutputs(logits, evidence, whole, lungs, self.subtype(pooled), self.gate(taps))

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


def pooled_score(evidence: Tensor, share: Tensor) -> Tensor:
    """Return the log-mean-exp of evidence [N, h, w] over the cells, each by its share of lung [N, h, w]: [N].

    Between mean and maximum (Pinheiro and Collobert 2015): a small opacity counts, and so does a wide one.
    """
    strength = (evidence * _SHARPNESS).flatten(1)
    part = (share / share.sum(dim=(1, 2), keepdim=True)).flatten(1)
    highest = strength.amax(dim=1, keepdim=True)
    return (((strength - highest).exp() * part).sum(dim=1).log() + highest[:, 0]) / _SHARPNESS


def _mean_of(features: Tensor, share: Tensor) -> Tensor:
    """Return the mean of feature maps [N, C, h, w] over the cells, each by its share of lung: [N, C]."""
    part = share / share.sum(dim=(1, 2), keepdim=True)
    return (features * part[:, None]).sum(dim=(2, 3))


def _dilate(stage: Any) -> None:
    """Take the stride out of a stage of basic blocks, and look twice as far in each convolution behind it."""
    first, second = stage
    first.conv1.stride = first.downsample[0].stride = (1, 1)
    for layer in (first.conv2, second.conv1, second.conv2):
        layer.dilation = layer.padding = (2, 2)


def _classifier(arch: str) -> Any:
    """Return the published network of two classes, from random weights."""
    if arch == LITE:
        return lite_classifier(len(CLASSES))
    # Residual branches that start as zero let a network from random weights learn at a high rate (Goyal 2017).
    options = {"zero_init_residual": True} if arch.startswith("resnet") else {}
    return torchvision.models.get_model(arch, num_classes=len(CLASSES), **options)


def build(init: str, seed: int, arch: str = "resnet18", *, lungs: bool = False) -> ChestNet:
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
    network = ChestNet(arch, lungs=lungs)
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

    They are a network's own state, or a model folder's (`bare_names`). Where they hold no out-of-distribution score, or
    nothing that finds lungs, the network's own stays.

    Raises
    ------
    RuntimeError
        The weights are of another architecture.
    """
    full = {key if key.startswith(_OWN) else f"net.{key}": value for key, value in state.items()}
    own = {key: value for key, value in network.state_dict().items() if key.startswith(("gate.", "lungs."))}
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
        # A network that looks at lungs has an exposure of its own.
        left = ("gate.",) if network.lungs is None else ("gate.", "standard.")
        weights = {key: value.float() for key, value in load_file(path).items() if not key.startswith(left)}
        load_weights(network, weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InvalidData(f"{path}: does not hold weights of the architecture {network.arch}") from error


def take_up_lungs(network: ChestNet, path: Path) -> None:
    """Load the weights that find lungs from a file of `training.lung_weights`, or from a model folder's.

    Raises
    ------
    InvalidData
        The file is missing or damaged, or holds none; or the network does not look for lungs.
    """
    try:
        state = {key: value.float() for key, value in load_file(path).items() if key.startswith("lungs.")}
        if network.lungs is None or not state:
            raise InvalidData(f"{path}: holds no weights that find lungs")
        network.lungs.load_state_dict({key.removeprefix("lungs."): value for key, value in state.items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InvalidData(f"{path}: does not hold weights that find lungs") from error


def has_lungs(path: Path) -> bool:
    """Whether a file of weights holds some that find lungs.

    Raises
    ------
    InvalidData
        The file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return any(name.startswith("lungs.") for name in file.keys())  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise InvalidData(f"{path}: cannot be read as weights ({error})") from error


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
        network = ChestNet(card.arch, lungs=card.lungs)
        load_weights(network, load_file(path))
    except (OSError, SafetensorError, RuntimeError, InvalidData) as error:
        raise InvalidModel(f"{path}: does not hold the weights of a {card.arch} with two classes") from error
    return network.float().eval()
