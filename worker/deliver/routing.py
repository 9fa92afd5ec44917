"""Which results and notifications go to which destinations."""

from __future__ import annotations

from collections.abc import Iterable

from worker.destination_settings import Destination


def destinations_for(calling_ae: str, destinations: Iterable[Destination]) -> list[str]:
    """Return the names of the destinations that results for images from this calling AE title go to."""
    return [each.name for each in destinations if not each.for_calling or calling_ae in each.for_calling]


def takers(kind: str, names: Iterable[str], destinations: Iterable[Destination]) -> tuple[str, ...]:
    """Return which of the destinations of these names take a kind of result or notification."""
    taking = {each.name for each in destinations if each.takes(kind)}
    return tuple(name for name in names if name in taking)


def notification_kinds(destinations: Iterable[Destination]) -> set[str]:
    """Return the kinds of notification that any destination takes."""
    return {each.notification for each in destinations if each.notification}
