"""What the network answers for a batch of radiographs, and how a probability and a heatmap are read from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES = ("NORMAL", "PNEUMONIA")


class Outputs(NamedTuple):
    """The three results of one forward pass, in the order in which the ONNX file names them.

    Attributes
    ----------
    logits
        float32 [N, 2], one column a class, in the order of `CLASSES`.
    layer4
        float32 [N, 512, h, w] (7×7 at 224 px): what the last convolutional stage saw, after its ReLU.
    cam
        float32 [N, 2, h, w]: for each class the channels of `layer4` weighted by that class's row of the linear layer
        over h·w, before the ReLU. This is Grad-CAM itself for a network that ends in global average pooling and one
        linear layer (Selvaraju et al. 2017, section 3.1 and appendix A).
    """

    logits: NDArray[np.float32]
    layer4: NDArray[np.float32]
    cam: NDArray[np.float32]


def probability(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probability of PNEUMONIA, float32 [N] in [0, 1]: the softmax's second column."""
    # A softmax over two classes is the logistic function of their difference; tanh does not overflow.
    half = (logits[:, 1].astype(np.float64) - logits[:, 0]) / 2
    return ((1 + np.tanh(half)) / 2).astype(np.float32)


def attention(cam: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what speaks for PNEUMONIA, and where: float32 [N, h, w] in [0, 1], each map scaled to its own maximum.

    The ReLU keeps what raises the class's score (Selvaraju et al. 2017, equation 2). A map with nothing positive in it
    is all zero.
    """
    positive = np.maximum(cam[:, 1], 0)
    peak = positive.max(axis=(1, 2), keepdims=True)
    scaled: NDArray[np.float32] = np.divide(positive, peak, out=np.zeros_like(positive), where=peak > 0)
    return scaled
