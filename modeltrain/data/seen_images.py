"""The images that a model has learnt from, so that it is not tested on them.

A model folder carries `seen_images.npy`: a sorted array of 64-bit keys. A DICOM object has two keys: of its bytes, and
of its SOP Instance UID, which stays when an archive rewrites the header. A picture has one, of its bytes. No image,
patient or UID can be read from a key; who has an image can tell whether its key is there. A hundred thousand images
need 1.6 MB.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dicom_io.errors import InvalidData, InvalidModel
from modeltrain.data.samples import with_contents
from modeltrain.model.card import SEEN_IMAGES
from modeltrain.model.registry import version_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from modeltrain.data.samples import Sample
    from modeltrain.data.sources import Source, Sources
    from modeltrain.model.card import Card

KEYS = "uint64, sorted: first 64 bits of each file's SHA-256, and of that of 'SOP instance ' and a DICOM object's UID"
INCOMPLETE = "training list incomplete: overlap with this test set cannot be excluded"
_KEY = 8  # bytes of a SHA-256: with 10⁵ keys, one of 10⁴ other images is taken for one of them once in 10¹⁰


@dataclass(frozen=True, slots=True)
class SeenImages:
    """What is known of the images that a model has learnt from, those of its validation among them.

    Attributes
    ----------
    keys
        uint64, sorted.
    complete
        False where a predecessor or a teacher learnt from images whose keys may not be among these.
    """

    keys: NDArray[np.uint64]
    complete: bool


def keys_of(source: Source) -> list[NDArray[np.uint64]]:
    """Return the keys of each image: uint64 [1] or [2]."""
    keys = []
    for sample in with_contents(source.samples):
        own = [bytes.fromhex(sample.content)[:_KEY]]
        if sample.uid:
            own.append(hashlib.sha256(f"SOP instance {sample.uid}".encode()).digest()[:_KEY])
        keys.append(np.frombuffer(b"".join(own), dtype="<u8").astype(np.uint64))
    return keys


def write_seen_images(folder: Path, sources: Sources, predecessor: SeenImages | None = None) -> None:
    """Write a model's `seen_images.npy`: the images of its sources, and those of the model that it began with."""
    keys = [each for part in sources.parts for each in keys_of(part)]
    if predecessor:
        keys.append(predecessor.keys)
    np.save(folder / SEEN_IMAGES, np.unique(np.concatenate(keys)), allow_pickle=False)


def seen_images_of(card: Card) -> SeenImages | None:
    """Return the images that a model has learnt from, as its folder lists them; None without a list.

    Raises
    ------
    InvalidModel
        The list is not what the card says.
    """
    if SEEN_IMAGES not in card.digests:
        return None
    path = card.folder / SEEN_IMAGES
    try:
        keys = np.load(path, allow_pickle=False)
        complete = bool(card.raw["data"]["seen_images"]["complete"])
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise InvalidModel(f"{path}: not a list of the images that the model has learnt from") from error
    if keys.dtype != np.uint64 or keys.ndim != 1:
        raise InvalidModel(f"{path}: not a list of the images that the model has learnt from")
    return SeenImages(keys, complete)


def seen_by(card: Card, source: Source) -> NDArray[np.bool_] | None:
    """Return which images of a source a model has learnt from, bool [N]: they, or another one of their patient's.

    None where the model's folder has no list. Whether a source is, as a whole, the model's training data stands in
    every card.
    """
    digests = card.raw.get("data", {}).get("sha256", {})
    if source.digest in (digests.get("training"), *(digests.get("parts") or ())):
        return np.ones(len(source.samples), dtype=np.bool_)
    seen_images = seen_images_of(card)
    if seen_images is None:
        return None
    own = np.array([bool(np.isin(keys, seen_images.keys).any()) for keys in keys_of(source)], dtype=np.bool_)
    patients = {sample.patient for sample, is_seen in zip(source.samples, own, strict=True) if is_seen}
    return np.array([sample.patient in patients for sample in source.samples], dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class UnseenImages:
    """The images of a source that none of some models has learnt from.

    Attributes
    ----------
    left_out
        For each model by its name, how many images it has learnt from (see `seen_by`); None where that is not known.
    incomplete
        The models of which only a part of what they have learnt from is known.
    """

    source: Source
    samples: tuple[Sample, ...]
    left_out: dict[str, int | None]
    incomplete: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """Return for each model what a person should know, in one line each."""
        of = len(self.source.samples)
        lines = [
            f"{n} of {of} images are left out: {name} has learnt from them or from others of their patients"
            for name, n in self.left_out.items()
            if n
        ]
        unknown = [name for name, n in self.left_out.items() if n is None]
        lines += [f"{name} has no list of the images that it has learnt from" for name in unknown]
        return lines + [f"{name}: {INCOMPLETE}" for name in self.incomplete]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: which images these were, and how many of them were left out."""
        return {"data": self.source.name, "data_sha256": self.source.digest, "learnt_from": self.left_out}


def unseen_images(source: Source, cards: Sequence[Card]) -> UnseenImages:
    """Return the images of a source that no model of these has learnt from.

    Raises
    ------
    InvalidData
        There are none.
    """
    by_model = {version_name(card): seen_by(card, source) for card in cards}
    union = np.zeros(len(source.samples), dtype=np.bool_)
    for own in by_model.values():
        if own is not None:
            union |= own
    lists = {version_name(card): seen_images_of(card) for card in cards}
    incomplete = tuple(name for name, each in lists.items() if each and not each.complete)
    left_out = {name: None if own is None else int(own.sum()) for name, own in by_model.items()}
    samples = tuple(sample for sample, own in zip(source.samples, union, strict=True) if not own)
    unseen = UnseenImages(source, samples, left_out, incomplete)
    if not samples:
        raise InvalidData(f"{source.name}: nothing is left to compare on; {'; '.join(unseen.notes())}")
    return unseen
