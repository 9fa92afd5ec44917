"""What the network answers for a batch of radiographs, and how a probability and a heatmap are read from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES = ("NORMAL", "PNEUMONIA")
AGENTS = ("bacteria", "virus")


class Outputs(NamedTuple):
    """The results of one forward pass, under the names that they have in the ONNX file.

    Attributes
    ----------
    logits
        float32 [N, 2], one column a class, in the order of `CLASSES`.
    cam
        float32 [N, 2, h, w] (7×7 at 224 px): for each class the channels of the last feature map weighted by the
        gradient of that class's logit, before the ReLU. For a network that ends in global average pooling and one
        linear layer the gradient is that layer's weights over h·w, and this is Grad-CAM itself (Selvaraju et al. 2017,
        section 3.1 and appendix A).
    subtype
        float32 [N, 2], logits of `AGENTS`, which mean something only where there is a pneumonia.
    outlier
        float32 [N], 0 and up: 1 and above is out of distribution. NaN where the score was not fitted.
    """

    logits: NDArray[np.float32]
    cam: NDArray[np.float32]
    subtype: NDArray[np.float32]
    outlier: NDArray[np.float32]


def probability(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probability of PNEUMONIA, float32 [N] in [0, 1]: the softmax's second column."""
    # A softmax over two classes is the logistic function of their difference; tanh does not overflow.
    half = (logits[:, 1].astype(np.float64) - logits[:, 0]) / 2
    return ((1 + np.tanh(half)) / 2).astype(np.float32)


def attention(cam: NDArray[np.float32], normal: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Return what speaks for PNEUMONIA, and where: float32 [N, h, w] in [0, 1], each map scaled to its own maximum.

    The ReLU keeps what raises the class's score (Selvaraju et al. 2017, equation 2). A map with nothing positive in it
    is all zero. With `normal`, float32 [h, w], the mean map of normal radiographs before the ReLU, the result is what
    speaks for PNEUMONIA more than it does there in them: a score above theirs comes from somewhere, so it is not empty.
    """
    positive = np.maximum(cam[:, 1] if normal is None else cam[:, 1] - normal, 0)
    peak = positive.max(axis=(1, 2), keepdims=True)
    scaled: NDArray[np.float32] = np.divide(positive, peak, out=np.zeros_like(positive), where=peak > 0)
    return scaled
