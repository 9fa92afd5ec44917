"""The model's weight files: safetensors at half precision, ONNX that reads them, and int8 for the CPU."""

from __future__ import annotations

import io
import logging
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir
import torch
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxscript import optimizer
from safetensors.torch import save_file

from modeltrain.export.external_weights import HALF, refer
from modeltrain.model.card import ONNX, SAFETENSORS
from modeltrain.model.onnx_session import open_session
from modeltrain.model.outputs import Outputs
from modeltrain.model.preprocess import INPUT_SIZE
from modeltrain.network.architectures import ChestNet, bare_names, load_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from modeltrain.evaluation.evaluate import Predict

OPSET = 18
_PERCENTILE = 99.999  # of an activation's values: a range that one outlying value decides wastes steps on the others
_AT_ONCE = 10  # images whose activations the calibration holds in memory
_WHOLE = "gate."  # kept at single precision: small differences of large sums


def write_weights(state: dict[str, Tensor], folder: Path, arch: str = "resnet18", *, lungs: bool = False) -> None:
    """Write `model.safetensors` and `model.onnx` from a state dict whose matrices are at half precision.

    The ONNX file holds the network and small tensors; it refers to the others in the safetensors file (ONNX external
    data).
    """
    save_file(bare_names(state), folder / SAFETENSORS)
    network = ChestNet(arch, lungs=lungs)
    load_weights(network, {key: value.float() for key, value in state.items()})
    model = _onnx_model(network.eval())
    refer(model, folder / SAFETENSORS)
    (folder / ONNX).write_bytes(model.SerializeToString())


def onnx_predictor(path: Path, threads: int = 0) -> Predict:
    """Return the forward pass of an ONNX file on the CPU (`threads` 0: as many as there are cores)."""
    session = open_session(path, threads)

    def predict(images: NDArray[np.float32]) -> Outputs:
        return Outputs(*session.run(list(Outputs._fields), {"image": images}))

    return predict


def rounded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state with its matrices at half precision.

    The vectors (norms and biases, a thousandth of the file) stay as they are: a small running variance would lose its
    digits.
    """
    return {
        key: value.half() if value.ndim > 1 and not key.startswith(_WHOLE) else value for key, value in state.items()
    }


def _onnx_model(network: ChestNet) -> onnx.ModelProto:
    """Return the network as ONNX: input `image` [N, 1, 224, 224], outputs as in `Outputs`."""
    example = torch.zeros(2, 1, INPUT_SIZE, INPUT_SIZE)
    # `optimize=True` would fold the norms into the convolutions, whose weights were then other numbers than those in
    # the safetensors file. ONNX Runtime folds them when it loads the file.
    program = torch.onnx.export(
        network,
        (example,),
        input_names=["image"],
        output_names=list(Outputs._fields),
        dynamic_shapes={"image": {0: torch.export.Dim("N")}},
        opset_version=OPSET,
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    if program is None:
        raise TypeError("torch.onnx.export returned nothing")
    optimizer.inline(program.model)
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    _forget_sources(program.model)
    matrices = {name for name, value in network.named_parameters() if value.ndim > 1}
    return _halved(program.model_proto, matrices)


def _forget_sources(model: onnx_ir.Model) -> None:
    """Take out the exporter's notes, which hold stack traces with this machine's paths."""
    for node in onnx_ir.traversal.RecursiveGraphIterator(model.graph):
        node.metadata_props.clear()
        node.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.metadata_props.clear()


def _halved(model: onnx.ModelProto, matrices: set[str]) -> onnx.ModelProto:
    """Store the matrices at half precision, each followed by a Cast back to float, which the runtime folds at load."""
    casts = []
    for tensor in model.graph.initializer:
        if (
            tensor.name not in matrices
        ):  # vectors, the out-of-distribution score, and what the exporter computed from weights
            continue
        name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
        half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            raise ValueError(f"{name} is not at half precision")
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}{HALF}"))
        casts.append(
            onnx.helper.make_node("Cast", [f"{name}{HALF}"], [name], f"cast.{name}", to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model


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


_MAPS = {"Conv", "Relu", "Clip", "Mul", "Add", "MaxPool"}  # what a feature map comes from


_GREY_CHANNELS = (1, 3)  # of an image; a classifier gets it three times


def _kept_whole(path: Path) -> list[str]:
    """Name the nodes that stay in floating point: few operations, through which every later error passes.

    These are the convolutions that see grey values (the first of the classifier, and of the search for lungs) and the
    one that says where lungs are, the shortcuts of residual blocks that halve the side (1×1, in steps of two), and
    every addition that does not join two feature maps: the sums of the out-of-distribution score, which must tell
    how far an image lies beyond what the ranges were taken from.
    """
    graph = onnx.load(path).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    attributes = [{item.name: list(item.ints) for item in node.attribute} for node in convolutions]
    shortcuts = [
        node.name
        for node, how in zip(convolutions, attributes, strict=True)
        if how.get("kernel_shape") == [1, 1] and how.get("strides") == [2, 2]
    ]
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    weights = [sizes.get(node.input[1], [0, 0]) for node in convolutions]
    groups = [next((item.i for item in node.attribute if item.name == "group"), 1) for node in convolutions]
    ends = [
        node.name
        for node, group, size in zip(convolutions, groups, weights, strict=True)
        if group == 1 and (size[1] in _GREY_CHANNELS or size[0] == 1)
    ]
    sums = [
        node.name
        for node in graph.node
        if node.op_type == "Add" and not all(made_by.get(name) in _MAPS for name in node.input)
    ]
    return [*ends, *shortcuts, *sums]


def quantize(source: Path, target: Path, images: Sequence[NDArray[np.float32]]) -> None:
    """Write an int8 copy of a model's ONNX file: its convolutions, by static quantization.

    Weights are per channel and of seven bits, since CPUs without VNNI add pairs of eight-bit products in sixteen bits,
    which would overflow: so the answers are the same on every CPU. Ranges leave out the farthest 0.001 % of an
    activation's values.

    Parameters
    ----------
    images
        Training images, float32 [1, size, size] in [0, 1], from which the range of each activation is taken. The
        activations of ten of them at most are held in memory: some 30 MB an image for a ResNet-18, and 160 MB for a
        DenseNet-121.
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
                op_types_to_quantize=["Conv", "Add", "MaxPool", "Relu"],
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.Percentile,
                nodes_to_exclude=_kept_whole(prepared),
                extra_options={"CalibPercentile": _PERCENTILE, "CalibStridedMinMax": at_once},
            )
    finally:
        logging.getLogger().manager.disable = before
