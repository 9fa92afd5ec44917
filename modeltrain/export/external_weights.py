"""Lets an ONNX model read its weights from a safetensors file, so that a model folder holds them once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from pathlib import Path

HALF = ".half"  # ends the name of a matrix that is stored at half precision
_LEAST = 1024  # bytes: smaller tensors stay in the ONNX file, where the runtime's graph optimisations look at constants
_TYPES = {"F16": onnx.TensorProto.FLOAT16, "F32": onnx.TensorProto.FLOAT}  # by safetensors' names


def refer(model: onnx.ModelProto, weights: Path, prefix: str = "") -> None:
    """Replace an ONNX model's tensors, in place, by references to the same tensors in a safetensors file.

    Only tensors whose names begin with `prefix`.

    ONNX calls them external data (onnx/docs/ExternalData.md): a file beside the model, an offset and a length. Both
    formats store little-endian values in row-major order, so the bytes are the same.

    Raises
    ------
    ValueError
        The file holds another tensor under this name.
    """
    content = weights.read_bytes()
    header_end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:header_end])
    for tensor in model.graph.initializer:
        entry = header.get(tensor.name.removesuffix(HALF).removeprefix("net."))
        if entry is None or not tensor.name.startswith(prefix) or len(tensor.raw_data) < _LEAST:
            continue
        start, end = (header_end + offset for offset in entry["data_offsets"])
        same_form = (_TYPES.get(entry["dtype"]), entry["shape"]) == (tensor.data_type, list(tensor.dims))
        if not same_form or content[start:end] != tensor.raw_data:
            raise ValueError(f"{tensor.name} is another tensor in {weights}")
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", weights.name), ("offset", start), ("length", end - start)):
            tensor.external_data.add(key=key, value=str(value))
