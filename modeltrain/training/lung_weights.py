"""Weights that find lungs: a file of their own, and the record of how they came to be.

The file `lungs.safetensors` holds the state of `network.lungs.Lungs`, each name with `lungs.` before it, and the record
as JSON in its header. A training run and a model's card carry the record on.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from dicom_io.errors import InvalidData, InvalidModel
from modeltrain.model.card import CARD, SAFETENSORS, load_card
from modeltrain.training.tensor_file import save_tensors

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from torch import Tensor

LUNGS = "lungs.safetensors"
_PREFIX = "lungs."
_HEADER = "segmentation"  # of the record in the header of a run's file, too


@dataclass(frozen=True, slots=True)
class Overlap:
    """How well masks agree with those that people drew: the Dice coefficient, of 0 to 1.

    Attributes
    ----------
    mean, least
        Over the images.
    below
        Images with less than 0.9.
    """

    mean: float
    least: float
    below: int


@dataclass(frozen=True, slots=True)
class LungRecord:
    """How weights that find lungs came to be.

    Attributes
    ----------
    recipe
        Its name.
    seed, validation_fraction
        How the patients were divided into training and validation, as `cxrd train` divides them.
    epochs
        How often all training images were shown.
    data, parts
        The digest of the images' folder, and of each part of it, as in a training run.
    masks
        The digest of the masks that were used.
    train, validation, without_mask
        Images of each part that have a mask; images that have none and were left out.
    dice, dice_reframed
        On the validation images as they are, and on copies that were framed and exposed anew.
    credit
        Who drew the masks, and under which licence.
    commit
        The source code; empty where it is not known.
    """

    recipe: str
    seed: int
    validation_fraction: float
    epochs: int
    data: str
    parts: tuple[str, ...]
    masks: str
    train: int
    validation: int
    without_mask: int
    dice: Overlap
    dice_reframed: Overlap
    credit: str = ""
    commit: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self) | {"parts": list(self.parts)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> LungRecord:
        """Read plain values, as JSON has them.

        Raises
        ------
        KeyError, TypeError
            They are those of another form.
        """
        overlaps = {name: Overlap(**plain[name]) for name in ("dice", "dice_reframed")}
        return cls(**{**plain, **overlaps, "parts": tuple(plain["parts"])})

    @property
    def digest(self) -> str:
        """The identity of the weights: SHA-256 of their record."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def save_lungs(path: Path, state: Mapping[str, Tensor], record: LungRecord) -> None:
    """Write weights and their record, complete or not at all.

    Parameters
    ----------
    state
        Of a `network.lungs.Lungs`, under its own names.

    Raises
    ------
    OutOfResources
        The file cannot be written.
    """
    tensors = {f"{_PREFIX}{name}": value for name, value in state.items()}
    save_tensors(path, tensors, {_HEADER: json.dumps(record.to_dict())})


def record_behind(path: Path) -> LungRecord | None:
    """Return the record of the weights that find lungs in a file: of their own, a run's or a model folder's.

    Returns
    -------
    None where the file has no record: an earlier run's, or one of a network that sees the whole image.

    Raises
    ------
    InvalidData
        The file is missing or damaged.
    InvalidModel
        The folder is no intact model, or its card's entry is none.
    """
    if path.name == SAFETENSORS:
        card = load_card(path.parent, serves=False)
        return _read(card.raw.get(_HEADER), InvalidModel(f"{card.folder / CARD}: {_HEADER} is unusable"))
    unfit = InvalidData(f"{path}: its record of the weights that find lungs is unusable")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        own = json.loads(header.get(_HEADER, "null"))
        return _read(own or json.loads(header.get("progress", "{}")).get(_HEADER), unfit)
    except (OSError, SafetensorError) as error:
        raise InvalidData(f"{path}: does not hold weights that find lungs") from error
    except (ValueError, AttributeError) as error:
        raise unfit from error


def _read(plain: Any, unfit: InvalidData | InvalidModel) -> LungRecord | None:
    if not plain:
        return None
    try:
        return LungRecord.from_dict({name: value for name, value in plain.items() if name != "digest"})
    except (KeyError, TypeError, AttributeError) as error:
        raise unfit from error


def checked_record(path: Path, split: tuple[int, float], parts: Collection[str]) -> LungRecord | None:
    """Return the record of weights that find lungs, for a run on data with these digests.

    `split` are the run's seed and its `validation_fraction`.

    Raises
    ------
    InvalidData
        They learnt from a part of this run's data that was divided in another way: they have seen patients that are
        for validation here. Or the file is unusable.
    InvalidModel
        The folder is no intact model.
    """
    record = record_behind(path)
    if record is None:
        return None
    if {record.data, *record.parts} & set(parts) and (record.seed, record.validation_fraction) != split:
        raise InvalidData(
            f"{path}: its lungs have seen patients that are for validation here; "
            f"use seed {record.seed} and validation_fraction {record.validation_fraction}"
        )
    return record
