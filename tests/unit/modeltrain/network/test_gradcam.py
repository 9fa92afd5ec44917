"""The evidence of the forward pass, held to Grad-CAM by hooks, ours and the grad-cam package's."""

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
from modeltrain.model.outputs import Outputs
from modeltrain.network import lung_crop
from modeltrain.network.architectures import ARCHITECTURES, ChestNet, load_network
from tests.support.gradcam import LayerTap, grad_cam, last_layer
from tests.unit.modeltrain.toys import batch, draw_mask, lively_network, network_of_lungs

if TYPE_CHECKING:
    from torch import Tensor


pytestmark = pytest.mark.usefixtures("one_thread")


class Difference(nn.Module):
    """A network as Grad-CAM wants it, with what speaks for PNEUMONIA alone: [N, 1]."""

    def __init__(self, network: ChestNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Return the difference of the two logits."""
        logits: Tensor = self.network(image).logits
        return logits[:, 1:] - logits[:, :1]


@pytest.fixture(params=["whole image", "lungs", "shipped weights"])
def network(request: pytest.FixtureRequest) -> ChestNet:
    """A network with random weights that are no special case, or the one that is shipped."""
    if request.param == "shipped weights":
        return load_network(load_card(shipped_model()))
    return lively_network() if request.param == "whole image" else network_of_lungs(draw_mask(224))


@pytest.fixture
def images() -> Tensor:
    """Drawn radiographs, float32 [4, 1, 224, 224], one of them bright and one a close view."""
    drawn = batch(4)
    drawn[2] = 0.3 + 0.7 * drawn[2]
    drawn[3, 0] = cv2.resize(drawn[3, 0, 60:160, 60:160], (224, 224))
    return torch.from_numpy(drawn)


def answers(network: ChestNet, images: Tensor) -> Outputs:
    """The forward pass as numpy arrays."""
    with torch.inference_mode():
        return Outputs(*(output.numpy() for output in network(images)))


def bias_of(network: ChestNet) -> float:
    """What each place says before it has seen anything."""
    bias = network.head.bias.detach()
    return float(bias[1] - bias[0])


def test_evidence_but_for_its_bias_is_grad_cam_by_hooks(network: ChestNet, images: Tensor) -> None:
    """Either pooling's gradients sum to the last layer's weights, so Grad-CAM's mean of them is a part h·w of these."""
    reference = grad_cam(Difference(network), last_layer(network), images, 0, rectified=False).numpy()
    evidence = answers(network, images).evidence
    cells = evidence.shape[1] * evidence.shape[2]
    peak = np.abs(reference).max()
    assert peak > 0
    np.testing.assert_allclose((evidence - bias_of(network)) / cells / peak, reference / peak, atol=1e-3)


def test_the_score_is_the_pooled_evidence(network: ChestNet, images: Tensor) -> None:
    outputs = answers(network, images)
    score = outputs.logits[:, 1] - outputs.logits[:, 0]
    if network.lungs is None:
        np.testing.assert_allclose(outputs.evidence.mean(axis=(1, 2)), score, atol=1e-3)
        return
    with torch.inference_mode():
        share = lung_crop.cells(network.view_of(images)[0].inside).numpy()
    weights = share / share.sum(axis=(1, 2), keepdims=True)
    pooled = np.log((weights * np.exp(0.5 * outputs.evidence.astype(np.float64))).sum(axis=(1, 2))) / 0.5
    np.testing.assert_allclose(pooled, score, atol=1e-3)
    within = np.where(share > 0, outputs.evidence, np.nan)
    assert (score <= np.nanmax(within, axis=(1, 2)) + 1e-3).all(), "never above the strongest place of the lungs"
    assert (score >= (weights * outputs.evidence).sum(axis=(1, 2)) - 1e-3).all(), "nor below their mean"


@pytest.mark.parametrize("arch", ARCHITECTURES[2:])
def test_the_closed_form_holds_for_other_architectures(arch: str, images: Tensor) -> None:
    torch.manual_seed(0)
    network = ChestNet(arch).eval()
    nn.init.normal_(network.head.weight)
    small = images[:2, :, ::2, ::2].contiguous()
    reference = grad_cam(Difference(network), last_layer(network), small, 0, rectified=False).numpy()
    evidence = answers(network, small).evidence
    # With a layer norm after the pooling, the weights are the gradients of each image, and no bias is added to them.
    bias = 0 if arch.startswith("convnext") else bias_of(network)
    ours = (evidence - bias) / (evidence.shape[1] * evidence.shape[2])
    scale = max(float(np.abs(reference).max()), 1e-12)
    np.testing.assert_allclose(ours / scale, reference / scale, atol=1e-3)


def test_the_evidence_is_what_the_grad_cam_package_shows(network: ChestNet, images: Tensor) -> None:
    with GradCAM(model=Difference(network), target_layers=[last_layer(network)]) as cam:
        witness = cam(input_tensor=images, targets=[ClassifierOutputTarget(0)] * len(images))
    # The package enlarges its maps and scales each to its own range; the same is done to ours.
    positive = np.maximum(answers(network, images).evidence - bias_of(network), 0)
    ours = scale_cam_image(scale_cam_image(positive, (224, 224)))
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
