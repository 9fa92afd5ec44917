"""A node that is asked for storage commitment, and what a hostile or careless peer sends in its place."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT
from pynetdicom.dsutils import encode

from dicom_io.network.commitment_messages import (
    PUSH_INSTANCE,
    PUSH_MODEL,
    Failed,
    Reference,
    Report,
    Request,
    report_dataset,
    request_of,
)
from dicom_io.network.storage_scu import Peer

CR = "1.2.840.10008.5.1.4.1.1.1"


def references(count: int, *, first: int = 1) -> tuple[Reference, ...]:
    """Return references to instances that nobody else names."""
    return tuple(Reference(CR, f"1.2.826.7.{number}") for number in range(first, first + count))


def event_report(report: Report, event_type: int | None = None) -> N_EVENT_REPORT:
    """Return the primitive of a report, in implicit VR."""
    return event_bytes(encode(report_dataset(report), True, True) or b"", event_type or (2 if report.failed else 1))


def event_bytes(data: bytes, event_type: int = 1, instance: str = PUSH_INSTANCE) -> N_EVENT_REPORT:
    """Return the primitive of a report, whatever it holds."""
    event = N_EVENT_REPORT()
    event.MessageID = 1
    event.AffectedSOPClassUID, event.AffectedSOPInstanceUID = PUSH_MODEL, instance
    event.EventTypeID, event.EventInformation = event_type, BytesIO(data) if data else None
    return event


def action_bytes(data: bytes, action_type: int = 1, instance: str = PUSH_INSTANCE) -> N_ACTION:
    """Return the primitive of a request, whatever it holds."""
    action = N_ACTION()
    action.MessageID = 1
    action.RequestedSOPClassUID, action.RequestedSOPInstanceUID = PUSH_MODEL, instance
    action.ActionTypeID, action.ActionInformation = action_type, BytesIO(data) if data else None
    return action


def exchange(association: Any, primitive: Any, context_id: int | None = None) -> int:
    """Send a primitive as it is; return the status of what comes back."""
    association._reactor_checkpoint.clear()
    try:
        number = context_id or association.accepted_contexts[0].context_id
        association.dimse.send_msg(primitive, number)
        _, answer = association.dimse.get_msg(block=True)
    finally:
        association._reactor_checkpoint.set()
    return int(answer.Status)


class CommittingPeer:
    """A node of pynetdicom's that commits to what is in `keeps`.

    Parameters
    ----------
    way
        How it reports: on the `same` association, `before` it answers the request, or `never`. `slow`: it does not
        even answer the request in time. `none`: it offers no storage commitment.
    status
        What it answers a request with.
    """

    def __init__(self, way: str, status: int = 0x0000) -> None:
        self.way, self.status = way, status
        self.keeps: set[Reference] = set()
        self.requests: list[Request] = []
        self.answers: list[int] = []
        self.awake = threading.Event()
        self.pause = 0.0
        self.further: list[Report] = []
        """Reports on other transactions, sent on the same association before the one that is due."""
        entity = AE("PACS")
        entity.dimse_timeout = 5
        if way != "none":
            entity.add_supported_context(PUSH_MODEL)
        entity.add_supported_context("1.2.840.10008.1.1")
        server: Any = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_ACTION, self._act)])
        self.server = server
        self.peer = Peer("127.0.0.1", server.server_address[1], "PACS", "CXRD", timeout=5)

    def report(self, request: Request) -> Report:
        """Return what it says of a request."""
        kept = tuple(each for each in request.references if each in self.keeps)
        missing = tuple(Failed(each, 0x0112) for each in request.references if each not in self.keeps)
        return Report(request.transaction_uid, kept, missing)

    def _act(self, event: Any) -> tuple[int, None]:
        if self.way == "slow":
            self.awake.wait(10)
        request = request_of(event.action_information, 100_000)
        self.requests.append(request)
        reports = [*self.further, self.report(request)]
        if self.way == "before":
            event.assoc.dimse.send_msg(event_report(reports[-1]), event.context.context_id)
        if self.way == "same":
            threading.Thread(target=self._send, args=(event.assoc, reports)).start()
        return self.status, None

    def _send(self, association: Any, reports: list[Report]) -> None:
        self.awake.wait(self.pause)
        for each in reports:
            answer, _ = association.send_n_event_report(
                report_dataset(each), 2 if each.failed else 1, PUSH_MODEL, PUSH_INSTANCE
            )
            self.answers.append(int(answer.Status))


@contextmanager
def committing(way: str, status: int = 0x0000) -> Iterator[CommittingPeer]:
    """Run a `CommittingPeer` for the length of a block."""
    peer = CommittingPeer(way, status)
    try:
        yield peer
    finally:
        peer.awake.set()
        peer.server.shutdown()


class Requestor:
    """A sender that asks our node, and listens for its reports."""

    def __init__(self, status: int = 0x0000, context: ssl.SSLContext | None = None) -> None:
        self.status = status
        self.reports: list[Dataset] = []
        self.types: list[int] = []
        self.roles: list[tuple[bool, bool]] = []
        self.arrived = threading.Event()
        entity = AE("SENDER")
        entity.add_supported_context(PUSH_MODEL, scu_role=True, scp_role=True)
        handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self.take), (evt.EVT_REQUESTED, self._note)]
        place = ("127.0.0.1", 0)
        server: Any = entity.start_server(place, block=False, evt_handlers=handlers, ssl_context=context)
        self.server, self.port = server, int(server.server_address[1])

    def take(self, event: Any) -> tuple[int, None]:
        """Keep a report; a handler for EVT_N_EVENT_REPORT."""
        self.types.append(event.event_type)
        self.reports.append(event.event_information)
        self.arrived.set()
        return self.status, None

    def _note(self, event: Any) -> None:
        items = event.assoc.requestor.role_selection
        self.roles += [(bool(each.scu_role), bool(each.scp_role)) for each in items.values()]


@contextmanager
def requestor(status: int = 0x0000, context: ssl.SSLContext | None = None) -> Iterator[Requestor]:
    """Run a `Requestor` for the length of a block."""
    made = Requestor(status, context)
    try:
        yield made
    finally:
        made.server.shutdown()


@contextmanager
def associated(
    port: int,
    contexts: list[Any],
    *,
    calling: str = "SENDER",
    on_report: Callable[[Any], tuple[int, None]] | None = None,
    as_scp: bool = False,
) -> Iterator[Any]:
    """Open an association with a node of ours for the length of a block."""
    entity = AE(calling)
    entity.dimse_timeout = 10
    association = entity.associate(
        "127.0.0.1",
        port,
        contexts=contexts,
        ae_title="CXRD",
        ext_neg=[build_role(PUSH_MODEL, scp_role=True)] if as_scp else None,
        evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)] if on_report else None,
    )
    assert association.is_established
    try:
        yield association
    finally:
        if association.is_established:
            association.release()
