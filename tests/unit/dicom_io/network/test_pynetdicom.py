"""What `upper_layer` and `node_server` take for granted of pynetdicom: a version that does otherwise fails here."""

from __future__ import annotations

import inspect

import pytest
from pynetdicom import AE, _config, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import TRANSITION_TABLE, StateMachine
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class
from pynetdicom.transport import AssociationSocket, RequestHandler

from dicom_io.network.storage_scp import STORAGE_SERVICE
from tests.support.raw_peer import item, request


def source(thing: object) -> str:
    return inspect.getsource(thing)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "method",
    [
        *(DULServiceProvider._is_transport_event, DULServiceProvider._process_recv_primitive),
        *(DULServiceProvider._decode_pdu, DULServiceProvider._send, DULServiceProvider.idle_timer_expired),
        *(DIMSEServiceProvider.receive_primitive, Association._serve_request, RequestHandler._create_association),
        *(Association.run_reactor, AssociationSocket._shutdown_socket),
    ],
)
def test_what_we_put_our_own_in_the_place_of_is_there(method: object) -> None:
    assert callable(method)


def test_the_reactor_asks_both_methods_at_each_turn_and_acts_on_one_event() -> None:
    loop = source(DULServiceProvider.run_reactor)
    assert loop.index("self._process_recv_primitive()") < loop.index("self._is_transport_event()")
    assert loop.index("self._is_transport_event()") < loop.index("self.state_machine.do_action(event)")


def test_layers_are_asked_for_through_the_association_and_can_be_exchanged() -> None:
    association = Association(AE("TEST"), MODE_ACCEPTOR)
    association.dul, association.dimse = DULServiceProvider(association), DIMSEServiceProvider(association)
    assert association.acse.dul is association.dul
    assert association.dimse.dul is association.dul
    association.acse_timeout = 7
    assert association.dul.artim_timer.timeout == 7


def test_states_and_events_have_the_numbers_of_the_standard() -> None:
    """PS3.8 table 9-10."""
    assert TRANSITION_TABLE["Evt6", "Sta2"] == "AE-6"
    assert TRANSITION_TABLE["Evt17", "Sta13"] == "AR-5"
    assert TRANSITION_TABLE["Evt12", "Sta6"] == "AR-2"
    assert TRANSITION_TABLE["Evt17", "Sta8"] == "AA-4"
    assert TRANSITION_TABLE["Evt6", "Sta6"] == "AA-8"
    assert ("Evt9", "Sta13") not in TRANSITION_TABLE  # so we send nothing there


def test_a_transition_tells_its_action_event_and_states() -> None:
    trigger = source(StateMachine.do_action)
    assert all(f'"{each}"' in trigger for each in ("action", "current_state", "fsm_event", "next_state"))
    assert evt.EVT_FSM_TRANSITION.name == "EVT_FSM_TRANSITION"


def primitive_of(data: bytes) -> object:
    made = A_ASSOCIATE_RQ()
    made.decode(data)
    return made.to_primitive()


@pytest.mark.parametrize(
    "data",
    [
        request("RÖNTGEN".encode("latin-1")),
        request(b"CT\0"),
        request(user=item(0x51, bytes(4)) + item(0x7F, b"abcd")),
        request(user=item(0x51, bytes(4)) + item(0x55, b"ABCDEFGHIJKLMNOPQRST")),
    ],
)
def test_it_still_refuses_what_we_mend(data: bytes) -> None:
    """Where this fails, a part of `association_request` has become superfluous."""
    with pytest.raises((ValueError, KeyError, TypeError)):
        primitive_of(data)


def test_the_validator_of_uids_can_be_exchanged() -> None:
    assert callable(_config.VALIDATORS["UI"])


def test_the_service_class_of_storage_stands_for_all_its_classes() -> None:
    assert uid_to_service_class(STORAGE_SERVICE) is StorageServiceClass


def test_all_that_a_peer_sends_is_read_by_one_method_of_the_socket() -> None:
    """`answering_peer` puts its own in the place of that."""
    reading = source(DULServiceProvider._read_pdu_data)
    assert reading.count("self.socket.recv(") == 2
    assert "except (OSError, TimeoutError)" in reading
