"""From a picture of any size to the network's input: the same steps in training, evaluation and service."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import ImageOps, JpegImagePlugin, PngImagePlugin

from dicom_io.errors import UnreadableObject, UnsupportedPixels
from dicom_io.pixels import radiograph
from modeltrain.model.squash import squash

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

INPUT_SIZE = 224
MAX_PIXELS = 60_000_000  # four times the largest detectors in use (about 4,300×3,500)
PICTURE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png"})

# The plugins by name, not `Image.open`: it warns about large pictures before their size can be refused here.
_OPENERS = {b"\x89PNG": PngImagePlugin.PngImageFile, b"\xff\xd8": JpegImagePlugin.JpegImageFile}


def to_input(values: NDArray[np.float32], size: int = INPUT_SIZE) -> NDArray[np.float32]:
    """Squash a radiograph to the network's square.

    Pillow's bicubic filter, which widens with the reduction (antialiased), so that a full-size detector image looks to
    the network much like its small JPEG copy. How it was picked, and on which images, stands in docs/model_card.md.

    Parameters
    ----------
    values
        float32 [H, W] in [0, 1], 0 black (air) and 1 white (bone).
    size
        Side of the square in pixels.

    Returns
    -------
    float32 [1, size, size] in [0, 1]; the very values for an input that has this size already.
    """
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"expected a grey image [H, W], got shape {values.shape}")
    grey = np.ascontiguousarray(values, dtype=np.float32)
    if grey.shape != (size, size):
        grey = np.clip(squash(grey, size), 0, 1)  # the filter overshoots a little at edges
    return grey[np.newaxis]


def read_picture(path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.float32]:
    """Read a JPEG or PNG file as grey values.

    Colour becomes luma (ITU-R BT.601), 16-bit PNG keeps its depth, and an EXIF orientation is followed.

    Returns
    -------
    float32 [H, W] in [0, 1].

    Raises
    ------
    UnreadableObject
        The file cannot be read, is not a JPEG or PNG, is damaged, or has more than `max_pixels` pixels (which is
        found out from its header, before anything is decoded).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableObject(f"{path}: cannot be read ({error.strerror})") from error
    opener = next((opener for magic, opener in _OPENERS.items() if data.startswith(magic)), None)
    if opener is None:
        raise UnreadableObject(f"{path}: not a JPEG or PNG picture")
    try:
        with opener(io.BytesIO(data)) as picture:
            columns, rows = picture.size
            if rows * columns > max_pixels:
                raise UnreadableObject(f"{path}: {columns}×{rows} pixels are more than the {max_pixels:,} allowed")
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith("I"):  # 16-bit grey
                return np.asarray(upright, dtype=np.float32) / np.float32(65535)
            return np.asarray(upright.convert("L"), dtype=np.float32) / np.float32(255)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow says "broken PNG" with a SyntaxError
        raise UnreadableObject(f"{path}: damaged picture ({error})") from error


def read_and_tell(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[NDArray[np.float32], dict[str, str]]:
    """Read a JPEG or PNG file, or render a DICOM object as serving does: float32 [H, W] in [0, 1].

    Beside it, by what a DICOM object belongs to subgroups (see `pixels.radiograph.attributes`); nothing of a picture.

    Raises
    ------
    UnreadableObject, UnsupportedPixels
        The file cannot be read; the message names it.
    """
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return read_picture(path, max_pixels), {}
    try:
        rendered, attributes = radiograph.read(path, max_pixels=max_pixels)
    except (UnreadableObject, UnsupportedPixels) as error:
        raise type(error)(f"{path}: {error}") from error
    return rendered.values, attributes


def names_in_header(path: Path) -> tuple[str, str]:
    """Return a DICOM object's Patient ID and SOP Instance UID, each empty where it has none; of a picture both are."""
    return ("", "") if path.suffix.lower() in PICTURE_SUFFIXES else radiograph.names(path)
