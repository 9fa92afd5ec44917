"""Files of tensors with a text in their header."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import save_file

from dicom_io import durable
from dicom_io.errors import OutOfResources

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    """Write tensors and texts by name, complete or not at all.

    Raises
    ------
    OutOfResources
        The file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, temporary, header)
        durable.sync(temporary)
        durable.place(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise OutOfResources(f"{path}: cannot be written ({error})") from error
