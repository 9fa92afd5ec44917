"""Model folders: what is shipped is whole, and what was altered is found out in one line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from dicom_io.errors import InvalidModel
from modeltrain.model.card import INT8, current_model, file_digest, load_card, shipped_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with stand-ins for weights."""
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    (tmp_path / "model.safetensors").write_bytes(b"safetensors")
    card = {
        "name": "toy",
        "version": "1.0.0",
        "arch": "resnet18",
        "classes": ["NORMAL", "PNEUMONIA"],
        "threshold": {"value": 0.25},
        "preprocessing": {"size": 224},
        "files": {name: {"sha256": file_digest(tmp_path / name)} for name in ("model.onnx", "model.safetensors")},
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
    assert card.sha256 == file_digest(folder / "model.onnx")
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
    # A repository must stay light: the weights twice at half precision, and once as int8 where that keeps its word.
    assert sum(path.stat().st_size for path in folder.iterdir() if path.name != INT8) < 50_000_000
    assert INT8 not in card.digests or (folder / INT8).stat().st_size < 15_000_000
