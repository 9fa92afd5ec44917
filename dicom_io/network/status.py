"""DIMSE statuses of Storage and Storage Commitment (PS3.4 B.2.3 and J.3, PS3.7 C) and what they mean to a sender."""

from __future__ import annotations

from enum import Enum

SUCCESS = 0x0000
"""The object is stored."""
OUT_OF_RESOURCES = 0xA700
"""Refused: disk full or ledger locked. The sender keeps its copy and tries again later."""
DATASET_MISMATCH = 0xA900
"""Error: the data set does not match its SOP class, or lacks what an image must have."""
CANNOT_UNDERSTAND = 0xC000
"""Error: the data set cannot be parsed, or is larger than we take. Senders do not try again."""
DUPLICATE = 0x0111
"""Duplicate SOP Instance (PS3.7 C.5): we hold this UID with another content, and take no other version of it."""

CLASS_NOT_SUPPORTED = 0x0122
"""Refused: the request names a SOP class that is no storage class."""

# Of N-ACTION and N-EVENT-REPORT (PS3.7 C.5).
PROCESSING_FAILURE = 0x0110
DUPLICATE_INSTANCE = 0x0111
"""Of C-STORE too: the peer says that it has this SOP instance already, as after an answer that was lost."""
NO_SUCH_INSTANCE = 0x0112
NO_SUCH_EVENT = 0x0113
INVALID_ARGUMENT = 0x0115
NO_SUCH_CLASS = 0x0118
NO_SUCH_ACTION = 0x0123
NOT_AUTHORISED = 0x0124
RESOURCE_LIMITATION = 0x0213


class Verdict(Enum):
    """What a C-STORE status says of an object that was sent."""

    SENT = "sent"  # success, or stored with a warning (0xB000, 0xB006, 0xB007)
    RETRY = "retry"  # may pass later: out of resources, processing failure, an answer we do not know
    REFUSED = "refused"  # will never pass: SOP class not supported, data set not understood


_WARNINGS = (0x0001, 0x0107, 0x0116)
# PS3.7 C.5: SOP class not supported, invalid SOP instance, invalid object instance, invalid attribute,
# missing attribute, not authorised.
_PERMANENT = (0x0122, 0x0117, 0x0112, 0x0106, 0x0120, 0x0124)


def verdict_of(status: int) -> Verdict:
    """Sort a C-STORE response status into sent, to be tried again, or refused for good.

    Parameters
    ----------
    status
        Status of the response, 0x0000–0xFFFF.
    """
    if status == SUCCESS or status in _WARNINGS or 0xB000 <= status <= 0xBFFF:
        return Verdict.SENT
    if status in _PERMANENT or 0xA900 <= status <= 0xA9FF or 0xC000 <= status <= 0xCFFF:
        return Verdict.REFUSED
    return Verdict.RETRY
