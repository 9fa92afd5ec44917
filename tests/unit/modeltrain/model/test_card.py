"""Model folders: what is shipped is whole, and what was altered is found out in one line."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from dicom_io.errors import InvalidModel
from modeltrain.model.card import (
    INT8,
    ONNX,
    current_model,
    file_digest,
    load_card,
    shipped_model,
    weights_digest,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with stand-ins for weights."""
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    (tmp_path / "model.safetensors").write_bytes(b"safetensors")
    digests = {name: file_digest(tmp_path / name) for name in ("model.onnx", "model.safetensors")}
    card = {
        "name": "toy",
        "version": "1.0.0",
        "digest": weights_digest(digests),
        "arch": "resnet18",
        "lungs": True,
        "classes": ["NORMAL", "PNEUMONIA"],
        "threshold": {"value": 0.25},
        "preprocessing": {"size": 224},
        "files": {name: {"sha256": digest} for name, digest in digests.items()},
    }
    (tmp_path / "model.json").write_text(json.dumps(card))
    return tmp_path


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the card."""
    card = json.loads((folder / "model.json").read_text())
    change(card)
    (folder / "model.json").write_text(json.dumps(card))


def test_a_whole_folder_is_read(folder: Path) -> None:
    card = load_card(folder)
    assert (card.label, card.threshold, card.input_size) == ("toy-1.0.0", 0.25, 224)
    lines = "".join(f"{name}\0{file_digest(folder / name)}\n" for name in ("model.onnx", "model.safetensors"))
    assert card.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert card.raw["arch"] == card.arch == "resnet18"


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors"])
def test_an_altered_file_is_found_out(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"other")
    with pytest.raises(InvalidModel, match=rf"{name}: is not the file .* \(SHA-256 differs\)"):
        load_card(folder)


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors", "model.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InvalidModel, match=f"{name}: cannot be read"):
        load_card(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="gone: no such model folder"):
        load_card(tmp_path / "gone")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda card: card.pop("threshold"), "threshold is missing"),
        (lambda card: card["files"].pop("model.onnx"), "model.onnx is missing"),
        (lambda card: card.pop("digest"), "digest is missing"),
        (lambda card: card.update(digest="ab12" * 16), r"digest is not that of model\.onnx and model\.safetensors"),
        (lambda card: card.update(threshold={"value": "high"}), "not a model card"),
        (lambda card: card.update(threshold=0.5), "not a model card"),
        (lambda card: card.update(threshold={"value": 1.5}), "out of range"),
        (lambda card: card.update(classes=["CAT", "DOG"]), "classes are not"),
        (lambda card: card.update(name=7), "text expected"),
    ],
)
def test_a_wrong_card_is_refused(folder: Path, change: Callable[[dict[str, Any]], object], says: str) -> None:
    rewrite(folder, change)
    with pytest.raises(InvalidModel, match=says) as caught:
        load_card(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "null", "\xff"])
def test_a_card_that_is_no_card_is_refused(folder: Path, text: str) -> None:
    (folder / "model.json").write_text(text, encoding="latin-1")
    with pytest.raises(InvalidModel, match=r"model\.json"):
        load_card(folder)


@pytest.mark.parametrize("text", ["", "absent", "../models", "/etc", "."])
def test_current_names_a_folder_beside_it_or_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "CURRENT").write_text(text)
    with pytest.raises(InvalidModel, match="does not name a model folder"):
        current_model(tmp_path)


def test_the_shipped_model_is_whole() -> None:
    folder = shipped_model()
    card = load_card(folder)
    assert folder.name == card.label
    assert card.raw["intended_use"] == "research and screening support, not for diagnosis"
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name], "one version is shipped"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 40_000_000, "a repository must stay light"
    assert (folder / ONNX).stat().st_size < 150_000, "the weights are in the safetensors file alone"
    assert (folder / INT8).stat().st_size < 14_000_000


def test_the_shipped_card_says_which_file_its_figures_are_of() -> None:
    """The int8 file came after the one look at the test split: those figures are the other file's."""
    card = load_card(shipped_model())
    metrics = card.raw["metrics"]
    assert card.raw["int8"]["kept"]
    assert (metrics["of"], metrics["test"]["of"]) == (INT8, ONNX)
    assert metrics["validation"]["threshold"] == card.threshold
    own = {name: point["threshold"] for name, point in metrics["validation"]["operating_points"].items()}
    assert card.operating_points.items() <= own.items()


def test_a_model_of_an_earlier_version_cannot_serve_but_its_weights_can_be_begun_with(folder: Path) -> None:
    rewrite(folder, lambda card: card.pop("lungs"))
    with pytest.raises(
        InvalidModel, match=r"earlier version of cxrd and cannot serve; .*cxrd retrain --from"
    ) as caught:
        load_card(folder)
    assert "\n" not in str(caught.value)
    assert load_card(folder, serves=False).label == "toy-1.0.0"
