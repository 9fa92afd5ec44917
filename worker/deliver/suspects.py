"""Tells whether the deliveries at which a destination fails are to blame, or the destination is."""

from __future__ import annotations


class Suspects:
    """Remembers the deliveries that a destination failed at, by number.

    Where others pass after such a failure, it was the delivery: a node that breaks off at reports takes pictures. Where
    none passes, it may be the destination.
    """

    def __init__(self) -> None:
        self._failed: set[int] = set()
        self._to_blame: set[int] = set()

    def knows(self, delivery_id: int) -> bool:
        """Return whether the destination has failed at this delivery before."""
        return delivery_id in self._failed or self.is_to_blame(delivery_id)

    def is_to_blame(self, delivery_id: int) -> bool:
        """Return whether others have passed since the destination failed at this delivery."""
        return delivery_id in self._to_blame

    def enter_failure(self, delivery_id: int) -> int:
        """Enter that the destination failed at a delivery; return at how many different ones since one passed."""
        if not self.is_to_blame(delivery_id):
            self._failed.add(delivery_id)
        return len(self._failed)

    def enter_answer(self, delivery_id: int) -> None:
        """Enter that the destination has answered for a delivery as it should."""
        self._to_blame |= self._failed
        self._failed.clear()
        self._to_blame.discard(delivery_id)
