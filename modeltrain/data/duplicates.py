"""Near-duplicates between two sets of radiographs, by perceptual hash."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from dicom_io.errors import InvalidData
from modeltrain.data.samples import Sample, read_sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_SIDE, _LOW = 32, 8
COMPARED = "the set and what may be learnt from beside it"
CLOSE = 4  # bits of 64: a second JPEG compression changes one or two


class Pair(NamedTuple):
    """Two images that look alike, and by how many of 64 bits their hashes differ."""

    first: Sample
    second: Sample
    distance: int


@dataclass(frozen=True, slots=True)
class Duplicates:
    """The near-duplicates between two sets of radiographs.

    Attributes
    ----------
    pairs
        The closest first.
    unread
        The images of either set that cannot be read, and so were not compared.
    """

    pairs: tuple[Pair, ...]
    unread: tuple[Sample, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; images are named by their paths."""
        rows = [
            {"first": str(one.path), "second": str(other.path), "distance": bits} for one, other, bits in self.pairs
        ]
        return {"compared": COMPARED, "n": len(rows), "unread": len(self.unread), "pairs": rows}


def perceptual_hash(grey: NDArray[np.float32]) -> int:
    """Return the 64-bit pHash of an image [H, W]: signs of its lowest cosine frequencies about their median.

    Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", section 3.2.
    """
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small)[1 : _LOW + 1, 1 : _LOW + 1].ravel()  # without the means, which brightness alone decides
    bits = np.packbits(low > np.median(low))
    return int.from_bytes(bits.tobytes(), "big")


def near_duplicates(first: Sequence[Sample], second: Sequence[Sample], limit: int = CLOSE) -> Duplicates:
    """Return the pairs of one image of each set whose hashes differ by at most `limit` bits."""
    comparable: list[list[Sample]] = []
    hashes: list[NDArray[np.uint64]] = []
    unread: list[Sample] = []
    for samples in (first, second):
        readable: list[Sample] = []
        own: list[int] = []
        for sample in samples:
            try:
                own.append(perceptual_hash(read_sample(sample)[0]))
                readable.append(sample)
            except InvalidData:
                unread.append(sample)
        comparable.append(readable)
        hashes.append(np.array(own, dtype=np.uint64))
    pairs = []
    for sample, one in zip(comparable[0], hashes[0], strict=True):
        distances = np.bitwise_count(hashes[1] ^ one)
        pairs += [
            Pair(sample, comparable[1][int(other)], int(distances[other]))
            for other in np.flatnonzero(distances <= limit)
        ]
    return Duplicates(tuple(sorted(pairs, key=lambda pair: pair.distance)), tuple(unread))
