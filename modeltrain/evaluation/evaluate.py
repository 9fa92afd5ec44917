"""A model's figures on labelled radiographs, from its answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score, precision_score, roc_auc_score

from dicom_io.errors import InvalidData
from modeltrain.data.samples import Sample, evaluation_samples, read_with_attributes
from modeltrain.model.evidence import evidence_map
from modeltrain.model.outputs import CLASSES, Outputs, probability
from modeltrain.model.preprocess import INPUT_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dicom_io.finding import Finding
    from modeltrain.model.decision import Decider

Predict = Callable[[NDArray[np.float32]], Outputs]
"""From float32 [N, 1, size, size] in [0, 1] to the network's outputs."""

_MAP = 56  # side of the maps that are kept of each image
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Answers:
    """A model's answers to radiographs.

    Attributes
    ----------
    probability
        float32 [N], calibrated where a decider was asked too.
    evidence
        float32 [N, 56, 56], maps of evidence in the radiographs' frame (`modeltrain.model.evidence.evidence_map`).
    judgements
        The decider's finding of each image; empty without a decider.
    subtype
        float32 [N], probability of the second of `AGENTS`, NaN where the model does not tell.
    attributes
        What the header of each image states (see `dicom_io.pixels.radiograph.attributes`); empty where nobody looked.
    images
        The network's inputs, float32 [1, size, size] in [0, 1], of the samples that were to be kept, by their indices.
    """

    samples: tuple[Sample, ...]
    probability: NDArray[np.float32]
    evidence: NDArray[np.float32]
    judgements: tuple[Finding, ...] = ()
    subtype: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    attributes: tuple[dict[str, str], ...] = ()
    images: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The true classes, int64 [N]: indices into `CLASSES`."""
        return np.array([sample.label for sample in self.samples], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts of images at the threshold; PNEUMONIA is positive."""

    true_negative: int
    false_positive: int
    false_negative: int
    true_positive: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model's figures on a set of `n` radiographs, at one threshold. All but counts and names lie in [0, 1]."""

    model: str
    n: int
    normal: int
    pneumonia: int
    auc: float
    threshold: float
    sensitivity: float
    specificity: float
    accuracy: float
    precision: float
    f1: float
    confusion: Confusion

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def evaluate(
    predict: Predict,
    data: Path | Sequence[Sample],
    *,
    threshold: float,
    model: str,
    decider: Decider | None = None,
    size: int = INPUT_SIZE,
    keep: Collection[int] = (),
    advance: Callable[[int, int], None] | None = None,
) -> tuple[Evaluation, Answers]:
    """Evaluate a model on labelled radiographs.

    Parameters
    ----------
    data
        The radiographs (see `data.evaluation_set`), or a folder that holds NORMAL/ and PNEUMONIA/ itself or
        in test/.
    threshold
        Probability from which the decision is PNEUMONIA.
    model
        What the model is called in the result.
    decider
        The model's decider, where the answers shall be what serving says; without it probabilities are as they come.
    keep
        Indices of the samples whose images are kept in memory (`Answers.images`).
    advance
        Called after each batch with the number of images done and of all images.

    Raises
    ------
    InvalidData
        A folder is missing or empty, so that a class is without images, or a picture cannot be read (which is named).
    """
    samples = evaluation_samples(data) if isinstance(data, Path) else data
    answers = answers_of(predict, samples, decider=decider, size=size, keep=keep, advance=advance)
    return measure(answers, threshold=threshold, model=model), answers


def answers_of(
    predict: Predict,
    samples: Sequence[Sample],
    *,
    decider: Decider | None = None,
    size: int = INPUT_SIZE,
    keep: Collection[int] = (),
    advance: Callable[[int, int], None] | None = None,
) -> Answers:
    """Return a model's answers to radiographs, which it sees sixteen at a time.

    Parameters are those of `evaluate`.

    Raises
    ------
    InvalidData
        There are no radiographs, or a picture cannot be read.
    """
    scores, maps, subtypes = [], [], []
    judgements: list[Finding] = []
    attributes: list[dict[str, str]] = []
    kept: dict[int, NDArray[np.float32]] = {}
    for start in range(0, len(samples), _BATCH):
        batch = samples[start : start + _BATCH]
        images, stated = zip(*(read_with_attributes(sample, size) for sample in batch), strict=True)
        outputs = predict(np.stack(images))
        attributes += stated
        kept |= {start + i: image for i, image in enumerate(images) if start + i in keep}
        scores.append(decider.probability(outputs.logits) if decider else probability(outputs.logits))
        subtypes.append(probability(outputs.subtype))
        judgements += decider(outputs) if decider else []
        slope, intercept = (decider.slope, decider.intercept) if decider else (1.0, 0.0)
        maps += [evidence_map(outputs, i, slope, intercept, side=_MAP) for i in range(len(batch))]
        if advance:
            advance(start + len(batch), len(samples))
    if not scores:
        raise InvalidData("no radiographs to evaluate")
    return Answers(
        tuple(samples),
        np.concatenate(scores),
        np.stack(maps),
        tuple(judgements),
        np.concatenate(subtypes),
        tuple(attributes),
        kept,
    )


def measure(answers: Answers, *, threshold: float, model: str) -> Evaluation:
    """Return the figures of a model's answers at a threshold.

    Raises
    ------
    InvalidData
        All images are of one class.
    """
    labels, scores = answers.labels, answers.probability
    _both_classes(labels)
    decisions = scores >= threshold
    tn, fp, fn, tp = (int(count) for count in confusion_matrix(labels, decisions, labels=[0, 1]).ravel())
    return Evaluation(
        model=model,
        n=len(labels),
        normal=tn + fp,
        pneumonia=fn + tp,
        auc=float(roc_auc_score(labels, scores)),
        threshold=threshold,
        sensitivity=tp / (tp + fn),
        specificity=tn / (tn + fp),
        accuracy=(tp + tn) / len(labels),
        precision=float(precision_score(labels, decisions, zero_division=0)),
        f1=float(f1_score(labels, decisions, zero_division=0)),
        confusion=Confusion(tn, fp, fn, tp),
    )


def _both_classes(labels: NDArray[np.int64]) -> None:
    present = set(labels.tolist())
    if len(present) < len(CLASSES):
        only = CLASSES[present.pop()] if present else "no images"
        raise InvalidData(f"both classes are needed to evaluate; found only {only}")
