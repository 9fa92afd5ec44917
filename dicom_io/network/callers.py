"""Who may open an association: by the AE titles of both sides, and the networks that these are bound to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dicom_io.network.ending import Ending

_UNKNOWN_CALLING, _UNKNOWN_CALLED = (1, 1, 3), (1, 1, 7)
"""Result, source and reason of a rejection (PS3.8 table 9-21)."""


class Titles:
    """AE titles that are taken.

    Parameters
    ----------
    taken
        Empty for all.
    networks
        By title, the networks of peers that it holds for, such as ``10.1.0.0/16``; another one holds for all.
    """

    def __init__(self, taken: Iterable[str], networks: Mapping[str, tuple[str, ...]]) -> None:
        self._taken = {each.strip() for each in taken}
        self._networks = {title.strip(): tuple(map(ip_network, each)) for title, each in networks.items()}

    def __contains__(self, title: str) -> bool:
        return not self._taken or title in self._taken

    def holds_for(self, title: str, peer: str) -> bool:
        """Return whether a title holds for a peer with this address."""
        networks = self._networks.get(title)
        if not networks:
            return True
        address = ip_address(peer.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in each for each in networks)


def fault_of(ending: Ending, calling: Titles, called: Titles) -> tuple[int, int, int, str] | None:
    """Return how and why to reject a request; None where its titles are taken.

    Parameters
    ----------
    ending
        Of the association; it knows both titles and the peer's address.
    calling, called
        The titles of senders, and ours.
    """
    if not ending.calling or ending.calling not in calling:
        reason = "its AE title is not among scp.allowed_calling" if ending.calling else "it states no AE title"
        return *_UNKNOWN_CALLING, reason
    if not calling.holds_for(ending.calling, ending.peer):
        return *_UNKNOWN_CALLING, "its AE title may not call from this address (scp.allowed_calling)"
    if not ending.called or ending.called not in called:
        reason = "it calls us by another AE title (scp.require_called)" if ending.called else "it calls no AE title"
        return *_UNKNOWN_CALLED, reason
    if not called.holds_for(ending.called, ending.peer):
        return *_UNKNOWN_CALLED, "it may not call this AE title of ours from its address (scp.allowed_called)"
    return None
