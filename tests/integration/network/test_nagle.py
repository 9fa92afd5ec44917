"""Nothing that an association sends waits for a confirmation, whichever side opened it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.presentation import build_context

from dicom_io.network.node_options import NodeOptions
from dicom_io.network.storage_scp import StorageNode
from dicom_io.network.storage_scu import Peer, associate

ECHO = "1.2.840.10008.1.1"


def waits(association: Any) -> bool:
    """Tell whether Nagle's algorithm is on for an association's connection."""
    return not association.dul.socket.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_it_is_off_where_we_call() -> None:
    node = AE("PACS")
    node.add_supported_context(ECHO)
    accepted: list[Any] = []
    handlers: list[Any] = [(evt.EVT_ACCEPTED, lambda event: accepted.append(waits(event.assoc)))]
    server: Any = node.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        peer = Peer("127.0.0.1", server.server_address[1], "PACS", calling_ae="CXRD", timeout=10)
        with associate(peer, [build_context(ECHO)]) as association:
            assert not waits(association)
        assert accepted == [True]  # a node without our handler: else this would tell nothing
    finally:
        server.shutdown()


def test_it_is_off_where_we_are_called(tmp_path: Path) -> None:
    options = NodeOptions("CXRD", "127.0.0.1", 0, (), (), 5, 131072, 10, 100)
    node = StorageNode(options, tmp_path, lambda _: 0)
    node.start()
    try:
        association = AE("SENDER").associate("127.0.0.1", node.port, contexts=[build_context(ECHO)])
        assert association.is_established
        (accepted,) = node._entity.active_associations
        assert not waits(accepted)
        association.release()
    finally:
        node.stop()
