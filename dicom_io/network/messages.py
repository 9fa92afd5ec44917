"""The messages of an association that a peer opened, put together from their fragments (PS3.7 6.3, PS3.8 E)."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage

from dicom_io.errors import OutOfResources
from dicom_io.network import spool
from dicom_io.network.commands import MOST_COMMAND, MOST_MESSAGE, mended
from dicom_io.network.ending import Cause

if TYPE_CHECKING:
    from pynetdicom.association import Association

    from dicom_io.memory import Share

FREE = 262_144
"""Bytes of data sets that an association may have in memory without asking: a request for commitment has 10,000."""
_DATA_SETS = (
    *("DataSet", "Identifier", "AttributeList", "ModificationList"),
    *("ActionInformation", "ActionReply", "EventInformation", "EventReply"),
)
"""Where pynetdicom's primitives keep data sets that are not stored."""


class Messages(DIMSEServiceProvider):
    """Puts messages together from their fragments; what is no message ends the association, with its cause.

    Parameters
    ----------
    share
        Memory for data sets that are not stored, from when they arrive until they were served, beyond `FREE`.
    """

    def __init__(self, association: Association, share: Share) -> None:
        super().__init__(association)
        self._share = share
        self._lock = threading.Lock()
        self._served = 0
        self._is_over = False

    @contextlib.contextmanager
    def serving(self, message: Any) -> Iterator[None]:
        """Count what a message holds as long as it is served."""
        self._served = held_by(message)
        try:
            yield
        finally:
            self._served = 0
            with contextlib.suppress(OutOfResources):  # who reads more has been told, and ends the association
                self._account()

    def let_go(self) -> None:
        """Hold nothing any more: the association is over."""
        with self._lock:
            self._is_over = True
            self._share.hold(0)

    def _account(self) -> None:
        """Take the memory of all that has arrived and was not served; raises OutOfResources where there is none."""
        message = self.message
        arriving = message.data_set.tell() if message is not None and message.data_set is not None else 0
        with self.msg_queue.mutex:
            waiting = sum(held_by(message) for _, message in self.msg_queue.queue)
        with self._lock:
            if not self._is_over:
                self._share.hold(max(0, arriving + waiting + self._served - FREE))

    def receive_primitive(self, primitive: Any) -> None:
        """Take in the fragments of one PDU."""
        association: Any = self.assoc
        try:
            spool.check_turn(self.message, primitive)
            for context_id, _ in primitive.presentation_data_value_list:
                if context_id not in association._accepted_cx:  # noqa: SLF001 - the public list is made anew at each look
                    words = f"a message on presentation context {context_id}, which is not accepted"
                    self._give_up(Cause.MALFORMED, words)
                    return
            self._mend(primitive)
            super().receive_primitive(primitive)
            message = self.message
            if message is not None and message.encoded_command_set.tell() > MOST_COMMAND:
                self._give_up(Cause.OVERSIZED, f"a command of more than {MOST_COMMAND} bytes")
            elif message is not None and message.data_set is not None and message.data_set.tell() > MOST_MESSAGE:
                words = f"a data set of more than {MOST_MESSAGE} bytes that is not to be stored"
                self._give_up(Cause.OVERSIZED, words)
            self._account()
        except OutOfResources as error:
            self._give_up(Cause.FULL, str(error))
        except spool.TooManyObjects as error:
            self._give_up(Cause.TOO_MANY, str(error))
        except Exception as error:  # noqa: BLE001 - whatever a hostile command does, the association ends cleanly
            words = f"a command that cannot be read ({type(error).__name__})"
            self._give_up(Cause.MALFORMED, str(error) if isinstance(error, spool.OutOfTurn) else words)
        if not association.dul.event_queue.empty():  # pynetdicom found it to be no message, and has put the event there
            association.ending.note(Cause.MALFORMED, "a command that cannot be read")

    def _mend(self, primitive: Any) -> None:
        """Mend the command set that is complete with these fragments."""
        values = primitive.presentation_data_value_list
        for number, (context_id, data) in enumerate(values):
            if data[0] & 3 == 3:
                if self.message is None:
                    self.message = DIMSEMessage()
                earlier = self.message.encoded_command_set.getvalue()
                fragments = [each[1:] for _, each in values[: number + 1] if each[0] & 1]
                command = earlier + b"".join(fragments)
                better = mended(command)
                if better != command:
                    self.message.encoded_command_set = io.BytesIO()
                    rest = values[number + 1 :]
                    primitive.presentation_data_value_list = [[context_id, data[:1] + better], *rest]
                return

    def _give_up(self, cause: Cause, reason: str) -> None:
        association: Any = self.assoc
        association.ending.note(cause, reason)
        self.message = None
        spool.drop_unfinished_of(association)
        association.dul.event_queue.put("Evt19")  # PS3.8 9.2: unrecognised or invalid PDU, so abort


def held_by(message: Any) -> int:
    """Return the bytes of a message's data set in memory."""
    values = (getattr(message, name, None) for name in _DATA_SETS)
    return sum(value.getbuffer().nbytes for value in values if isinstance(value, io.BytesIO))
