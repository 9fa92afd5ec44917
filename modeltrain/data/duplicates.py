"""Near-duplicates between two sets of radiographs, by perceptual hash."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from dicom_io.errors import InvalidData
from modeltrain.data.samples import Sample, read_sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_SIDE, _LOW = 32, 8
CLOSE = 4  # bits of 64: a second JPEG compression changes one or two


class Pair(NamedTuple):
    """Two images that look alike, and by how many of 64 bits their hashes differ."""

    first: Sample
    second: Sample
    distance: int


def pairs_to_dict(pairs: Sequence[Pair] | None, compared: str, unread: int = 0) -> dict[str, Any] | None:
    """Return pairs as plain values for JSON, by the images' paths; None where there was nothing to compare.

    `unread` counts what could not be read to be compared with.
    """
    if pairs is None:
        return None
    rows = [{"first": str(one.path), "second": str(other.path), "distance": bits} for one, other, bits in pairs]
    return {"compared": compared, "n": len(rows), "unread": unread, "pairs": rows}


def perceptual_hash(grey: NDArray[np.float32]) -> int:
    """Return the 64-bit pHash of an image [H, W]: signs of its lowest cosine frequencies about their median.

    Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", section 3.2.
    """
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small)[1 : _LOW + 1, 1 : _LOW + 1].ravel()  # without the means, which brightness alone decides
    bits = np.packbits(low > np.median(low))
    return int.from_bytes(bits.tobytes(), "big")


def near_duplicates(
    first: Sequence[Sample], second: Sequence[Sample], limit: int = CLOSE
) -> tuple[list[Pair], list[Sample]]:
    """Return the pairs of one image of each set whose hashes differ by at most `limit` bits, the closest first.

    Beside them, the images of either set that cannot be read: they are not compared.
    """
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
    return sorted(pairs, key=lambda pair: pair.distance), unread
