"""Storage commitment as the one who asks (PS3.4 J): a node is to promise that it keeps instances safely.

The request is an N-ACTION, the answer an N-EVENT-REPORT: on the same association, or on a new one that the node opens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.dimse_primitives import N_ACTION
from pynetdicom.dsutils import encode
from pynetdicom.presentation import PresentationContext, build_context

from dicom_io.errors import Declined, NotNow, Retryable, UnreadableObject
from dicom_io.header.limits import require_few_elements
from dicom_io.header.reading_limits import ReadingLimits
from dicom_io.network import status
from dicom_io.network.commitment_messages import (
    COMPLETE,
    PUSH_INSTANCE,
    PUSH_MODEL,
    REQUEST,
    WITH_FAILURES,
    Report,
    Request,
    report_of,
    request_dataset,
)
from dicom_io.network.operations import Operations
from dicom_io.network.storage_scu import PLAIN, Peer, associate
from dicom_io.uids import digest

log = structlog.get_logger("cxrd.commitment")

MOST_ELEMENTS = 100_000
"""Elements and items of a request or a report: 25,000 references have so many."""
_LIMITS = ReadingLimits(max_elements=MOST_ELEMENTS)
# PS3.7 C.5: what a node answers to a request that it will not take whenever it is made.
_PERMANENT = {
    0x0112: "no such SOP instance",
    0x0114: "no such argument",
    0x0115: "invalid argument value",
    0x0117: "invalid SOP instance",
    0x0118: "no such SOP class",
    0x0119: "class and instance conflict",
    0x0122: "SOP class not supported",
    0x0123: "no such action",
    0x0124: "not authorised",
    0x0211: "unrecognised operation",
    0x0212: "mistyped argument",
}


def proposed() -> list[PresentationContext]:
    """Return the presentation contexts of a request."""
    return [build_context(PUSH_MODEL, list(PLAIN))]


def request_commitment(
    peer: Peer,
    request: Request,
    *,
    wait: float,
    receive: Callable[[Report], int],
    taken: Callable[[], object] = lambda: None,
    ending: Callable[[], bool] = lambda: False,
) -> Report | None:
    """Ask a node to commit to the safekeeping of instances.

    Parameters
    ----------
    wait
        Seconds to wait for the report on this association. Most nodes send it on one of their own, later.
    receive
        Called with every report that arrives on this association, in another thread: make it durable and return
        0x0000, or another status of N-EVENT-REPORT.
    taken
        Called when the node has taken the request, before its report is waited for.
    ending
        Tells whether to wait no longer.

    Returns
    -------
    Report
        What the node says of this request; None where it has taken the request and not yet answered it.

    Raises
    ------
    PeerUnavailable
        The node cannot be reached, rejects the association or does not answer.
    RefusedByPeer
        It does not offer storage commitment.
    Declined
        It refuses this request.
    NotNow
        It does not take it now.
    """
    own: list[Report] = []

    def on_report(event: Any) -> tuple[int, None]:
        code, report = take_report(event, receive)
        if report is not None and report.transaction_uid == request.transaction_uid:
            own.append(report)
        return code, None

    handlers = [(evt.EVT_N_EVENT_REPORT, on_report)]
    with associate(peer, proposed(), handlers=handlers) as association, Operations(association) as operations:
        association.network_timeout = max(peer.timeout, wait) + 1  # else silence ends the association before our wait
        context = association.accepted_contexts[0]
        action = _action(request, context.transfer_syntax[0])
        code = operations.ask(action, context.context_id, peer.timeout)
        if code in _PERMANENT:
            raise Declined(f"the node refuses the request for commitment with 0x{code:04X} ({_PERMANENT[code]})")
        if code != status.SUCCESS:
            raise NotNow(f"the node answers the request for commitment with 0x{code:04X}")
        taken()
        operations.wait_for(lambda: bool(own) or ending(), wait)
    return own[0] if own else None


def _action(request: Request, syntax: UID) -> N_ACTION:
    action = N_ACTION()
    action.RequestedSOPClassUID, action.RequestedSOPInstanceUID = PUSH_MODEL, PUSH_INSTANCE
    action.ActionTypeID = REQUEST
    action.ActionInformation = encoded(request_dataset(request), syntax)
    return action


def encoded(dataset: Dataset, syntax: UID) -> BytesIO:
    """Return the bytes of a data set in a transfer syntax of `PLAIN`."""
    data = encode(dataset, syntax.is_implicit_VR, syntax.is_little_endian)
    if data is None:  # of texts that we have checked ourselves
        raise ValueError("the data set cannot be encoded")
    return BytesIO(data)


def take_report(event: Any, receive: Callable[[Report], int]) -> tuple[int, Report | None]:
    """Hand on a report that a peer sends; return the status that it gets, and the report where it was taken.

    Parameters
    ----------
    event
        Of pynetdicom's EVT_N_EVENT_REPORT.
    receive
        See `request_commitment`.
    """
    about = {"calling_ae": event.assoc.remote["ae_title"].strip()}
    try:
        code = misplaced(event, event.request.AffectedSOPInstanceUID)
        if not code and event.event_type not in (COMPLETE, WITH_FAILURES):
            code = status.NO_SUCH_EVENT
        if code:
            log.warning("commitment_report_refused", status=f"0x{code:04X}", **about)
            return code, None
        require_few(event.request.EventInformation, event)
        report = report_of(event.event_information, about["calling_ae"])
        about["transaction"] = digest(report.transaction_uid)
        code = receive(report)
    except UnreadableObject as error:
        log.warning("commitment_report_refused", reason=str(error), **about)
        return status.INVALID_ARGUMENT, None
    except Retryable as error:
        log.warning("commitment_report_refused", reason=str(error), **about)
        return status.RESOURCE_LIMITATION, None
    except Exception as error:  # noqa: BLE001 - the border of a request: whatever is in it, the peer gets an answer
        log.error("commitment_report_refused", reason=f"unexpected {type(error).__name__}", **about)
        return status.PROCESSING_FAILURE, None
    return code, report if code == status.SUCCESS else None


def require_few(data: BytesIO | None, event: Any) -> None:
    """Raise an error where parsing the data set of a message takes too much memory.

    Raises
    ------
    UnreadableObject
        It has more than `MOST_ELEMENTS`.
    OutOfResources
        Our node's peers make it hold too much by now.
    """
    if data is not None:
        share = getattr(event.assoc, "share", None)  # of a `NodeAssociation`
        limits = _LIMITS if share is None else replace(_LIMITS, share=share)
        require_few_elements(data.getvalue(), limits, implicit=event.context.transfer_syntax.is_implicit_VR)


def misplaced(event: Any, instance_uid: Any) -> int:
    """Return the status for a message that is not about the Push Model's instance, or 0.

    pynetdicom takes the service from the message alone, whatever presentation context it came on.
    """
    if event.context.abstract_syntax != PUSH_MODEL:
        return status.NO_SUCH_CLASS
    return 0 if instance_uid == PUSH_INSTANCE else status.NO_SUCH_INSTANCE
