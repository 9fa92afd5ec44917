"""The int8 file for the CPU: the classifier's convolutions in integers, all else in floating point."""

from __future__ import annotations

import io
import logging
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx.numpy_helper import from_array, to_array
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from modeltrain.export.external_weights import refer
from modeltrain.model.card import INT8, ONNX, SAFETENSORS
from modeltrain.model.onnx_session import open_session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

_PERCENTILE = 99.999  # of an activation's values: a range that one outlying value decides wastes steps on the others
_AT_ONCE = 10  # images whose activations the calibration holds in memory
_GREY_CHANNELS = (1, 3)  # of an image; a classifier gets it three times
_LUNGS = "lungs."  # in the name of each weight of the search for lungs
_WITH_BIAS = 3  # inputs of a convolution: image, weights, bias
_SHARED = "gate."  # begins the names of tensors that are the same in the file of weights


def write_int8(folder: Path, images: Sequence[NDArray[np.float32]]) -> None:
    """Write a model folder's int8 file (`quantize`).

    The tensors of the out-of-distribution score stay in the file of weights, to which it refers.
    """
    quantize(folder / ONNX, folder / INT8, images)
    model = onnx.load_model(folder / INT8)
    refer(model, folder / SAFETENSORS, _SHARED)
    (folder / INT8).write_bytes(model.SerializeToString())


def quantize(source: Path, target: Path, images: Sequence[NDArray[np.float32]]) -> None:
    """Write an int8 copy of a model's ONNX file: its convolutions, by static quantization.

    Weights are per channel and of seven bits, since CPUs without VNNI add pairs of eight-bit products in sixteen bits,
    which would overflow: so the answers are the same on every CPU. Ranges leave out the farthest 0.001 % of an
    activation's values. Only what a quantized convolution reads and writes is rounded: residual sums and the
    out-of-distribution score take the values as they are. Biases make up for the mean error (`_correct_biases`).

    Parameters
    ----------
    images
        Training images, float32 [1, size, size] in [0, 1], from which ranges and mean errors are taken. The activations
        of ten of them at most are held in memory: some 30 MB an image for a ResNet-18, and 160 MB for a DenseNet-121.
    """
    # The calibration wants parts of the same size.
    at_once = next(size for size in range(_AT_ONCE, 0, -1) if len(images) % size == 0)
    logging.getLogger().manager.disable, before = logging.WARNING, logging.getLogger().manager.disable
    try:
        # The calibration prints its progress; standard output is for the command's own answer.
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
            whole, prepared = Path(folder) / "whole.onnx", Path(folder) / "prepared.onnx"
            onnx.save_model(onnx.load_model(source), whole)  # with its weights in it
            # Folds norms into convolutions and casts into weights, which the quantizer wants as plain numbers.
            quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(prepared),
                str(target),
                _Images(images),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "Relu"],  # a Relu behind a convolution becomes a part of it
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.Percentile,
                nodes_to_exclude=_kept_whole(prepared),
                extra_options={"CalibPercentile": _PERCENTILE, "CalibStridedMinMax": at_once},
            )
            plain, model = onnx.load_model(prepared), onnx.load_model(target)
            _read_whole(model)
            _correct_biases(model, plain, images)
            target.write_bytes(model.SerializeToString())
    finally:
        logging.getLogger().manager.disable = before


class _Images(quantization.CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime carries no types
    """Hands images to the calibration, one at a time, of the range that it asks for."""

    def __init__(self, images: Sequence[NDArray[np.float32]]) -> None:
        self._images = images
        self._waiting: Iterator[NDArray[np.float32]] = iter(images)

    def __len__(self) -> int:
        return len(self._images)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Go on with the images of a range."""
        self._waiting = iter(self._images[start_index:end_index])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next input, or None at the end."""
        image = next(self._waiting, None)
        return None if image is None else {"image": image[np.newaxis]}


def _kept_whole(path: Path) -> list[str]:
    """Name the convolutions that stay in floating point: few operations, through which every later error passes.

    These are the search for lungs, whose edge decides for each pixel whether the classifier sees it; the convolution
    that sees grey values; and the shortcuts of residual blocks that halve the side (1×1, in steps of two).
    """
    graph = onnx.load(path).graph
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    kept = []
    for node in (node for node in graph.node if node.op_type == "Conv"):
        how = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        shortcut = list(how.get("kernel_shape", ())) == [1, 1] and list(how.get("strides", ())) == [2, 2]
        sees_grey = how.get("group", 1) == 1 and sizes.get(node.input[1], [0, 0])[1] in _GREY_CHANNELS
        if shortcut or sees_grey or _LUNGS in node.input[1]:
            kept.append(node.name)
    return kept


def _read_whole(model: onnx.ModelProto) -> None:
    """Let the operations in floating point read an activation, in place, as it was before it was rounded.

    The quantizer gives the rounded values to all who read them. What a quantized convolution writes is rounded for all.
    """
    made_by = _made_by(model)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or _is_quantized(node, made_by):
            continue
        for place, name in enumerate(node.input):
            rounded = made_by.get(name)
            rounding = made_by.get(rounded.input[0]) if rounded and rounded.op_type == "DequantizeLinear" else None
            whole = rounding.input[0] if rounding and rounding.op_type == "QuantizeLinear" else ""
            if whole in made_by and not _is_quantized(made_by[whole], made_by):
                node.input[place] = whole


def _correct_biases(model: onnx.ModelProto, plain: onnx.ModelProto, images: Sequence[NDArray[np.float32]]) -> None:
    """Shift each quantized convolution's bias, in place, by the mean error of each of its channels.

    One after the other, since each error depends on what came before (Nagel et al. 2019, "Data-free quantization
    through weight equalization and bias correction", section 4.2; here with images).

    Parameters
    ----------
    plain
        The network in floating point; nodes have the same names.
    """
    made_by = _made_by(model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs = {node.name: node.output[0] for node in plain.graph.node}
    shifted = [node for node in model.graph.node if _is_quantized(node, made_by) and len(node.input) == _WITH_BIAS]
    targets = _channel_means(plain, [outputs[node.name] for node in shifted], images)
    for node, means in zip(shifted, targets, strict=True):
        error = means - _channel_means(model, [node.output[0]], images)[0]
        bias, scale = (tensors[name] for name in made_by[node.input[2]].input[:2])
        steps = np.round(error / to_array(scale)).astype(np.int32)
        bias.CopyFrom(from_array(to_array(bias) + steps, bias.name))


def _channel_means(
    model: onnx.ModelProto, activations: Sequence[str], images: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.float64]]:
    """Return the mean of each channel of activations [N, C, h, w] over images: float64 [C] for each activation."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.onnx"
        onnx.save_model(_part(model, activations), path)
        session = open_session(path)
        answers = (session.run(list(activations), {"image": image[np.newaxis]}) for image in images)
        means = [[answer.mean(axis=(0, 2, 3)) for answer in each] for each in answers]
    return [np.mean(each, axis=0, dtype=np.float64) for each in zip(*means, strict=True)]


def _part(model: onnx.ModelProto, activations: Sequence[str]) -> onnx.ModelProto:
    """Return what of a model leads to activations, which are its outputs."""
    needed, nodes = set(activations), []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    numbers = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in activations]
    graph = onnx.helper.make_graph(nodes[::-1], "part", model.graph.input, outputs, numbers)
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _made_by(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Return which node makes each tensor of a model."""
    return {name: node for node in model.graph.node for name in node.output}


def _is_quantized(node: onnx.NodeProto, made_by: dict[str, onnx.NodeProto]) -> bool:
    """Whether a node is a convolution whose weights are integers."""
    weights = made_by.get(node.input[1]) if node.op_type == "Conv" else None
    return weights is not None and weights.op_type == "DequantizeLinear"
