"""The grayscale transformations before polarity: modality LUT, then VOI LUT or window (PS3.3 C.11.1 and C.11.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dicom_io.header.attributes import items, number, numbers, text, values

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Floats = NDArray[np.float64]

# Where no window is given: the part of the pixels to either side of the displayed range.
_TAIL = 0.001
# A window that leaves fewer pixels than this off its one end shows nothing, and is taken for a mistake; so is one that
# brings all of them into two shades of 256.
_VISIBLE = 0.01
_SHADE = 2 / 255
_END = 0.5 / 255
"""What is nearer than this to black or white is seen as that."""
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@dataclass(frozen=True)
class Window:
    """A window that can be applied (PS3.3 C.11.2.1.2 and C.11.2.1.3); centre and width in modality values."""

    centre: float
    width: float
    function: str

    @property
    def linear(self) -> tuple[float, float] | None:
        """Centre and width of the same window with the function LINEAR; None for a SIGMOID."""
        if self.function == "SIGMOID":
            return None
        exact = self.function == "LINEAR_EXACT"
        return (self.centre + 0.5, self.width + 1.0) if exact else (self.centre, self.width)


def modality(dataset: Dataset, stored: NDArray[np.int32], *, signed: bool) -> Floats:
    """Apply the Modality LUT, or Rescale Slope and Intercept (PS3.3 C.11.1)."""
    _, table = first_table(dataset, "ModalityLUTSequence", signed=signed)
    if table is not None:
        return table.entries[np.clip(stored - table.first, 0, table.entries.size - 1)]
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
    if slope == 0.0:  # it would leave one value of all: it counts as absent
        slope = None
    return stored.astype(np.float64) * (1.0 if slope is None else slope) + (intercept or 0.0)


def voi(dataset: Dataset, modality: Floats, counts: NDArray[np.float32]) -> tuple[Floats, tuple[float, float] | None]:
    """Bring modality values to 0..1 by the VOI LUT, the window, or the range that the image uses (PS3.3 C.11.2).

    Each stands in for those before it where these are absent or show almost nothing. Where that range was used, or the
    window instead of a table, centre and width (VOI LUT Function LINEAR) come with it.
    """
    # The VOI LUT's input is signed where the modality LUT's output is (PS3.3 C.11.2.1.1).
    _, table = first_table(dataset, "VOILUTSequence", signed=bool(modality.min() < 0))
    if table is not None:
        index = np.clip(np.rint(modality) - table.first, 0, table.entries.size - 1).astype(np.intp)
        # By the highest entry that occurs: some tables state 16 bits and use 12, and would be shown nearly black.
        shown = table.entries[index] / max(1.0, float(table.entries.max()))
        if _shows_something(shown, counts):
            return shown, None
    window = window_of(dataset)
    if window is not None and (table is None or window.linear is not None):
        shown = _windowed(window, modality)
        if _shows_something(shown, counts):
            return shown, window.linear if table is not None else None
    return _robust(modality, counts)


def window_of(dataset: Dataset) -> Window | None:
    """Return the first window that has both centre and width, or None where there is none that can be applied.

    A VOI LUT Function that is none of the defined terms counts as absent: LINEAR (PS3.3 C.11.2.1.3).
    """
    centre, width = _first_pair(values(dataset, "WindowCenter"), values(dataset, "WindowWidth"))
    function = text(dataset, "VOILUTFunction").upper()
    if function not in _FUNCTIONS:
        function = "LINEAR"
    if centre is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    return Window(centre, width, function)


def _first_pair(centres: list[Any], widths: list[Any]) -> tuple[float | None, float | None]:
    """Return the first centre and width that are both there: some writers leave the first value empty."""
    texts = (
        ("" if each is None else str(each).strip() for each in pair) for pair in zip(centres, widths, strict=False)
    )
    for centre, width in texts:
        if centre and width:
            try:
                pair = float(centre), float(width)
            except ValueError:
                break
            return pair if all(map(math.isfinite, pair)) else (None, None)
    return None, None


def _windowed(window: Window, modality: Floats) -> Floats:
    centre, width = window.centre, window.width
    if window.function == "SIGMOID":
        curve: Floats = 1.0 / (1.0 + np.exp(np.clip(-4.0 * (modality - centre) / width, -700.0, 700.0)))
        return curve
    if window.function == "LINEAR":
        centre, width = centre - 0.5, width - 1.0
    if width == 0.0:  # LINEAR of width 1 is a threshold
        return (modality > centre).astype(np.float64)
    ramp: Floats = np.clip((modality - centre) / width + 0.5, 0.0, 1.0)
    return ramp


def _shows_something(shown: Floats, counts: NDArray[np.float32]) -> bool:
    """Tell whether enough pixels are neither all black nor all white, and not all of one shade."""
    total = float(counts.sum())
    black, white = float(counts[shown < _END].sum()), float(counts[shown > 1.0 - _END].sum())
    if max(black, white) > (1.0 - _VISIBLE) * total:
        return False
    ends = _tails(shown, counts)
    return ends is not None and ends[1] - ends[0] >= _SHADE


def _tails(values: Floats, counts: NDArray[np.float32]) -> tuple[float, float] | None:
    """Return between which values all but the tails of the pixels are; None where there is nothing but padding."""
    used = np.flatnonzero(counts)
    if used.size == 0:
        return None
    used = used[np.argsort(values[used], kind="stable")]
    share = np.cumsum(counts[used], dtype=np.float64)
    share /= share[-1]
    low, high = (float(values[used[np.searchsorted(share, each)]]) for each in (_TAIL, 1.0 - _TAIL))
    return (low, high) if high > low else (float(values[used[0]]), float(values[used[-1]]))


def _robust(modality: Floats, counts: NDArray[np.float32]) -> tuple[Floats, tuple[float, float] | None]:
    """Spread the range between the two tails of the image's own histogram over 0..1."""
    ends = _tails(modality, counts)
    if ends is None or ends[1] <= ends[0]:  # nothing but padding, or all of one value
        return np.zeros_like(modality), None
    low, high = ends
    spread: Floats = np.clip((modality - low) / (high - low), 0.0, 1.0)
    return spread, ((low + high) / 2 + 0.5, (high - low) + 1)


def first_table(dataset: Dataset, keyword: str, *, signed: bool) -> tuple[Dataset, Table] | tuple[None, None]:
    """Return the first item of a LUT Sequence that is a table, and the table: some converters write empty shells."""
    for item in items(dataset, keyword):
        table = read_table(item, signed=signed)
        if table is not None:
            return item, table
    return None, None


@dataclass(frozen=True)
class Table:
    """A LUT: the entries that it has and how many it states, the input value of the first, and the bits of an entry.

    The last entry goes on behind the end.
    """

    entries: Floats
    first: int
    size: int
    bits: int


def read_table(item: Dataset, *, signed: bool) -> Table | None:
    """Read a LUT Sequence's item; None where it is no table: it then counts as absent.

    PS3.3 C.11.1.1.1: the descriptor holds the number of entries (0 for 65,536), the first input and the bits of an
    entry. Entries of 8 bits may be packed two to a word. An entry too large for the stated bits counts with its own.
    """
    descriptor = numbers(item, "LUTDescriptor")
    if len(descriptor) != 3:
        return None
    size, first, bits = (int(value) for value in descriptor)
    if not 1 <= bits <= 16:
        return None
    size = size % 0x10000 or 0x10000
    entries = _lut_entries(item, size, bits)
    if entries.size == 0 or entries.min() == entries.max():  # of one value it would make one of all
        return None
    if signed and first > 0x7FFF:
        first -= 0x10000
    if not signed and first < 0:
        first += 0x10000
    return Table(entries.astype(np.float64), first, size, max(bits, int(entries.max()).bit_length()))


def lut_words(item: Dataset) -> NDArray[np.uint16]:
    """Return LUT Data as the words it was stored as, in whichever byte order: one entry each, or two of 8 bits."""
    data_values = values(item, "LUTData")
    if len(data_values) == 1 and isinstance(data_values[0], bytes):
        # In big endian the bytes of words are turned, and those of OB are not (PS3.5 7.3).
        big = item.original_encoding[1] is False and item["LUTData"].VR != "OB"
        data = data_values[0][: len(data_values[0]) // 2 * 2]
        return np.frombuffer(data, ">u2" if big else "<u2").astype(np.uint16)
    return np.array(numbers(item, "LUTData"), np.int64).astype(np.uint16)


def _lut_entries(item: Dataset, size: int, bits: int) -> NDArray[np.uint16]:
    """Return LUT Data as numbers, at most `size`, whether they came as words or two of 8 bits to a word.

    Packed ones are told by the length, which is nearer to a byte an entry than to two, and by words that no entry of
    the stated bits can be (C.11.1.1.1, C.11.2.1.1).
    """
    words = lut_words(item)
    fewer = words.size * 3 < size * 2
    if bits <= 8 and fewer and words.size and int(words.max()) >= 1 << bits:  # the first one is in the low byte
        words = np.stack([words & 0xFF, words >> 8], axis=1).ravel()
    return words[:size]
