"""What reading one object may cost, as the settings state it; it needs no DICOM library."""

from __future__ import annotations

from dataclasses import dataclass, field

from dicom_io.errors import UnreadableObject
from dicom_io.memory import Share, unbounded


@dataclass(frozen=True)
class ReadingLimits:
    """What reading one object may cost.

    Attributes
    ----------
    max_elements
        Elements and items of a data set, those within sequences too. One whose value has eight bytes may count twice.
    max_memory_mb
        Memory for an object, in units of 1,000,000 bytes.
    share
        Where the memory comes from that reading takes beyond `FREE`.
    """

    max_elements: int = 200_000
    max_memory_mb: int = 1000
    share: Share = field(default_factory=unbounded, compare=False, repr=False)

    def require(self, size: int) -> None:
        """Raise UnreadableObject where so many bytes are too many."""
        if size > self.max_memory_mb * 1_000_000:
            raise UnreadableObject(too_much(size, self.max_memory_mb))

    def too_many(self) -> UnreadableObject:
        """Return the error that there are too many elements."""
        return UnreadableObject(f"the data set has more than {self.max_elements} elements")


FREE = 2_000_000
"""Bytes that reading a header may take without asking: a radiograph's takes some hundred thousand."""
ELEMENT, ITEM = 400, 1200
"""Bytes of memory that an element, and an item of a sequence, take beside what they hold, once they are parsed."""
DEFAULT = ReadingLimits()


def too_much(size: int, max_memory_mb: int) -> str:
    """Return in words that an object of so many bytes is more than is allowed."""
    megabytes = -(-size // 1_000_000)
    return f"the object would need {megabytes} MB of memory, at most {max_memory_mb} are allowed"
