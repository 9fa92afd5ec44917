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
    evidence
        float32 [N, h, w] (10×10): what each place says by itself, as a difference of the two logits, over the part of
        the image that `box` names. Their log-mean-exp over the lungs is the difference of `logits`; without lungs their
        mean is. But for the additive bias this is h·w times Grad-CAM of that difference before the ReLU (Selvaraju
        et al. 2017, section 3.1 and appendix A): the gradients of either pooling sum to the last layer's weights.
    box
        float32 [N, 4], left, top, right and bottom of what the classifier saw, as parts of the image's sides; may reach
        beyond 0 to 1. The whole image for a network without lungs.
    lungs
        float32 [N, H/2, W/2] in [0, 1], how probably each place of the image is lung; [N, 1, 1] of ones for a network
        that does not look for lungs.
    subtype
        float32 [N, 2], logits of `AGENTS`, which mean something only where there is a pneumonia.
    outlier
        float32 [N], 0 and up: 1 and above is out of distribution. NaN where the score was not fitted.
    """

    logits: NDArray[np.float32]
    evidence: NDArray[np.float32]
    box: NDArray[np.float32]
    lungs: NDArray[np.float32]
    subtype: NDArray[np.float32]
    outlier: NDArray[np.float32]


def probability(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probability of PNEUMONIA, float32 [N] in [0, 1]: the softmax's second column."""
    # A softmax over two classes is the logistic function of their difference; tanh does not overflow.
    half = (logits[:, 1].astype(np.float64) - logits[:, 0]) / 2
    return ((1 + np.tanh(half)) / 2).astype(np.float32)
