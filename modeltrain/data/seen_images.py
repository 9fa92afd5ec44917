"""Which images a model has learnt from, so that it is not judged on them.

A model folder carries `learnt.npy`: a sorted array of 64-bit keys, two for a DICOM object (its bytes, its SOP Instance
UID, which stays when an archive rewrites the header) and one for a picture (its bytes). From a key no image,
patient or UID can be read (who has one can tell whether it is there), and a hundred thousand images need 1.6 MB.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dicom_io.errors import InvalidData, InvalidModel
from modeltrain.data.samples import with_contents
from modeltrain.model.card import LEARNT
from modeltrain.model.registry import version_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from modeltrain.data.samples import Sample
    from modeltrain.data.sources import Source, Sources
    from modeltrain.model.card import Card

KEYS = "uint64, sorted: first 64 bits of each file's SHA-256, and of that of 'SOP instance ' and a DICOM object's UID"
PARTLY = "its folder does not tell of all that the model it began with, or a teacher, had learnt from"
_KEY = 8  # bytes of a SHA-256: among 10⁵ images learnt from, one of 10⁴ others is taken for one of them once in 10¹⁰


@dataclass(frozen=True, slots=True)
class Learnt:
    """What is known of the images that a model has learnt from, those of its validation among them.

    Attributes
    ----------
    keys
        uint64, sorted.
    complete
        False where the model began with another one's weights, or had a teacher, that learnt from images whose keys may
        not be among these.
    """

    keys: NDArray[np.uint64]
    complete: bool


def keys_of(source: Source) -> list[NDArray[np.uint64]]:
    """Return the keys of each image: uint64 [1] or [2]."""
    found = []
    for sample in with_contents(source.samples):
        own = [bytes.fromhex(sample.content)[:_KEY]]
        if sample.uid:
            own.append(hashlib.sha256(f"SOP instance {sample.uid}".encode()).digest()[:_KEY])
        found.append(np.frombuffer(b"".join(own), dtype="<u8").astype(np.uint64))
    return found


def write_learnt(folder: Path, sources: Sources, earlier: Learnt | None = None) -> None:
    """Write a model's `learnt.npy`; `earlier` is what is known of the model whose weights this one began with."""
    parts = [*sources.parts, *([sources.unlabelled] if sources.unlabelled else [])]
    keys = [each for part in parts for each in keys_of(part)]
    if earlier:
        keys.append(earlier.keys)
    np.save(folder / LEARNT, np.unique(np.concatenate(keys)), allow_pickle=False)


def learnt_of(card: Card) -> Learnt | None:
    """Return what a model's folder tells of the images that it has learnt from; None where it tells nothing.

    Raises
    ------
    InvalidModel
        The file is not what its card says.
    """
    if LEARNT not in card.digests:
        return None
    path = card.folder / LEARNT
    try:
        keys = np.load(path, allow_pickle=False)
        complete = bool(card.raw["data"]["learnt"]["complete"])
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise InvalidModel(f"{path}: does not tell which images were learnt from") from error
    if keys.dtype != np.uint64 or keys.ndim != 1:
        raise InvalidModel(f"{path}: does not tell which images were learnt from")
    return Learnt(keys, complete)


def known_to(card: Card, source: Source) -> NDArray[np.bool_] | None:
    """Return which images of a source a model has learnt from, bool [N]: they, or another one of their patient's.

    None where the model's folder does not tell. That a source is, as a whole, what the model learnt from is told by
    every card.
    """
    raw = card.raw.get("data", {}).get("sha256", {})
    if source.digest in (raw.get("training"), *(raw.get("parts") or ())):
        return np.ones(len(source.samples), dtype=np.bool_)
    told = learnt_of(card)
    if told is None:
        return None
    own = np.array([bool(np.isin(keys, told.keys).any()) for keys in keys_of(source)], dtype=np.bool_)
    patients = {sample.patient for sample, known in zip(source.samples, own, strict=True) if known}
    return np.array([sample.patient in patients for sample in source.samples], dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class Fair:
    """The images of a source that none of some models has learnt from.

    Attributes
    ----------
    left_out
        For each model by its name, how many images it has learnt from (see `known_to`); None where that is not known.
    partly
        The models of which only a part of what they have learnt from is known.
    """

    source: Source
    samples: tuple[Sample, ...]
    left_out: dict[str, int | None]
    partly: tuple[str, ...] = ()

    def told(self) -> list[str]:
        """Return for each model what a person should know, in one line each."""
        of = len(self.source.samples)
        lines = [
            f"{n} of {of} images are left out: {name} has learnt from them or from others of their patients"
            for name, n in self.left_out.items()
            if n
        ]
        unknown = [name for name, n in self.left_out.items() if n is None]
        lines += [f"{name}: its folder does not tell which images it has learnt from" for name in unknown]
        return lines + [f"{name}: {PARTLY}" for name in self.partly]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: which images these were, and how many of them were left out."""
        return {"data": self.source.name, "data_sha256": self.source.digest, "learnt_from": self.left_out}


def fair_part(source: Source, cards: Sequence[Card]) -> Fair:
    """Return the images of a source that no model of these has learnt from.

    Raises
    ------
    InvalidData
        There are none.
    """
    known = {version_name(card): known_to(card, source) for card in cards}
    seen = np.zeros(len(source.samples), dtype=np.bool_)
    for own in known.values():
        if own is not None:
            seen |= own
    told = [learnt_of(card) for card in cards]
    partly = tuple(version_name(card) for card, each in zip(cards, told, strict=True) if each and not each.complete)
    left_out = {name: None if own is None else int(own.sum()) for name, own in known.items()}
    samples = tuple(sample for sample, own in zip(source.samples, seen, strict=True) if not own)
    fair = Fair(source, samples, left_out, partly)
    if not samples:
        raise InvalidData(f"{source.name}: nothing is left to compare on; {'; '.join(fair.told())}")
    return fair
