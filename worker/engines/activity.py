"""Starts and stops of cxrd, for the audit."""

from __future__ import annotations

import os
import socket
from typing import Literal

import structlog

from dicom_io.errors import CxrdError
from worker import __version__
from worker.clock import now
from worker.ledger import audit_events
from worker.ledger.receipts import Ledger
from worker.settings import Settings

log = structlog.get_logger("cxrd.activity")


def record_event(kind: Literal["started", "stopped"], role: str, ledger: Ledger, settings: Settings) -> None:
    """Enter that this process begins its work, or is told to end it; a ledger that cannot be written holds up neither.

    Parameters
    ----------
    role
        ``serve``, or that of a process which runs without a supervisor.
    """
    facts = {"role": role, "host": socket.gethostname(), "pid": os.getpid(), "version": __version__}
    try:
        if settings.audit.syslog.url:
            audit_events.begin(ledger, now())
        ledger.record_event(kind, now(), facts)
    except CxrdError as error:
        log.warning("activity_not_entered", activity=kind, role=role, reason=str(error))
