"""The model's weight files: safetensors at half precision, and ONNX that reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir
import torch
from onnxscript import optimizer
from safetensors.torch import save_file

from modeltrain.export.external_weights import HALF, refer
from modeltrain.model.card import ONNX, SAFETENSORS
from modeltrain.model.onnx_session import open_session
from modeltrain.model.outputs import Outputs
from modeltrain.model.preprocess import INPUT_SIZE
from modeltrain.network.architectures import ChestNet, bare_names, load_weights

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from modeltrain.evaluation.evaluate import Predict

OPSET = 18
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
