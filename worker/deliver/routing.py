"""Which results and notifications go to which destinations."""

from __future__ import annotations

from collections.abc import Iterable

from worker.destination_settings import Destination


def destinations_for(calling_ae: str, destinations: Iterable[Destination]) -> list[str]:
    """Return the names of the destinations that results for images from this calling AE title go to."""
    return [each.name for each in destinations if not each.for_calling or calling_ae in each.for_calling]


def takes(name: str, kind: str, destinations: Iterable[Destination]) -> bool:
    """Tell whether a kind of result or notification goes to the destination of this name."""
    return any(each.takes(kind) for each in destinations if each.name == name)
