"""Models that differ from the shipped one in a known way."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from modeltrain.data.seen_images import write_seen_images
from modeltrain.data.sources import Sources
from modeltrain.model.card import CARD, ONNX, SAFETENSORS, SEEN_IMAGES, shipped_model

if TYPE_CHECKING:
    from pathlib import Path

    from modeltrain.data.sources import Source


def variant(
    folder: Path, *, version: str = "9.0.0", bias: float = 0.0, seen: Source | None = None, **card: Any
) -> Path:
    """Write a copy of the shipped model whose logit of PNEUMONIA is higher by `bias`, and return its folder.

    Parameters
    ----------
    seen
        What it says that it has learnt from; by default it does not say.
    card
        Parts of the card to put in place of the shipped ones.
    """
    source = shipped_model()
    folder.mkdir(parents=True)
    shutil.copyfile(source / SAFETENSORS, folder / SAFETENSORS)
    model = onnx.load_model(source / ONNX)
    for tensor in model.graph.initializer:
        if tensor.name in ("fc.bias", "net.fc.bias"):
            values = onnx.numpy_helper.to_array(tensor) + np.array([0, bias], np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save_model(model, folder / ONNX)
    raw = json.loads((source / CARD).read_text(encoding="utf-8"))
    raw |= {"version": version} | card
    written = [ONNX, SAFETENSORS]
    if seen:
        write_seen_images(folder, Sources((seen,)))
        raw["data"]["seen_images"] = {"complete": True}
        written.append(SEEN_IMAGES)
    raw["files"] = {name: raw["files"].get(name, {}) for name in written}
    for name in written:
        raw["files"][name] = {"sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}
    (folder / CARD).write_text(json.dumps(raw), encoding="utf-8")
    return folder
