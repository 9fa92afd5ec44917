"""The heatmap of the forward pass alone, held to Grad-CAM by hooks, ours and the grad-cam package's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from modeltrain.model.card import load_card, shipped_model
from modeltrain.model.outputs import Outputs, attention
from modeltrain.network.architectures import ARCHITECTURES, ChestNet, load_network
from tests.support.gradcam import LayerTap, grad_cam, last_layer
from tests.unit.modeltrain.toys import batch, lively_network

if TYPE_CHECKING:
    from torch import Tensor


pytestmark = pytest.mark.usefixtures("one_thread")


class Logits(nn.Module):
    """A network as the grad-cam package wants it: with the logits alone."""

    def __init__(self, network: ChestNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.network(image).logits
        return logits


@pytest.fixture(params=["random weights", "shipped weights"])
def network(request: pytest.FixtureRequest) -> ChestNet:
    """A network with random weights that are no special case, or the one that is shipped."""
    network = lively_network() if request.param == "random weights" else load_network(load_card(shipped_model()))
    network.mirror = False  # hooks see the maps of one pass; that a mirrored answer is the mean of two is tested there
    return network


@pytest.fixture
def images() -> Tensor:
    """Drawn radiographs, float32 [4, 1, 224, 224]: a negative and a close view, so that each class has evidence."""
    drawn = batch(4)
    drawn[2] = 1 - drawn[2]
    drawn[3, 0] = cv2.resize(drawn[3, 0, 60:160, 60:160], (224, 224))
    return torch.from_numpy(drawn)


def answers(network: ChestNet, images: Tensor) -> Outputs:
    """The forward pass as numpy arrays."""
    with torch.inference_mode():
        return Outputs(*(output.numpy() for output in network(images)))


@pytest.mark.parametrize("target", [0, 1])
def test_the_closed_form_is_hook_based_grad_cam(network: ChestNet, images: Tensor, target: int) -> None:
    reference = grad_cam(lambda x: network(x).logits, last_layer(network), images, target).numpy()
    closed = np.maximum(answers(network, images).cam[:, target], 0)
    peak = reference.max(axis=(1, 2), keepdims=True)
    assert peak.max() > 0
    np.testing.assert_allclose(closed / np.maximum(peak, 1e-12), reference / np.maximum(peak, 1e-12), atol=1e-3)


@pytest.mark.parametrize("arch", ARCHITECTURES[2:])
def test_the_closed_form_holds_for_other_architectures(arch: str, images: Tensor) -> None:
    torch.manual_seed(0)
    network = ChestNet(arch).eval()
    nn.init.normal_(network.head.weight)
    small = images[:2, :, ::2, ::2].contiguous()
    for target in (0, 1):
        reference = grad_cam(lambda x: network(x).logits, last_layer(network), small, target).numpy()
        closed = np.maximum(answers(network, small).cam[:, target], 0)
        np.testing.assert_allclose(closed, reference, atol=1e-4 * max(float(reference.max()), 1e-12))


def test_the_closed_form_is_what_the_grad_cam_package_shows(network: ChestNet, images: Tensor) -> None:
    with GradCAM(model=Logits(network), target_layers=[last_layer(network)]) as cam:
        witness = cam(input_tensor=images, targets=[ClassifierOutputTarget(1)] * len(images))
    # The package enlarges its maps and scales each to its own range; the same is done to ours.
    ours = scale_cam_image(scale_cam_image(attention(answers(network, images).cam), (224, 224)))
    assert witness.max() > 0.99
    np.testing.assert_allclose(ours, witness, atol=1e-3)


def test_hooks_are_gone_however_the_block_is_left(images: Tensor) -> None:
    network = lively_network()
    with pytest.raises(ValueError, match="took no part"):
        grad_cam(lambda x: network(x).logits, nn.Conv2d(1, 1, 1), images[:1], 1)
    with pytest.raises(RuntimeError, match="on purpose"), LayerTap(last_layer(network)):
        raise RuntimeError("on purpose")
    assert not last_layer(network)._forward_hooks


def test_frozen_weights_are_no_obstacle(images: Tensor) -> None:
    network = lively_network().requires_grad_(False)
    assert grad_cam(lambda x: network(x).logits, last_layer(network), images[:1], 1).shape == (1, 7, 7)
