"""What arrives and is not taken leaves no file: too large, broken off, interrupted by another command."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.dimse_messages import C_ECHO_RQ, C_STORE_RQ
from pynetdicom.dimse_primitives import C_ECHO
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import build_context

from dicom_io.errors import OutOfResources
from dicom_io.network import status
from dicom_io.network.storage_scp import Arrival, StorageNode
from tests.support.peers import store_bytes, store_request, wait_for
from worker.engines.receiver import node_options
from worker.settings import Scp

CR = "1.2.840.10008.5.1.4.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"


class Node:
    """A node that notes what its handler got, and waits in it for `go_on`."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.sizes: list[int] = []
        self.busy, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self.look: Callable[[], None] = lambda: None
        scp = Scp.model_validate({"port": 0} | options)
        self.node = StorageNode(node_options(scp), folder, self._receive, check_space=self._look)

    def _receive(self, arrival: Arrival) -> int:
        self.busy.set()
        self.go_on.wait(60)
        self.sizes.append(arrival.file.size)
        if arrival.file.error is not None:
            return status.CANNOT_UNDERSTAND
        return status.SUCCESS

    def _look(self) -> None:
        self.look()

    def parts(self) -> list[Path]:
        return list(self.folder.iterdir())


@contextmanager
def listening(folder: Path, **options: Any) -> Iterator[Node]:
    made = Node(folder, **options)
    made.node.start()
    try:
        yield made
    finally:
        made.go_on.set()
        made.node.stop(grace=1)


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Node]:
    with listening(tmp_path / "incoming") as made:
        yield made


def connect(node: Node) -> Any:
    contexts = [build_context(CR, ExplicitVRLittleEndian), build_context(VERIFICATION)]
    association = AE("SENDER").associate("127.0.0.1", node.node.port, contexts=contexts)
    assert association.is_established
    return association


def store_fragments(size: int = 500_000) -> list[P_DATA]:
    """Return the primitives of a C-STORE request."""
    message = C_STORE_RQ()
    message.primitive_to_message(store_request(b"\x08\x00" * (size // 2), CR, generate_uid()))
    return list(message.encode_msg(1, 16382))


def echo_fragments() -> list[P_DATA]:
    request, message = C_ECHO(), C_ECHO_RQ()
    request.MessageID = 2
    message.primitive_to_message(request)
    return list(message.encode_msg(3, 16382))


def together(*primitives: P_DATA) -> P_DATA:
    """Return one primitive that holds what several hold."""
    joined = P_DATA()
    pieces: Any = [list(each) for one in primitives for each in one.presentation_data_value_list]
    joined.presentation_data_value_list = pieces
    return joined


def test_a_larger_object_is_refused_for_good_and_says_why(tmp_path: Path) -> None:
    with listening(tmp_path / "incoming", max_object_mb=1) as node:
        association = connect(node)
        assert store_bytes(association, 1, bytes(500_000), CR, generate_uid()) == status.SUCCESS
        association._reactor_checkpoint.clear()
        association.dimse.send_msg(store_request(bytes(1_500_000), CR, generate_uid()), 1)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        assert answer.Status == status.CANNOT_UNDERSTAND
        assert answer.ErrorComment == "the object is larger than 1 MB (scp.max_object_mb)"
        assert node.parts() == []
        assert store_bytes(association, 1, bytes(500_000), CR, generate_uid()) == status.SUCCESS
        association.release()


def test_a_disk_that_fills_meanwhile_stops_the_object(station: Node) -> None:
    looks = iter((False, True))

    def look() -> None:
        if next(looks):
            raise OutOfResources("less than 500 MB would be free in the storage folder")

    station.look = look
    association = connect(station)
    assert store_bytes(association, 1, bytes(12 << 20), CR, generate_uid()) == status.CANNOT_UNDERSTAND
    assert station.sizes[0] > 12 << 20, "all of it was taken off the network"
    assert station.parts() == []
    association.release()


@pytest.mark.parametrize("second", [store_fragments, echo_fragments])
def test_a_command_inside_an_object_leaves_no_file(station: Node, second: Callable[[], list[P_DATA]]) -> None:
    association = connect(station)
    for fragment in store_fragments()[:20]:
        association.dul.send_pdu(fragment)
    wait_for(station.parts)
    for fragment in second()[:2]:
        association.dul.send_pdu(fragment)
    wait_for(lambda: not station.parts())
    wait_for(lambda: association.is_aborted)
    assert station.sizes == []


@pytest.mark.parametrize("second", [store_fragments, echo_fragments])
def test_nor_do_two_commands_in_one_pdu(station: Node, second: Callable[[], list[P_DATA]]) -> None:
    association = connect(station)
    association.dul.send_pdu(together(store_fragments()[0], second()[0]))
    # With a C-ECHO the object's file goes with the association, otherwise before it.
    wait_for(lambda: association.is_aborted or (second is echo_fragments and station.parts()))
    association.abort()
    wait_for(lambda: not station.parts())
    assert station.sizes == []


def test_an_object_that_waits_goes_with_its_sender(station: Node) -> None:
    """A sender that does not wait for answers, and goes before its second object has its turn."""
    station.go_on.clear()
    association = connect(station)
    for fragment in store_fragments():
        association.dul.send_pdu(fragment)
    assert station.busy.wait(60)
    for fragment in store_fragments():
        association.dul.send_pdu(fragment)
    wait_for(lambda: any(each.dimse.msg_queue.qsize() for each in station.node._entity.active_associations))
    assert len(station.parts()) == 2
    association.abort()
    wait_for(lambda: len(station.parts()) == 1)
    station.go_on.set()
    wait_for(lambda: not station.parts())
    assert len(station.sizes) == 1


def test_a_fuzz_of_commands_leaves_no_file(station: Node) -> None:
    stores, echo = store_fragments(), echo_fragments()
    for cut in (1, 2, 5, 20):
        for rest in (stores[:1], echo, stores[:1] * 3, [together(stores[0], stores[1], echo[0])], stores[1:]):
            association = connect(station)
            for fragment in stores[:cut] + rest:
                association.dul.send_pdu(fragment)
            wait_for(lambda: not station.parts() or association.is_aborted)  # noqa: B023
            association.abort()
    wait_for(lambda: not station.parts())
