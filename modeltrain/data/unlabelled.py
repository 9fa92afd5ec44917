"""Images of which nobody knows the class: what teachers say of them, and see in them, can be learnt all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modeltrain.data.samples import UNLABELLED, Sample, data_digest, patient_of, pictures, with_contents
from modeltrain.data.sources import Source, refuse

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
    paths = pictures(folder)
    samples = with_contents([Sample(path, UNLABELLED, patient_of(path.stem)) for path in paths])
    name = f"{len(samples)} images without labels in folder {folder.resolve().name}"
    return Source(name, samples, data_digest(samples, folder))


def refuse_known(unlabelled: Source, known: Sequence[Sample], what_for: str, *, patients: bool = False) -> None:
    """Raise an error where images without a label are among others, by their bytes.

    Parameters
    ----------
    what_for
        What the others are for, as the error says it.
    patients
        Whether other images of the others' patients are refused too, as far as their names tell whose they are.

    Raises
    ------
    InvalidData
        Some are: what teachers say of them would be learnt, or teachers know them by heart.
    """
    contents = {sample.content: sample for sample in with_contents(known)}
    named = {sample.patient: sample for sample in known if patients and sample.patient != sample.path.stem}
    faults = []
    for sample in unlabelled.samples:
        if sample.content in contents:
            faults.append(f"{sample.shown} is {contents[sample.content].shown}, which is for {what_for}")
        elif sample.patient != sample.path.stem and sample.patient in named:
            faults.append(f"{sample.shown} is of the patient of {named[sample.patient].shown}, which is for {what_for}")
    refuse(unlabelled.name, faults)
