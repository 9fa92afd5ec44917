"""Limits on what a peer may send that we called: nothing of any length, nothing that trickles, and nothing odd.

pynetdicom makes the association itself, and reads a PDU in one go, however long it says it is. What it does not foresee
ends its thread with a traceback, and whoever waits for the answer waits until his time is over.
"""

from __future__ import annotations

import errno
import math
import time
from typing import Any, Self

from pynetdicom.fsm import AA_4
from pynetdicom.pdu_primitives import MaximumLengthNotification

from dicom_io.network.association_request import DEFAULT_LENGTH, usable_length
from dicom_io.network.commands import MOST_COMMAND, MOST_MESSAGE
from dicom_io.network.upper_layer import MOST_QUEUED

MOST_PDU = 1 << 20
"""Bytes of a PDU: eight times what we state as our Maximum Length, as some nodes take no notice of it."""
_CHUNK = 1 << 16
_INVALID = "Evt19"
"""An unrecognised or invalid PDU (PS3.8 table 9-10)."""
_IDLE, _ESTABLISHED = "Sta1", "Sta6"
_OVER = (_IDLE, "Sta13")
"""States in which nothing more comes: the last one waits for the connection to close (PS3.8 table 9-10)."""


class TimeLimit:
    """The time that one exchange on an association of ours may take, whatever its peer sends meanwhile.

    As a context manager it holds for its block. What comes later ends the association like a lost connection.

    Parameters
    ----------
    seconds
        As long, or twice as long as one message may take, where that is more.
    """

    def __init__(self, association: Any, seconds: float) -> None:
        self._association = association
        self.seconds = max(seconds, 2 * (association.dimse_timeout or 0.0))
        self._until = math.inf

    def __enter__(self) -> Self:
        self._until = self._association.cxrd_until = time.monotonic() + self.seconds
        return self

    def __exit__(self, *_: object) -> None:
        self._association.cxrd_until = math.inf

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._until


def bound(event: Any) -> None:
    """Bound what comes on a connection that has opened.

    A PDU that is too long, or not complete within the association's `network_timeout`, ends the association like a lost
    connection. So does what comes at the wrong moment, or when a `TimeLimit` is over. A message that cannot be read, or
    is too long, aborts it. What comes while we release is not kept.

    Parameters
    ----------
    event
        Of pynetdicom's EVT_CONN_OPEN, which comes before the first byte of the association.
    """
    association = event.assoc
    wrapper: Any = association.dul.socket
    if wrapper is None or wrapper.socket is None:
        return  # it is closed by now
    connection, seconds = wrapper.socket, association.network_timeout
    association.cxrd_until = math.inf
    _guard_messages(association)
    _guard_queue(association)
    _guard_states(association.dul)

    def receive(count: int) -> bytearray:
        if count > MOST_PDU:
            raise OSError(errno.EMSGSIZE, f"a PDU of {count} bytes")
        data, deadline = bytearray(), min(time.monotonic() + seconds, association.cxrd_until)
        if deadline <= time.monotonic():
            raise OSError(errno.ETIMEDOUT, "the exchange has taken too long")
        try:
            while len(data) < count:
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                more = connection.recv(min(count - len(data), _CHUNK))
                if not more:
                    break
                data += more
        finally:
            connection.settimeout(None)
        return data

    wrapper.recv = receive


def mend_acceptance(event: Any) -> None:
    """Mend what a peer lacks in its A-ASSOCIATE-AC, and pynetdicom then fails for.

    No Maximum Length, or a useless one, stands for what everybody takes. A presentation context counts as refused if it
    is accepted in no transfer syntax, or in one that was not proposed.

    Parameters
    ----------
    event
        Of pynetdicom's EVT_ACCEPTED.
    """
    association = event.assoc
    about = association.acceptor.primitive.user_information
    stated = [each for each in about if isinstance(each, MaximumLengthNotification)]
    if not stated:
        stated = [MaximumLengthNotification()]
        about += stated
        stated[0].maximum_length_received = DEFAULT_LENGTH
    for each in stated:
        each.maximum_length_received = usable_length(each.maximum_length_received)
    offered = {each.context_id: each.transfer_syntax for each in association.requestor.requested_contexts}
    accepted = association._accepted_cx  # noqa: SLF001 - the public list is a copy
    for number, context in list(accepted.items()):
        if context.transfer_syntax[:1] not in [[each] for each in offered.get(number, [])]:
            association._rejected_cx.append(accepted.pop(number))  # noqa: SLF001 - likewise


def _guard_messages(association: Any) -> None:
    """Have fragments that make no message, or too long a one, end the association by A-ABORT."""
    dimse = association.dimse
    take_in = dimse.receive_primitive

    def receive(primitive: Any) -> None:
        if association.dul.state_machine.current_state != _ESTABLISHED:
            return  # we have released: nobody asks for it any more (PS3.8 7.2.2)
        try:
            take_in(primitive)
            message = dimse.message
            is_long = message is not None and (
                message.encoded_command_set.tell() > MOST_COMMAND
                or (message.data_set is not None and message.data_set.tell() > MOST_MESSAGE)
            )
        except Exception:  # noqa: BLE001 - what a hostile message can make pynetdicom raise has no end
            is_long = True
        if is_long:
            dimse.message = None
            association.dul.event_queue.put(_INVALID)

    dimse.receive_primitive = receive


def _guard_queue(association: Any) -> None:
    """Have nothing more read while `MOST_QUEUED` messages wait for whoever asked: a peer may be faster than he is."""
    layer = association.dul
    look = layer._is_transport_event  # noqa: SLF001 - nothing public lies before the reading

    def look_where_there_is_room() -> bool:
        is_full = association.dimse.msg_queue.qsize() >= MOST_QUEUED
        is_established = layer.state_machine.current_state == _ESTABLISHED
        return not (is_full and is_established) and bool(look())

    layer._is_transport_event = look_where_there_is_room  # noqa: SLF001 - likewise


def _guard_states(layer: Any) -> None:
    """Have what pynetdicom's states do not foresee end the association like a lost connection.

    Whoever waits for a message hears of each end at once: pynetdicom tells only of some.
    """
    machine = layer.state_machine
    act = machine.do_action

    def do(event: str) -> None:
        before = machine.current_state
        try:
            act(event)
        except Exception:  # noqa: BLE001 - the border of pynetdicom's thread
            if before != _IDLE:
                machine.current_state = AA_4(layer)
            layer.kill_dul()
        if machine.current_state in _OVER and before not in _OVER:
            layer.assoc.dimse.msg_queue.put((None, None))

    machine.do_action = do
