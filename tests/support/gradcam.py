"""Grad-CAM by hooks and a backward pass: the reference for the closed form of the forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from modeltrain.network.architectures import ChestNet


class LayerTap:
    """Keeps one layer's latest activations and their gradients, for as long as it is open.

    Use it as a context manager: its hook is gone when the block is left, however it is left.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.activations: Tensor | None = None
        self.gradients: Tensor | None = None
        self._hook = layer.register_forward_hook(self._keep)

    def _keep(self, _layer: nn.Module, _arguments: object, activations: Tensor) -> None:
        self.activations = activations.detach()
        activations.register_hook(self._keep_gradients)  # type: ignore[no-untyped-call]

    def _keep_gradients(self, gradients: Tensor) -> None:
        self.gradients = gradients.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


def grad_cam(
    forward: Callable[[Tensor], Tensor], layer: nn.Module, images: Tensor, target: int, *, rectified: bool = True
) -> Tensor:
    """Return Grad-CAM of a class at a layer (Selvaraju et al. 2017, equations 1 and 2), float32 [N, h, w], not scaled.

    Parameters
    ----------
    forward
        From images to logits [N, classes], through `layer`.
    target
        Index of the class.
    rectified
        Whether what speaks against the class is left out (the ReLU of equation 2).

    Raises
    ------
    ValueError
        `layer` took no part in the forward pass, or the class's score does not depend on it.
    """
    with torch.enable_grad(), LayerTap(layer) as tap:
        # The images carry the gradient, so that this works for a network whose weights are frozen.
        logits = forward(images.detach().requires_grad_())
        logits[:, target].sum().backward()  # type: ignore[no-untyped-call]
    if tap.activations is None or tap.gradients is None:
        raise ValueError("the layer took no part in the class's score")
    weights = tap.gradients.mean(dim=(2, 3), keepdim=True)
    cam = (weights * tap.activations).sum(dim=1)
    return cam.relu() if rectified else cam


def last_layer(network: ChestNet) -> nn.Module:
    """Return the module whose output Grad-CAM looks at."""
    if network.arch.startswith("densenet"):
        return network.rectify
    if network.arch == "efficientnet_lite0":
        layer: nn.Module = network.net.bn2
    else:
        layer = network.net.layer4 if network.arch.startswith("resnet") else network.net.features
    return layer
