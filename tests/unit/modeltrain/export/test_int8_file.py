from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array
from safetensors.numpy import save_file

from modeltrain.export import int8_file
from modeltrain.export.int8_file import quantize, write_int8
from modeltrain.model.card import INT8, ONNX, SAFETENSORS, shipped_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHANNELS, SIDE = 8, 16


class Quantized(NamedTuple):
    """An int8 file's graph, by the names of the nodes and tensors."""

    nodes: dict[str, onnx.NodeProto]
    made_by: dict[str, onnx.NodeProto]

    def convolutions(self) -> set[str]:
        """Name the convolutions whose weights are integers."""
        return {
            name
            for name, node in self.nodes.items()
            if node.op_type == "Conv" and node.input[1] in self.made_by and self.origin(node, 1) is None
        }

    def origin(self, node: onnx.NodeProto, place: int) -> onnx.NodeProto | None:
        """Return what made a node's input before it was rounded; None for numbers of the file."""
        maker = self.made_by.get(node.input[place])
        while maker is not None and maker.op_type in ("QuantizeLinear", "DequantizeLinear"):
            maker = self.made_by.get(maker.input[0])
        return maker


def read(path: Path) -> Quantized:
    graph = onnx.load_model(path, load_external_data=False).graph
    return Quantized(
        {node.name: node for node in graph.node}, {name: node for node in graph.node for name in node.output}
    )


def images(count: int = 12) -> list[NDArray[np.float32]]:
    return list(np.random.default_rng(1).random((count, 1, SIDE, SIDE), np.float32))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a residual block behind a first convolution, with a shortcut, a search for lungs, and a score."""
    rng = np.random.default_rng(0)

    def conv(name: str, read: str, inputs: int, side: int = 3, stride: int = 1) -> onnx.NodeProto:
        bias = from_array(rng.normal(0, 0.1, CHANNELS).astype(np.float32), f"{name}.bias")
        spread = (inputs * side * side) ** -0.5
        weight = from_array(rng.normal(0, spread, (CHANNELS, inputs, side, side)).astype(np.float32), f"{name}.weight")
        numbers.extend([weight, bias])
        pads, strides = [side // 2] * 4, [stride] * 2
        return helper.make_node(
            "Conv", [read, weight.name, bias.name], [name], name, kernel_shape=[side, side], pads=pads, strides=strides
        )

    def relu(read: str) -> onnx.NodeProto:
        return helper.make_node("Relu", [read], [f"{read}.relu"], f"{read}.relu")

    numbers: list[onnx.TensorProto] = []
    nodes = [
        *(conv("first", "image", 1), relu("first")),
        *(conv("lungs.search", "first.relu", CHANNELS), relu("lungs.search")),
        *(conv("inner", "first.relu", CHANNELS), relu("inner"), conv("outer", "inner.relu", CHANNELS)),
        *(helper.make_node("Add", ["outer", "first.relu"], ["sum"], "sum"), relu("sum")),
        conv("shortcut", "sum.relu", CHANNELS, side=1, stride=2),
        conv("last", "sum.relu", CHANNELS),
        helper.make_node("GlobalAveragePool", ["sum.relu"], ["score"], "score"),
        helper.make_node("Flatten", ["score"], ["flat"], "flat"),
        helper.make_node("MatMul", ["flat", "gate.project"], ["outlier"], "outlier"),
    ]
    project = rng.normal(0, 1, (CHANNELS, 64)).astype(np.float32)
    outputs = ("lungs.search.relu", "shortcut", "last", "outlier")
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [*numbers, from_array(project, "gate.project")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save_model(model, tmp_path / ONNX)
    save_file({"gate.project": project}, tmp_path / SAFETENSORS)
    return tmp_path / ONNX


def answer(path: Path, image: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([name], {"image": image[np.newaxis]})[0])


def test_what_every_later_error_passes_through_stays_in_floating_point(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "int8.onnx", images())
    assert read(tmp_path / "int8.onnx").convolutions() == {"inner", "outer", "last"}
    image = np.random.default_rng(2).random((1, SIDE, SIDE), np.float32)
    before, after = (answer(path, image, "lungs.search.relu") for path in (source, tmp_path / "int8.onnx"))
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_operations_in_floating_point_read_what_was_not_rounded(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "int8.onnx", images())
    graph = read(tmp_path / "int8.onnx")
    direct = {name: [graph.made_by[read].op_type for read in graph.nodes[name].input] for name in ("sum", "score")}
    assert direct == {"sum": ["DequantizeLinear", "Relu"], "score": ["Relu"]}
    assert graph.made_by[graph.nodes["shortcut"].input[0]].op_type == "Relu"
    assert graph.made_by[graph.nodes["last"].input[0]].op_type == "DequantizeLinear", "an integer convolution's input"


def test_biases_make_up_for_the_mean_error(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def errors(path: Path) -> NDArray[np.float64]:
        both = [np.stack([answer(each, image, "last")[0] for image in images()]) for each in (source, path)]
        return np.asarray(np.abs((both[1] - both[0]).mean(axis=(0, 2, 3), dtype=np.float64)))

    quantize(source, tmp_path / "shifted.onnx", images())
    with monkeypatch.context() as patch:
        patch.setattr(int8_file, "_correct_biases", lambda *_: None)
        quantize(source, tmp_path / "plain.onnx", images())
    shifted, plain = errors(tmp_path / "shifted.onnx"), errors(tmp_path / "plain.onnx")
    # What is left is the rounding of what `last` itself writes.
    assert shifted.mean() < plain.mean() / 2


def test_the_score_for_out_of_distribution_is_in_the_file_of_weights_alone(source: Path) -> None:
    write_int8(source.parent, images())
    model = onnx.load_model(source.with_name(INT8), load_external_data=False)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}["gate.project"]
    assert {entry.key: entry.value for entry in stored.external_data}["location"] == SAFETENSORS
    image = images()[0]
    before, after = (answer(source.with_name(name), image, "outlier") for name in (ONNX, INT8))
    np.testing.assert_allclose(after, before, atol=0.05)


def test_the_shipped_int8_file_has_the_classifier_in_integers_and_the_search_for_lungs_whole() -> None:
    graph = read(shipped_model() / INT8)
    all_of_them = [node for node in graph.nodes.values() if node.op_type == "Conv"]
    assert (len(all_of_them), len(graph.convolutions())) == (36, 17)
    assert not any("lungs." in node.input[1] for node in all_of_them if node.name in graph.convolutions())
