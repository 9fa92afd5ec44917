"""Images of which nobody knows the class: what teachers say of them, and see in them, can be learnt all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modeltrain.data import UNLABELLED, Sample, data_digest, pictures, with_contents
from modeltrain.source import Source, refuse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def unlabelled_source(folder: Path) -> Source:
    """Return the pictures of a folder, and of the folders in it, as images without labels (-1).

    Raises
    ------
    InvalidData
        The folder holds no picture, or one cannot be read.
    """
    samples = with_contents([Sample(path, UNLABELLED, path.stem) for path in pictures(folder)])
    return Source(f"folder {folder.resolve().name}, without labels", samples, data_digest(samples, folder))


def refuse_known(unlabelled: Source, validation: Sequence[Sample]) -> None:
    """Raise an error where an image without a label is one of the validation's, by its bytes.

    Raises
    ------
    InvalidData
        There is one: what teachers say of it would be learnt.
    """
    known = {sample.content: sample for sample in with_contents(validation)}
    twice = [sample for sample in unlabelled.samples if sample.content in known]
    refuse(unlabelled.name, [f"{s.shown} is {known[s.content].shown}, which is for validation" for s in twice])
