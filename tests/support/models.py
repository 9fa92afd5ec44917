"""Models that differ from the shipped one in a known way."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from modeltrain.data.seen_images import write_seen_images
from modeltrain.data.sources import Sources
from modeltrain.export.external_weights import refer
from modeltrain.model.card import CARD, ONNX, SAFETENSORS, SEEN_IMAGES, file_digest, shipped_model, weights_digest

if TYPE_CHECKING:
    from pathlib import Path

    from modeltrain.data.sources import Source


def variant(folder: Path, *, version: str = "9.0.0", bias: float = 0.0, knows_all: bool = False, **card: Any) -> Path:
    """Write a copy of the shipped model whose logit of PNEUMONIA is higher by `bias`, and return its folder.

    With `knows_all` no image is out of distribution, so that drawn ones are answered. `card` has parts of the card to
    put in place of the shipped ones.
    """
    source = shipped_model()
    folder.mkdir(parents=True)
    shutil.copyfile(source / SAFETENSORS, folder / SAFETENSORS)
    model = onnx.load_model(source / ONNX, load_external_data=False)
    for node in model.graph.node:
        node.output[:] = ["bare_logits" if name == "logits" else name for name in node.output]
    more = numpy_helper.from_array(np.array([0, bias], np.float32), "more")
    model.graph.initializer.append(more)
    model.graph.node.append(helper.make_node("Add", ["bare_logits", "more"], ["logits"], "raise"))
    if knows_all:
        for node in model.graph.node:
            node.output[:] = ["bare_outlier" if name == "outlier" else name for name in node.output]
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "none"))
        model.graph.node.append(helper.make_node("Mul", ["bare_outlier", "none"], ["outlier"], "know"))
    (folder / ONNX).write_bytes(model.SerializeToString())
    return _with_card(folder, version, card)


def tiny(
    folder: Path,
    *,
    version: str = "9.0.0",
    bias: float = 0.0,
    seen: Source | None = None,
    lungs: bool = False,
    **card: Any,
) -> Path:
    """Write a model of a few kilobytes in the form of a real one, for tests to which its answers do not matter.

    Its logit of PNEUMONIA is the mean grey value and `bias`; its map is the mean of each tile of 32 pixels.

    Parameters
    ----------
    seen
        What it says that it has learnt from; by default it does not say.
    lungs
        Whether it looks for lungs: it takes all that is darker than 0.4 for them.
    card
        Parts of the card to put in place of the shipped ones.
    """
    folder.mkdir(parents=True)
    weight = np.zeros((2, 1, 32, 32), np.float32)
    weight[1] = 1 / weight[1].size
    save_file({"weight": weight}, folder / SAFETENSORS)
    constants = {
        "weight": weight,
        "bias": np.array([0, bias], np.float32),
        "tile": np.array([2, 3]),
        "unit": np.array([1]),
        "whole": np.array([[0, 0, 1, 1]], np.float32),
        "second": np.array([1]),
        "nothing": np.zeros((1, 1), np.float32),
        "one": np.ones((1, 1, 1), np.float32),
        "level": np.array(0.4, np.float32),
        "steepness": np.array(20, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["tiles"], strides=[32, 32]),
        helper.make_node("ReduceMax", ["tiles", "unit"], ["evidence"], keepdims=0),
        helper.make_node("ReduceMean", ["tiles", "tile"], ["mean"], keepdims=0),
        helper.make_node("ReduceMean", ["mean", "second"], ["grey"], keepdims=1),
        helper.make_node("Mul", ["grey", "nothing"], ["blank"]),
        helper.make_node("Add", ["blank", "whole"], ["box"]),
        helper.make_node("ReduceMean", ["blank", "second"], ["flat"], keepdims=1),
        *_lung_nodes(looks=lungs),
        helper.make_node("Add", ["mean", "bias"], ["logits"]),
        helper.make_node("Identity", ["logits"], ["subtype"]),
        helper.make_node("ReduceMax", ["mean", "second"], ["outlier"], keepdims=0),
    ]
    outputs: dict[str, list[int | str]] = {
        "logits": ["N", 2],
        "evidence": ["N", 7, 7],
        "box": ["N", 4],
        "lungs": ["N", *([112, 112] if lungs else [1, 1])],
        "subtype": ["N", 2],
        "outlier": ["N"],
    }
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 224, 224])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    refer(model, folder / SAFETENSORS)
    (folder / ONNX).write_bytes(model.SerializeToString())
    if seen:
        write_seen_images(folder, Sources((seen,)))
    return _with_card(folder, version, card)


def _lung_nodes(*, looks: bool) -> list[Any]:
    """Return what makes the output `lungs` of a tiny model."""
    if not looks:
        return [
            helper.make_node("Unsqueeze", ["flat", "second"], ["zero"]),
            helper.make_node("Add", ["zero", "one"], ["lungs"]),
        ]
    return [
        helper.make_node("AveragePool", ["image"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Squeeze", ["half", "unit"], ["halved"]),
        helper.make_node("Sub", ["level", "halved"], ["darkness"]),
        helper.make_node("Mul", ["darkness", "steepness"], ["odds"]),
        helper.make_node("Sigmoid", ["odds"], ["lungs"]),
    ]


def _with_card(folder: Path, version: str, parts: dict[str, Any]) -> Path:
    """Write the shipped model's card with other parts into a folder, and return the folder."""
    raw = json.loads((shipped_model() / CARD).read_text(encoding="utf-8")) | {"version": version} | parts
    if (folder / SEEN_IMAGES).exists():
        raw["data"]["seen_images"] = {"complete": True}
    names = [name for name in (ONNX, SAFETENSORS, SEEN_IMAGES) if (folder / name).exists()]
    digests = {name: file_digest(folder / name) for name in names}
    raw |= {"files": {name: {"sha256": digest} for name, digest in digests.items()}}
    raw |= {"digest": weights_digest(digests)}
    (folder / CARD).write_text(json.dumps(raw), encoding="utf-8")
    return folder
