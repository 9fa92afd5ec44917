"""What modalities write, and does no harm, is accepted, as DCMTK's storescp does."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from tests.integration.network.conftest import WatchedNode
from tests.support.raw_peer import (
    ACCEPT,
    REJECT,
    RELEASE,
    RELEASED,
    RawPeer,
    element,
    fragment,
    item,
    request,
    store_command,
)

Start = Callable[..., WatchedNode]
LENGTH, CLASS = item(0x51, struct.pack(">I", 16384)), item(0x52, b"1.2.3")


@pytest.mark.parametrize(
    ("data", "calling"),
    [
        (request(b"CT\0\0\0\0\0\0\0\0\0\0\0\0\0\0", b"CXRD\0\0\0\0\0\0\0\0\0\0\0\0"), "CT"),
        (request("RÖNTGEN".encode("latin-1")), r"R\xd6NTGEN"),
        (request(b"A\\B\x1b"), r"A\x5cB\x1b"),
        (request(user=LENGTH + CLASS + item(0x7F, b"abcd")), "RAW"),
        (request(user=LENGTH + CLASS + item(0x55, b"ABCDEFGHIJKLMNOPQRST")), "RAW"),
        (request(user=CLASS), "RAW"),
        (request(further=item(0x7E, b"abcd"), in_context=item(0x7F, b"")), "RAW"),
    ],
)
def test_a_request_that_does_no_harm_is_accepted(watched: Start, data: bytes, calling: str) -> None:
    node = watched(allowed_calling=[]).node
    with RawPeer(node.port) as peer:
        assert peer.associate(data) == ACCEPT
        peer.send(fragment(3, store_command(b"1.2.3")) + fragment(2, b"an object"))
        assert peer.status() == 0x0000
        peer.send(RELEASE)
        assert peer.answer()[0] == RELEASED


def test_the_title_stands_written_out_in_what_is_handed_on(watched: Start) -> None:
    node = watched()
    with RawPeer(node.port) as peer:
        peer.associate(request("RÖNTGEN".encode("latin-1"), b"CXRD\0"))
        peer.send(fragment(3, store_command(b"1.2.3")) + fragment(2, b"an object"))
        peer.status()
    (arrival,) = node.arrivals
    assert (arrival.calling_ae, arrival.called_ae) == (r"R\xd6NTGEN", "CXRD")
    assert node.line()["calling_ae"] == r"R\xd6NTGEN"


@pytest.mark.parametrize("uid", [b"1.2." + b"9" * 62, b"", b"\0", b"1.2.\xe9"])
def test_an_impossible_uid_gets_a_status_and_the_association_goes_on(watched: Start, uid: bytes) -> None:
    node = watched()
    with RawPeer(node.port) as peer:
        peer.associate()
        peer.send(fragment(3, store_command(uid)) + fragment(2, b"an object"))
        assert peer.status() == 0xA900
        peer.send(fragment(3, store_command(b"1.2.4")) + fragment(2, b"an object"))
        assert peer.status() == 0x0000
        peer.send(RELEASE)
        assert peer.answer()[0] == RELEASED


@pytest.mark.parametrize(
    ("sop_class", "status"),
    [("1.2.3.4.5", 0x0122), ("1.2." + "9" * 62, 0xA900), ("1.2.840.10008.5.1.4.1.2.2.1", 0x0122), ("", 0x0122)],
)
def test_a_request_that_names_no_storage_class_gets_a_status_and_a_line_too(
    watched: Start, sop_class: str, status: int
) -> None:
    node = watched()
    with RawPeer(node.port) as peer:
        peer.associate()
        peer.send(fragment(3, store_command(b"1.2.3", sop_class=sop_class)) + fragment(2, b"an object"))
        with capture_logs() as lines:
            assert peer.status() == status
        assert [line["status"] for line in lines if line["event"] == "refused"] == [f"0x{status:04X}"]
        peer.send(fragment(3, store_command(b"1.2.4")) + fragment(2, b"an object"))
        assert peer.status() == 0x0000
        assert len(node.arrivals) == 1
        assert not list(node.node._folder.iterdir())


def test_a_command_in_fragments_is_mended_too(watched: Start) -> None:
    node = watched()
    command = store_command(b"", element(0x1030, b"PACS\0\0"))
    with RawPeer(node.port) as peer:
        peer.associate()
        peer.send(fragment(1, command[:50]) + fragment(1, command[50:70]) + fragment(3, command[70:]))
        peer.send(fragment(2, b"an object"))
        assert peer.status() == 0xA900


def test_a_title_with_a_stand_in_is_judged_by_what_it_really_is(watched: Start) -> None:
    node = watched(allowed_calling=["R?NTGEN"], require_called=True)
    with RawPeer(node.port) as peer:
        assert peer.associate(request("RÖNTGEN".encode("latin-1"))) == REJECT
    with RawPeer(node.port) as peer:
        assert peer.associate(request(b"R?NTGEN\0", b"CXRD\0")) == ACCEPT
    with RawPeer(node.port) as peer:
        assert peer.associate(request(b"R?NTGEN", b"CXR")) == REJECT


@pytest.mark.parametrize("sop_class", ["1.2.826.0.1.3680043.9.9999.7", "1.2.840.10008.5.1.4.1.1.6"])
def test_a_private_or_retired_class_is_stored_and_leaves_nothing_behind(watched: Start, sop_class: str) -> None:
    """pynetdicom's table of classes would grow with each class that anybody proposes."""
    from pynetdicom import sop_class as table

    node, before = watched(), len(table._STORAGE_CLASSES)
    with RawPeer(node.port) as peer:
        assert peer.associate(request(sop_class=sop_class)) == ACCEPT
        peer.send(fragment(3, store_command(b"1.2.3", sop_class=sop_class)) + fragment(2, b"an object"))
        assert peer.status() == 0x0000
    assert len(table._STORAGE_CLASSES) == before
