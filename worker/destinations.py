"""Where results go: which destinations, and how each is reached."""

from __future__ import annotations

from dicom_io.scu import Peer
from worker.settings import Destination, Settings


def destinations_for(calling_ae: str, destinations: tuple[Destination, ...]) -> list[str]:
    """Return the names of the destinations that results for images from this calling AE title go to."""
    return [each.name for each in destinations if not each.for_calling or calling_ae in each.for_calling]


def wants(name: str, kind: str, destinations: tuple[Destination, ...]) -> bool:
    """Tell whether a destination takes a kind of result; with no kinds of its own it takes all."""
    return any(each.name == name and (not each.kinds or kind in each.kinds) for each in destinations)


def peer_of(destination: Destination, settings: Settings) -> Peer:
    """Return the network peer that a destination of the settings stands for."""
    return Peer(
        host=destination.host,
        port=destination.port,
        ae_title=destination.ae_title,
        calling_ae=destination.calling_ae or settings.scp.ae_title,
        timeout=destination.timeout,
    )
