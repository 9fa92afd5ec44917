"""The framing of radiographs, and overlap weights that keep it from telling the class.

In the public paediatric set, thirteen numbers that see no lung tell PNEUMONIA from NORMAL with a cross-validated AUC of
0.97: sick children were imaged another way. A network that learns this habit is wrong where it does not hold. Overlap
weights (Li, Morgan and Zaslavsky 2018) favour images whose framing says little about their class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from modeltrain.data.samples import Images, Sample

_FOLDS = 5
_DARK = 40  # of 255: the air beside a child on a film


def framing(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Describe the framing of a radiograph, uint8 [H, W] with H and W of 64 or more, in thirteen numbers.

    The logarithm of vertical over horizontal grain (how far the film was squashed), grain, contrast, brightness, width
    of the dark left and right side, black part, and the brightness of the top, bottom, left and right edge and of the
    two upper corners. Lengths are parts of the image's side.
    """
    grey = image.astype(np.float32)
    rows, columns = grey.shape
    across, down = float(np.abs(np.diff(grey, axis=1)).mean()), float(np.abs(np.diff(grey, axis=0)).mean())
    contrast = float(grey.std()) + 1e-3
    dark = grey[rows * 4 // 15 : rows * 9 // 10].mean(axis=0) < _DARK
    top, side = rows // 11, columns // 22
    return np.array(
        [
            np.log((down + 1e-3) / (across + 1e-3)),
            across / contrast,
            contrast,
            grey.mean(),
            np.argmin(dark) / columns,
            np.argmin(dark[::-1]) / columns,
            (image < 8).mean(),
            grey[:top, columns * 2 // 5 : columns * 3 // 5].mean(),
            grey[-top:].mean(),
            grey[:, :side].mean(),
            grey[:, -side:].mean(),
            grey[:top, : columns // 6].mean(),
            grey[:top, -(columns // 6) :].mean(),
        ],
        np.float32,
    )


def propensities(
    train: Sequence[NDArray[np.uint8]] | Images,
    samples: Sequence[Sample],
    others: Sequence[NDArray[np.uint8]] | Images,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how probable PNEUMONIA is by framing alone, for each training image and for each of the others.

    Both are float64 in [0, 1]. A training image is asked of a classifier that was fitted to other patients, the others
    of one that was fitted to all of `train`; their classes play no part. With too few patients for that, framing is
    taken to say nothing: 0.5 everywhere.
    """
    labels = np.array([sample.label for sample in samples])
    patients = np.array([sample.patient for sample in samples])
    if min(len(np.unique(patients[labels == label])) for label in (0, 1)) < 2 * _FOLDS:
        return np.full(len(train), 0.5), np.full(len(others), 0.5)
    own, theirs = (np.stack([framing(part[i]) for i in range(len(part))]) for part in (train, others))
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    model = HistGradientBoostingClassifier(
        max_iter=100, learning_rate=0.05, early_stopping=False, class_weight="balanced", random_state=seed
    )
    with threadpool_limits(1):  # small data: threads that wait for each other cost minutes where other work runs
        probability = cross_val_predict(model, own, labels, groups=patients, cv=folds, method="predict_proba")
        return probability[:, 1], model.fit(own, labels).predict_proba(theirs)[:, 1]


def overlap(train: Images, validation: Images, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the overlap weights of training and of validation images, float64 [N] each."""
    chances = propensities(train, train.samples, validation, seed)
    labels = [np.array([sample.label for sample in images.samples]) for images in (train, validation)]
    return overlap_weights(chances[0], labels[0]), overlap_weights(chances[1], labels[1])


def overlap_weights(propensities: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each image's overlap weight, float64 [N], with a mean of 1 in each class.

    The weight is the probability of the class that the image does *not* have. Under it both classes are framed alike.
    """
    weights = np.where(labels == 1, 1 - propensities, propensities)
    for label in (0, 1):
        weights[labels == label] /= weights[labels == label].mean()
    return weights
