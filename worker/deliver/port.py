"""The port of a destination: each kind opens a session, sends one delivery after the other, and says what became of it.

`worker.deliver.destinations` holds the table of the kinds; each has a module of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from dicom_io.errors import PeerUnavailable
from dicom_io.network.status import DUPLICATE_INSTANCE, Verdict, verdict_of
from worker.ledger.records import DueDelivery
from worker.storage.blobs import Blobs

SETTLE = 2.0
"""Seconds from one look for an object to the next."""


@dataclass(frozen=True)
class Outcome:
    """What became of one attempt at a delivery.

    Attributes
    ----------
    verdict
        Sent, to be tried again, or refused for good.
    status
        The answer as a C-STORE status (PS3.4 B.2.3), where there was one.
    reason
        What the peer said, in words; empty where it was sent.
    sent_as
        SOP Instance UID of the lossy copy that went in the object's place; empty where the object itself went.
    congested
        Whether the destination has no room for anything now (0xA7xx, PS3.4 B.2.3).
    is_ours
        Whether the fault is here and says nothing of the destination, as where a file cannot be read.
    remark
        What the audit says of a delivery that was sent, where the status alone does not.
    """

    verdict: Verdict
    status: int | None = None
    reason: str = ""
    sent_as: str = ""
    congested: bool = False
    is_ours: bool = False
    remark: str = ""


def refusal(reason: str, status: int | None = None) -> Outcome:
    """Return that a delivery will never be taken."""
    return Outcome(Verdict.REFUSED, status, reason)


def retry(reason: str, status: int | None = None, *, is_ours: bool = False) -> Outcome:
    """Return that a delivery is to be tried again."""
    return Outcome(Verdict.RETRY, status, reason, is_ours=is_ours)


def outcome_of(status: int, sent_as: str = "") -> Outcome:
    """Return what a C-STORE status says of a delivery."""
    verdict = verdict_of(status)
    if verdict is Verdict.SENT:
        return Outcome(verdict, status, sent_as=sent_as)
    if verdict is Verdict.REFUSED:
        return refusal(f"the peer refuses it with status 0x{status:04X}", status)
    reason = f"the peer answers with status 0x{status:04X}"
    return Outcome(verdict, status, reason, congested=status & 0xFF00 == 0xA700)


def already_there(look: Callable[[], bool | None], way: str) -> Outcome:
    """Return what becomes of a delivery of which the peer says that it is there already (0x0111).

    Parameters
    ----------
    look
        Tells whether it is there; None where the peer cannot be asked; raises PeerUnavailable where it does not answer.
        It is asked once more after a moment: some nodes find what they took only then.
    way
        How it is asked.
    """
    try:
        is_there = look()
        if is_there is False:
            time.sleep(SETTLE)
            is_there = look()
    except PeerUnavailable as error:
        return retry(f"the peer says that it is there already (status 0x0111); {error}", DUPLICATE_INSTANCE)
    if is_there is False:
        reason = f"the peer says that it is there already (status 0x0111), but does not find it by {way}"
        return refusal(reason, DUPLICATE_INSTANCE)
    looked = f"found by {way}" if is_there else f"not looked at, since {way} is not offered"
    return Outcome(Verdict.SENT, DUPLICATE_INSTANCE, remark=f"it was there already: {looked}")


class Observation(NamedTuple):
    """One line of `cxrd check`: whether it is well, and what was seen."""

    ok: bool
    text: str


class Session(Protocol):
    """An open association, connection or HTTP session with a destination."""

    def carries(self, delivery: DueDelivery) -> bool:
        """Tell whether a delivery can be tried without a new session."""

    def send(self, delivery: DueDelivery) -> Outcome:
        """Try one delivery.

        Raises
        ------
        AssociationLost
            The destination broke off, or did not answer: it may concern this delivery or all.
        PeerUnavailable
            Nobody answers, or not to us: it concerns all deliveries.
        RefusedByPeer
            The peer takes nothing of what the session was opened for.
        Permanent
            This delivery cannot be sent, as where its file is damaged.
        """


class Sender(Protocol):
    """One destination."""

    def open(self, due: Sequence[DueDelivery], blobs: Blobs) -> AbstractContextManager[Session]:
        """Open a session for what is due; its bytes are in the store. Raises as `Session.send` does."""

    def check(self, *, closely: bool, store: bool) -> Iterator[Observation]:
        """Ask whether it answers, by the protocol that results travel by.

        Parameters
        ----------
        closely
            Ask what it takes and offers too.
        store
            Leave a test object or a test message there, of a patient who does not exist.

        Raises
        ------
        CxrdError
            It does not answer, or not as it should.
        """
