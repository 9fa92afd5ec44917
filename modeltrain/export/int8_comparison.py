"""Does a model's int8 file decide as its other one does?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import roc_auc_score

from modeltrain.export.calibrate import Raw, operating_points, raw_answers
from modeltrain.export.onnx_file import onnx_predictor
from modeltrain.model.card import INT8
from modeltrain.model.decision import calibrated

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from modeltrain.data.samples import Split
    from modeltrain.evaluation.evaluate import Predict

_MOST_FLIPS, _OF, _MOST_AUC = 2, 624, 0.001  # of as many decisions as the public test split has images
_MOST_OUT_OF_DISTRIBUTION = 0.01  # of the images compared


def compare_int8(
    folder: Path, split: Split, predict: Predict, fp32: Raw, fitted: dict[str, Any], other_images: NDArray[np.float32]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compare a model folder's two files; return what its card says of that, and operating points that hold in both.

    Parameters
    ----------
    predict, fp32
        The other file, and its answers on the validation patients, on whom decisions and AUC are compared.
    fitted
        What was fitted to these answers (`modeltrain.export.calibrate.fit_all`).
    other_images
        Out of distribution, float32 [N, 1, size, size]. That score is compared on the validation patients and on these.
    """
    both = (predict, onnx_predictor(folder / INT8))
    int8 = raw_answers(both[1], split.validation)
    slope, intercept = fitted["calibration"]["slope"], fitted["calibration"]["intercept"]
    scores = [calibrated(raw.logits, slope, intercept) for raw in (fp32, int8)]
    points = operating_points(fp32.labels, *scores)
    tried = (fitted["operating_points"], points)  # those of both are lower where int8 finds less
    flips = {name: max(_differ(scores, each[name]["threshold"]) for each in tried) for name in points}
    auc = [float(roc_auc_score(fp32.labels, score)) for score in scores]
    batches = np.split(other_images, range(16, len(other_images), 16))
    out_of_distribution = [
        np.concatenate([raw.outlier, *(predict_batch(batch).outlier for batch in batches)]) >= 1
        for raw, predict_batch in zip((fp32, int8), both, strict=True)
    ]
    flag_flips = int((out_of_distribution[0] != out_of_distribution[1]).sum())
    kept = (
        max(flips.values()) * _OF <= _MOST_FLIPS * len(fp32.labels)
        and abs(auc[1] - auc[0]) <= _MOST_AUC
        and flag_flips <= _MOST_OUT_OF_DISTRIBUTION * len(out_of_distribution[0])
    )
    comparison = {
        "kept": kept,
        "compared_on": "validation",
        "decisions_that_differ": flips,
        "auc": [round(value, 5) for value in auc],
        "largest_difference": round(float(np.abs(scores[0] - scores[1]).max()), 4),
        "out_of_distribution": {"images": len(out_of_distribution[0]), "that_differ": flag_flips},
        "rule": f"kept where at most {_MOST_FLIPS} decisions in {_OF} differ, at thresholds of the fp32 file alone and "
        f"at those of both; the AUC by at most {_MOST_AUC}; and at most "
        f"{_MOST_OUT_OF_DISTRIBUTION:.0%} of the images are out of distribution for one file alone. Compared are "
        "the validation images and a sample that is out of distribution",
    }
    return comparison, points


def _differ(scores: list[NDArray[np.float32]], threshold: float) -> int:
    return int(((scores[0] >= threshold) != (scores[1] >= threshold)).sum())
