"""Where results go: which destinations, and how each is reached."""

from __future__ import annotations

import ssl

from dicom_io.dicomweb.stow import WebPeer, require
from dicom_io.errors import InvalidSettings
from dicom_io.network.storage_scu import Peer
from dicom_io.network.tls import client_context
from dicom_io.pixels.compression import COMPRESSIONS, LOSSLESS, is_available
from worker.deliver import hl7, webhook
from worker.deliver.mllp import Hl7Peer
from worker.settings import Destination, Kind, Settings

AnyPeer = Peer | WebPeer | webhook.WebhookPeer | Hl7Peer


def destinations_for(calling_ae: str, destinations: tuple[Destination, ...]) -> list[str]:
    """Return the names of the destinations that results for images from this calling AE title go to."""
    return [each.name for each in destinations if not each.for_calling or calling_ae in each.for_calling]


def wants(name: str, kind: str, destinations: tuple[Destination, ...]) -> bool:
    """Tell whether a destination takes a kind of result: notifications of its own kind, or else what its kinds say."""
    for each in destinations:
        if each.name == name:
            if each.notified or kind in (webhook.KIND, hl7.KIND):
                return kind == (webhook.KIND if each.webhook else hl7.KIND if each.hl7 else None)
            return not each.kinds or kind in each.kinds
    return False


def peer_of(destination: Destination, settings: Settings) -> AnyPeer:
    """Return the network peer that a destination of the settings stands for.

    Raises
    ------
    InvalidSettings
        The library is not installed that its protocol or its compression needs, or its `ca_file` is of no use.
    """
    if destination.webhook:
        return webhook.WebhookPeer(destination.webhook, destination.secret.get_secret_value(), destination.timeout)
    if destination.hl7:
        hl7.require()
        host, port = destination.hl7_address
        names = destination.hl7_application, destination.hl7_facility
        return Hl7Peer(host, port, *names, timeout=destination.timeout, tls=_tls(destination))
    if destination.url:
        require()
        return WebPeer(
            destination.url, destination.username, destination.password.get_secret_value(), destination.timeout
        )
    return node_of(destination, settings)


def _tls(destination: Destination) -> ssl.SSLContext | None:
    try:
        return client_context(destination.ca_file) if destination.tls else None
    except InvalidSettings as error:
        raise InvalidSettings(f"destination {destination.name}: {error}") from error


def node_of(destination: Destination, settings: Settings) -> Peer:
    """Return the DICOM node that a destination with host, port and AE title stands for. Raises as `peer_of` does."""
    compression = COMPRESSIONS.get(destination.compression, "")
    if compression and not is_available(compression):
        raise InvalidSettings(f"destination {destination.name}: nothing here can compress to {destination.compression}")
    fallbacks = () if destination.compression == "none" else tuple(each for each in LOSSLESS if is_available(each))
    lossy = destination.compression not in ("none", "lossless")
    return Peer(
        host=destination.host,
        port=destination.port or 0,
        ae_title=destination.ae_title or "",
        calling_ae=destination.calling_ae or settings.scp.ae_title,
        timeout=destination.timeout,
        compression=compression,
        fallbacks=fallbacks,
        lossy=lossy,
    )


def kinds_of(destination: Destination, settings: Settings) -> list[Kind]:
    """Return the kinds of result objects that go to a destination; none where it is only notified."""
    return [kind for kind in settings.results.kinds if wants(destination.name, kind, (destination,))]
