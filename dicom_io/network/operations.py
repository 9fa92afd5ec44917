"""DIMSE-N requests of ours on an association whose own thread goes on serving the peer meanwhile (PS3.7 10).

pynetdicom's own `send_n_…` stop the association's thread until the answer is there. A peer that sends an object, or
wants to release the association, then waits for us, and what it sends is taken for the answer. Here the association's
thread sends the request between two messages, and only who asked waits for the answer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Self

from pynetdicom import evt
from pynetdicom.dimse_primitives import N_EVENT_REPORT

from dicom_io.errors import PeerUnavailable

_LOOK = 0.05
"""Seconds between two looks at whether the association is still there."""
_SETTLE = 30.0
"""Seconds that the service of one message may take when the association is to be released."""
_ESTABLISHED = "Sta6"
"""The one state in which we send: established, and nobody wants to release it (PS3.8 table 9-10)."""


class Operations:
    """The requests that we make on one association, of whichever side opened it.

    As a context manager it ends so that the association may be released.

    Parameters
    ----------
    association
        Of pynetdicom. It belongs to this object as long as it is open: `send_…` must not be called on it.
    """

    def __init__(self, association: Any) -> None:
        self._association = association
        self._changed = threading.Condition()
        self._turns: deque[Callable[[], None]] = deque()
        self._answers: dict[int, int | None] = {}
        self._last_id = 0
        self._serving = True
        serve_in_turn(association)
        association.bind(evt.EVT_DIMSE_RECV, self._note)
        self._get_message = association.dimse.get_msg
        association.dimse.get_msg = self._next_message

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.settle()

    @property
    def is_open(self) -> bool:
        """Whether the association is established."""
        return bool(self._association.is_established)

    def ask(self, request: Any, context_id: int, timeout: float) -> int:
        """Send a request and return the status of the answer.

        Parameters
        ----------
        request
            A primitive of `pynetdicom.dimse_primitives`; it gets its Message ID here.
        timeout
            Seconds that the answer may take.

        Raises
        ------
        PeerUnavailable
            The association was lost, or there was no answer in time.
        """
        with self._changed:
            self._last_id = self._last_id % 65535 + 1
            number = request.MessageID = self._last_id
            self._answers[number] = None
        try:
            self.at_next_turn(lambda: self._send(request, context_id))
            if not self.wait_for(lambda: self._answers[number] is not None, timeout):
                raise PeerUnavailable("the peer did not answer in time")
            answer = self._answers[number]
        finally:
            with self._changed:
                del self._answers[number]
        if answer is None:
            raise PeerUnavailable("the association was lost")
        return answer

    def at_next_turn(self, act: Callable[[], None]) -> None:
        """Have something done by the association's thread, when it has answered what it is serving."""
        self._turns.append(act)

    def wait_for(self, what: Callable[[], bool], timeout: float) -> bool:
        """Wait until something holds that the association's thread brings about.

        Returns
        -------
        bool
            Whether it holds, or the association is gone; False where the time is over.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while not what() and self.is_open:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, _LOOK))
        return True

    def settle(self) -> None:
        """Answer what is being served, and serve nothing more: an answer after our release would be an error."""
        settled = threading.Event()

        def end() -> None:
            self._serving = False
            settled.set()

        self.at_next_turn(end)
        self.wait_for(settled.is_set, _SETTLE)

    # ---- in the association's thread ---------------------------------------------------------------------------------

    def _next_message(self, block: bool = False) -> Any:
        """Stand in for pynetdicom's `get_msg`, which the association's thread calls between two messages."""
        if self._turns:
            while self._turns:
                self._turns.popleft()()
            with self._changed:
                self._changed.notify_all()
        return self._get_message(block) if self._serving else (None, None)

    def _send(self, request: Any, context_id: int) -> None:
        if self._association.dul.state_machine.current_state == _ESTABLISHED:
            self._association.dimse.send_msg(request, context_id)

    def _note(self, event: Any) -> None:
        """Keep the status of an answer to one of our requests."""
        command = event.message.command_set
        number, status = command.get("MessageIDBeingRespondedTo"), command.get("Status")
        with self._changed:
            if status is not None and number in self._answers:
                self._answers[number] = int(status)
                self._changed.notify_all()


def serve_in_turn(association: Any) -> None:
    """Have N-EVENT-REPORT requests served by the association's own thread, as all others are.

    pynetdicom starts a thread for each of them: as many as a peer likes, and each stops and starts the association's
    own thread by the same flag, so that a release at the wrong moment waits for ever.
    """
    serve = association._serve_request  # noqa: SLF001 - nothing public lies between the message and its handler

    def serve_or_queue(message: Any, context_id: int) -> None:
        if isinstance(message, N_EVENT_REPORT) and threading.current_thread() is not association:
            association.dimse.msg_queue.put((context_id, message))
        else:
            serve(message, context_id)

    association._serve_request = serve_or_queue  # noqa: SLF001
