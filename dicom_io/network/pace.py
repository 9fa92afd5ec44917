"""How fast a peer sends in the middle of something; time in which it is we who do not read is not counted."""

from __future__ import annotations

_STEP = 0.25
"""Seconds between two looks that count at most: a longer gap is our own doing."""


class Pace:
    """Counts the bytes of a transfer against the seconds that they were waited for.

    Parameters
    ----------
    least_rate
        Bytes a second.
    period
        Seconds over which the rate is measured.
    """

    def __init__(self, least_rate: float, period: float) -> None:
        self.period = period
        self._least_rate = least_rate
        self._last_look: float | None = None
        self.waited = 0.0
        self.count = 0

    def rest(self) -> None:
        """Begin anew: nothing is in transfer."""
        self._last_look, self.waited, self.count = None, 0.0, 0

    def came(self, count: int) -> None:
        """Count bytes."""
        self.count += count

    def wait(self, moment: float) -> bool:
        """Count the time until now as waited for; return whether the peer was too slow for a whole period."""
        if self._last_look is not None:
            self.waited += min(moment - self._last_look, _STEP)
        self._last_look = moment
        if self.waited < self.period:
            return False
        is_slow = self.is_slow()
        if not is_slow:
            self.rest()
        return is_slow

    def busy(self, moment: float) -> None:
        """Note that the time until now was not waited for."""
        self._last_look = moment

    def is_slow(self, after: float = 0.0) -> bool:
        """Tell whether the peer, waited for longer than `after` seconds, has sent less than it should."""
        return self.waited > after and self.count < self._least_rate * self.waited
