"""How a node shows itself on the network, and what its peers may cost it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dicom_io.network.tls import ServerTls
from dicom_io.network.upper_layer import PeerLimits


@dataclass(frozen=True)
class NodeOptions:
    """How the node shows itself on the network.

    ``port`` 0 takes a free port. ``allowed_calling`` empty admits every calling AE title, and ``allowed_called`` empty
    every title that we are called by. ``maximum_pdu`` is the largest PDU in bytes that we accept; large ones save work
    on large images. ``max_object_mb`` is the size of an object at most, in units of 1,000,000 bytes.
    ``max_objects`` is the number of objects on one association at most, 0 for any. ``max_memory_mb`` is what all peers
    together may make us hold beyond what each association may without asking, in the same units.
    ``associations_per_peer`` None allows three quarters of ``maximum_associations`` to one address.
    ``association_timeout``, ``network_timeout`` (seconds) and ``least_rate`` (bytes a second) are those of
    `dicom_io.network.upper_layer.PeerLimits`. ``networks`` are those that a calling AE title may come from, as
    addresses with their prefix, such as ``10.1.0.0/16``; one that is not named there may come from anywhere.
    ``called_networks`` are those that may call us by a title, in the same way.
    """

    ae_title: str
    host: str
    port: int
    allowed_calling: tuple[str, ...]
    allowed_called: tuple[str, ...]
    maximum_associations: int
    maximum_pdu: int
    network_timeout: float
    max_object_mb: int
    associations_per_peer: int | None = None
    association_timeout: float = 15.0
    least_rate: int = 5000
    max_objects: int = 10_000
    max_memory_mb: int = 256
    tls: ServerTls | None = None
    networks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    called_networks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def limits(self) -> PeerLimits:
        """What a peer may cost us."""
        return PeerLimits(self.maximum_pdu, self.association_timeout, self.network_timeout, self.least_rate)
