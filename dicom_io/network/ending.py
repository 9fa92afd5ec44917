"""How an association ended: the cause, in one word and in words, and the one line of the log that tells of it."""

from __future__ import annotations

import threading
from enum import StrEnum

import structlog

log = structlog.get_logger("cxrd.scp")


class Cause(StrEnum):
    """Why an association, or a connection that never became one, ended."""

    RELEASED = "released"  # in order, at the peer's wish: no line, unless an object was not finished
    SILENT = "silent"  # connected and went without a byte, as a port scan or a load balancer's check does
    INSECURE = "insecure"  # the TLS handshake did not come about
    LATE = "late"  # no complete A-ASSOCIATE-RQ in time
    REJECTED = "rejected"  # we rejected it: AE titles, numbers of associations
    ABORTED = "aborted"  # the peer sent A-ABORT
    LOST = "lost"  # the connection broke, or was closed without release
    IDLE = "idle"  # nothing came within scp.network_timeout
    SLOW = "slow"  # fewer bytes than scp.least_rate
    CROWDED = "crowded"  # it gave way to another one
    OVERSIZED = "oversized"  # a PDU or a message states, or has, more bytes than we take
    MALFORMED = "malformed"  # what came is not what DICOM says, or came at the wrong moment
    TOO_MANY = "too many"  # more objects than scp.max_objects
    FULL = "full"  # all peers together make us hold as much memory as they may
    UNSERVED = "unserved"  # a message that we have no service for
    STOPPED = "stopped"  # our node ended
    FAULT = "fault"  # an error of ours that nobody foresaw


_QUIET = (Cause.SILENT, Cause.STOPPED)
"""What is no fault of anybody's: told at the level info."""


class Ending:
    """What is known of one association's end. The first cause that is noted counts: what follows comes of it.

    Attributes
    ----------
    peer
        The peer's address.
    calling, called
        AE titles, as `dicom_io.network.association_request.title` writes them; empty before A-ASSOCIATE-RQ.
    """

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.calling = ""
        self.called = ""
        self._lock = threading.Lock()
        self._cause: Cause | None = None
        self._reason = ""
        self._has_line = False

    @property
    def cause(self) -> Cause | None:
        """Why it ended; None before its end."""
        return self._cause

    def note(self, cause: Cause, reason: str) -> None:
        """Keep a cause, and in words what happened, if it is the first one."""
        with self._lock:
            if self._cause is None:
                self._cause, self._reason = cause, reason

    def tell(self) -> Cause:
        """Write the line, once, and return the cause."""
        with self._lock:
            cause = self._cause or Cause.LOST
            before, self._has_line = self._has_line, True
        if before or (cause is Cause.RELEASED and not self._reason):
            return cause
        facts = {
            "cause": str(cause),
            "reason": self._reason or "the association ended without a release",
            "peer": self.peer,
            "calling_ae": self.calling,
            "called_ae": self.called,
        }
        if cause in _QUIET:
            log.info("association_ended", **facts)
        else:
            log.warning("association_ended", **facts)
        return cause
