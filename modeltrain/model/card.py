"""Model folders: weights, their card, and the check that the card was written for these weights.

A folder holds

    model.json         the card
    model.safetensors  the weights; torch reads them
    model.onnx         the network; ONNX Runtime reads its weights from model.safetensors (ONNX external data)
    model.int8.onnx    the network with convolutions in integers, where export found that it decides like the other
    seen_images.npy    which images it has learnt from (modeltrain/data/seen_images.py)
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_io.durable import file_sha256
from dicom_io.errors import InvalidModel
from dicom_io.finding import ModelIdentity
from modeltrain.model.outputs import CLASSES

CARD, ONNX, SAFETENSORS, CURRENT = "model.json", "model.onnx", "model.safetensors", "CURRENT"
INT8 = "model.int8.onnx"
SEAL = "model.json.sha256"  # beside a card that was added to a site's models: it is never changed there
SEEN_IMAGES = "seen_images.npy"

# 1.7.0 was first published with its weights inside model.onnx. Results bear the digest of that file, so it stays.
_WEIGHTS_OF_1_7_0 = "54a7ee6651563521958b1135577595c32f32761ced9fc9f1ba44840f94a2a153"
_DIGEST_OF_1_7_0 = "e63268a0cd91ac88d006ccffb22892600c7693b44e89444c7029638514466eb9"


@dataclass(frozen=True, slots=True)
class Card:
    """What a model folder says of itself; its files were compared with the digests in it.

    Attributes
    ----------
    threshold
        Probability from which the decision is PNEUMONIA, in (0, 1): that of the operating point `screening`.
    operating_points
        The thresholds by name; `screening` is always there.
    input_size
        Side of the network's square input in pixels.
    sha256
        The model's identity, hexadecimal: `digest` in `model.json`, which is `weights_digest` of its files. It is part
        of the UIDs of every result, of the audit and of the model's name by content.
    raw
        All of `model.json`.
    """

    name: str
    version: str
    folder: Path
    threshold: float
    operating_points: dict[str, float]
    classes: tuple[str, ...]
    input_size: int
    sha256: str
    arch: str
    raw: dict[str, Any]

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each of the folder's files but the card, by file name."""
        return {name: _text(entry["sha256"]) for name, entry in self.raw["files"].items()}

    @property
    def lungs(self) -> bool:
        """Whether the network looks at the lungs alone, and says where they are."""
        return bool(self.raw.get("lungs", False))

    @property
    def identity(self) -> ModelIdentity:
        """What results and the audit call this model."""
        return ModelIdentity(self.name, self.version, self.sha256)

    @property
    def label(self) -> str:
        """Name and version in one word, as the model's folder is called."""
        return f"{self.name}-{self.version}"


def load_card(folder: Path, *, serves: bool = True) -> Card:
    """Read a model's card and compare its files with the digests in it.

    Parameters
    ----------
    serves
        False where only weights and lineage are needed: a model of an earlier version of cxrd, whose answers have
        another form than `modeltrain.model.outputs.Outputs`, will then do.

    Raises
    ------
    InvalidModel
        The folder or a file is missing, the card is not one or was changed after it was added to a site's models, a
        file is not the one the card was written for, or the model's answers have an earlier version's form.
    """
    if not folder.is_dir():
        raise InvalidModel(f"{folder}: no such model folder")
    path = folder / CARD
    raw = _read_card(path)
    try:
        card = Card(
            name=_text(raw["name"]),
            version=_text(raw["version"]),
            folder=folder,
            threshold=float(raw["threshold"]["value"]),
            operating_points={"screening": float(raw["threshold"]["value"])}
            | {name: float(point["threshold"]) for name, point in raw.get("operating_points", {}).items()},
            classes=tuple(raw["classes"]),
            input_size=int(raw["preprocessing"]["size"]),
            sha256=_text(raw["digest"]),
            arch=_text(raw["arch"]),
            raw=raw,
        )
        identity = weights_digest(card.digests)
    except KeyError as error:
        raise InvalidModel(f"{path}: {error.args[0]} is missing") from error
    except (TypeError, ValueError) as error:
        raise InvalidModel(f"{path}: not a model card ({error})") from error
    if card.classes != CLASSES:
        raise InvalidModel(f"{path}: its classes are not {' and '.join(CLASSES)}")
    if (
        not all(0 < threshold < 1 for threshold in (card.threshold, *card.operating_points.values()))
        or card.input_size < 1
    ):
        raise InvalidModel(f"{path}: threshold or input size is out of range")
    for name, digest in card.digests.items():
        if file_digest(folder / name) != digest:
            raise InvalidModel(f"{folder / name}: is not the file that {CARD} was written for (SHA-256 differs)")
    if serves and "lungs" not in raw:
        raise InvalidModel(
            f"{folder}: was made by an earlier version of cxrd and cannot serve; "
            f"begin with its weights (cxrd retrain --from {folder}), or use another model (cxrd models list)"
        )
    if card.sha256 != identity:
        raise InvalidModel(f"{path}: digest is not that of {ONNX} and {SAFETENSORS}")
    return card


def weights_digest(digests: dict[str, str]) -> str:
    """Return a model's identity, hexadecimal, from the digests of its files.

    It is the SHA-256 over the lines 'file name, NUL, SHA-256 of the file' of `model.onnx` and `model.safetensors`: the
    network and its weights. The int8 copy is made from these two. Version 1.7.0 keeps the digest that it was published
    with: that of `model.onnx` with the weights in it.

    Raises
    ------
    KeyError
        One of the two is missing.
    """
    lines = "".join(f"{name}\0{digests[name]}\n" for name in (ONNX, SAFETENSORS))
    digest = hashlib.sha256(lines.encode()).hexdigest()
    return _DIGEST_OF_1_7_0 if digest == _WEIGHTS_OF_1_7_0 else digest


def _read_card(path: Path) -> Any:
    seal = path.with_name(SEAL)
    try:
        text = path.read_bytes()
        sealed = seal.read_bytes().decode("ascii", "replace").strip() if seal.exists() else None
    except OSError as error:
        raise InvalidModel(f"{path}: cannot be read ({error.strerror})") from error
    if sealed not in (None, hashlib.sha256(text).hexdigest()):
        raise InvalidModel(f"{path}: was changed after it was added; add what it is to be as another version")
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidModel(f"{path}: not JSON ({error})") from error


def file_digest(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal.

    Raises
    ------
    InvalidModel
        The file is missing or cannot be read.
    """
    try:
        return file_sha256(path)
    except OSError as error:
        raise InvalidModel(f"{path}: cannot be read ({error.strerror})") from error


def shipped_model() -> Path:
    """Return the folder of the model that comes with cxrd: in a checkout, or in an installed wheel.

    Raises
    ------
    InvalidModel
        There is none.
    """
    top = Path(__file__).resolve().parents[2]
    for models in (top / "models", top / "worker" / "_shipped" / "models"):
        if (models / CURRENT).is_file():
            return current_model(models)
    raise InvalidModel(f"no models/{CURRENT} beside {top / 'modeltrain'}: this installation carries no model")


def current_model(models: Path) -> Path:
    """Return the folder that a models folder's CURRENT names.

    Raises
    ------
    InvalidModel
        CURRENT is missing or does not name a folder beside it.
    """
    try:
        name = (models / CURRENT).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidModel(f"{models / CURRENT}: cannot be read") from error
    if not name or Path(name).name != name or not (models / name).is_dir():
        raise InvalidModel(f"{models / CURRENT}: does not name a model folder beside it")
    return models / name


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("text expected")
    return value
