"""The reporter: sends the audit's events to syslog, as DICOM audit messages (PS3.15 A.5 to A.7)."""

from __future__ import annotations

import datetime as dt
import random
import socket
import threading
from collections.abc import Callable

import structlog

from dicom_io.audit_message import Origin, xml
from dicom_io.errors import CxrdError
from dicom_io.fail_points import reached
from worker import syslog
from worker.clock import now
from worker.database.transactions import Database
from worker.engines.audit_messages import Messages
from worker.ledger.audit_events import REPORT_MOST, AuditEvent, AuditEvents, begin
from worker.logs import unexpected
from worker.queue.claim import LeaseLost, Queue
from worker.queue.retry import backoff
from worker.queue.task import Task
from worker.settings import Settings

log = structlog.get_logger("cxrd.reporter")

MSGID = "DICOM+RFC3881"
"""Of all messages (PS3.15 A.6)."""
MOST_DESCRIPTION = 1000
"""Characters of an alert's description."""
_LOOK = 2.0
"""Seconds between two looks at whether there is something new."""
_LAST = 5.0
"""Seconds that what is new at the end may take."""


def tell_of_alteration(settings: Settings, database: str, description: str) -> None:
    """Send the alert that the audit was altered: past the ledger, which is not to be relied upon then.

    Raises
    ------
    CxrdError
        It could not be sent.
    """
    source, moment = socket.gethostname(), now()
    origin = Origin(source, settings.audit.syslog.site, moment)
    # Who altered the audit may have chosen names that would make the alert too long to be sent.
    alert = xml(Messages(settings, source).altered(origin, database, description[:MOST_DESCRIPTION]))
    syslog.send(syslog.audit_collector(settings.audit.syslog), [syslog.message(moment, alert, MSGID, syslog.SECURITY)])


class Reporter(threading.Thread):
    """A thread beside the couriers, without a pulse: a collector that hangs holds up nothing but this.

    What was not told of stays in the ledger, and nothing is kept in memory but the events in hand.

    Parameters
    ----------
    clock
        Returns the time, aware.
    """

    def __init__(
        self, settings: Settings, ledger: Database, queue: Queue, clock: Callable[[], dt.datetime] = now
    ) -> None:
        super().__init__(name="reporter", daemon=True)
        self._settings = settings.audit.syslog
        self._collector = syslog.audit_collector(self._settings)
        self._messages = Messages(settings, socket.gethostname())
        self._ledger = ledger
        self._queue = queue
        self._events = AuditEvents(ledger, queue)
        self._now = clock
        self._ending = threading.Event()
        self._is_down = False
        self.waiting = 0
        """Events that nobody was told of when it last looked."""

    @property
    def is_on(self) -> bool:
        """Whether the settings name a collector."""
        return bool(self._settings.url)

    def stop(self) -> None:
        """End, after one more look where the collector is there; it is waited for a moment."""
        self._ending.set()
        if self.ident is not None:
            self.join(_LAST)

    def run(self) -> None:
        """Look now and then, and once more at the end."""
        has_begun, is_last = False, False
        while self.is_on and not is_last:
            is_last = self._ending.wait(_LOOK if has_begun else 0)
            try:
                if not has_begun:
                    begin(self._ledger, self._now())
                    has_begun = True
                if not (is_last and self._is_down):
                    self.look()
            except LeaseLost:
                continue  # somebody else tells
            except CxrdError as error:
                self._note_down(str(error))
            except Exception as error:  # noqa: BLE001 - the border of a thread that must not end
                self._note_down(unexpected(error))

    def look(self) -> None:
        """Tell of what is new, until there is nothing more, or the collector does not take it.

        Raises
        ------
        CxrdError
            The ledger is not to be had now, or somebody else tells.
        """
        while (waiting := self._events.waiting()) > 0:
            self.waiting = waiting
            task = self._events.claim(self._now())
            if task is None:
                return
            try:
                if not self._tell(task):
                    return
            finally:
                self._queue.forget(task)  # of one that could not be entered, the lease runs out
        self.waiting = 0

    def _tell(self, task: Task) -> bool:
        """Tell of some events; return whether that could be done."""
        events, is_same = self._events.after(task)
        if not is_same:
            log.warning("audit_messages_begin_anew", after=task.subject, events=len(events))
        lines = [line for event in events for line in self._lines(event)]
        try:
            if lines:
                syslog.send(self._collector, lines)
        except CxrdError as error:
            self._put_off(task, str(error))
            return False
        reached("told not entered")
        last = (events[-1].number, events[-1].digest) if events else None
        self._events.enter(task, last, self._now())
        if self._is_down:
            self._is_down = False
            log.info("audit_messages_sent_again", collector=self._settings.url)
        return True

    def _lines(self, event: AuditEvent) -> list[bytes]:
        """Return what is sent of an event; one that cannot be told of must not hold up all that come after it."""
        try:
            messages = self._messages.of(event)
            lines = [syslog.message(each.origin.at, xml(each), MSGID, syslog.SECURITY) for each in messages]
            if not all(syslog.fits(self._collector, each) for each in lines):
                log.error("audit_message_left_out", number=event.number, reason="no datagram holds it; use tls://")
            return [each for each in lines if syslog.fits(self._collector, each)]
        except Exception as error:  # noqa: BLE001 - whatever an earlier version, or a peer, has put there
            log.error("audit_message_left_out", number=event.number, reason=unexpected(error))
            return []

    def _note_down(self, reason: str) -> None:
        """Say once that nothing can be told."""
        if not self._is_down:
            self._is_down = True
            log.warning("audit_messages_wait", reason=reason, events=self.waiting)

    def _put_off(self, task: Task, reason: str) -> None:
        self._note_down(reason)
        wait = backoff(task.attempts, first=_LOOK, most=REPORT_MOST, jitter=random.random())
        self._events.postpone(task, self._now() + dt.timedelta(seconds=wait), reason)
