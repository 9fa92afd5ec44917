"""Who has a place at our node: connections that have not yet asked for an association, and associations.

What is not yet an association takes no place of one. Where too many wait, the oldest of the peer that has most of them
goes. Where all places are taken, an association that does nothing gives way to one that asks.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from typing import Protocol

MOST_WAITING = 100
"""Connections without an association at a time."""


class Place(Protocol):
    """What may have a place: a connection and its association."""

    @property
    def peer(self) -> str:
        """The peer's address."""

    @property
    def stalled_for(self) -> float:
        """Seconds for which it may be called idle, or too slow; 0 while it works."""

    def give_way(self, reason: str) -> None:
        """End it, for this reason."""


class Admission:
    """Counts places.

    Parameters
    ----------
    most, most_of_one
        Associations at a time, of all peers and of one address.
    patience
        Seconds that an association may do nothing before it has to give way where all places are taken.
    """

    def __init__(self, most: int, most_of_one: int, patience: float = 5.0) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._patience = patience
        self._lock = threading.Lock()
        self._waiting: list[Place] = []
        self._associated: list[Place] = []

    @property
    def associated(self) -> int:
        """The number of associations."""
        return len(self._associated)

    def connect(self, place: Place) -> None:
        """Take up a connection; where too many wait, another one goes."""
        with self._lock:
            self._waiting.append(place)
            crowd = len(self._waiting) > MOST_WAITING
            loser = self._oldest_of_most() if crowd else None
        if loser is not None:
            loser.give_way(f"more than {MOST_WAITING} connections waited for an A-ASSOCIATE-RQ")

    def associate(self, place: Place) -> str:
        """Give a connection the place of an association; return in words why there is none, or nothing."""
        with self._lock:
            of_one = Counter(each.peer for each in self._associated)[place.peer]
            if of_one >= self._most_of_one:
                return f"there are {of_one} associations of this peer already"
            loser = self._idlest() if len(self._associated) >= self._most else None
            if loser is None and len(self._associated) >= self._most:
                return f"there are {self._most} associations already, and all are in use"
            self._drop(place)
            self._associated.append(place)
            if loser is not None:
                self._drop(loser)
        if loser is not None:
            loser.give_way("it did nothing, and another peer needed its place")
        return ""

    def leave(self, place: Place) -> None:
        """Take a place away, where there is one."""
        with self._lock:
            self._drop(place)

    def _drop(self, place: Place) -> None:
        for places in (self._waiting, self._associated):
            if place in places:
                places.remove(place)

    def _oldest_of_most(self) -> Place:
        peer = Counter(each.peer for each in self._waiting).most_common(1)[0][0]
        loser = next(each for each in self._waiting if each.peer == peer)
        self._waiting.remove(loser)
        return loser

    def _idlest(self) -> Place | None:
        idlest = max(self._associated, key=lambda each: each.stalled_for, default=None)
        return idlest if idlest is not None and idlest.stalled_for > self._patience else None


def most_of_one_peer(most: int, stated: int | None) -> int:
    """Return how many of `most` associations one address may have: as stated, or three quarters."""
    return stated or math.ceil(most * 3 / 4)
