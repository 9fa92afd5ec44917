"""Where results go: which destinations, and how each is reached."""

from __future__ import annotations

from dicom_io.scu import Peer
from dicom_io.stow import WebPeer, require
from worker.settings import Destination, Settings


def destinations_for(calling_ae: str, destinations: tuple[Destination, ...]) -> list[str]:
    """Return the names of the destinations that results for images from this calling AE title go to."""
    return [each.name for each in destinations if not each.for_calling or calling_ae in each.for_calling]


def wants(name: str, kind: str, destinations: tuple[Destination, ...]) -> bool:
    """Tell whether a destination takes a kind of result; with no kinds of its own it takes all."""
    return any(each.name == name and (not each.kinds or kind in each.kinds) for each in destinations)


def peer_of(destination: Destination, settings: Settings) -> Peer | WebPeer:
    """Return the network peer that a destination of the settings stands for.

    Raises
    ------
    InvalidSettings
        It is a DICOMweb server, and the library for that is not installed.
    """
    if destination.url:
        require()
        return WebPeer(
            destination.url, destination.username, destination.password.get_secret_value(), destination.timeout
        )
    return Peer(
        host=destination.host,
        port=destination.port or 0,
        ae_title=destination.ae_title or "",
        calling_ae=destination.calling_ae or settings.scp.ae_title,
        timeout=destination.timeout,
    )
