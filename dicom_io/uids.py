"""Unique identifiers that are the same each time the same work is done."""

from __future__ import annotations

import hashlib
import uuid

MOST_CHARACTERS = 64
"""Of a UID (PS3.5 9.1)."""
# The name space of every UID that cxrd derives. Fixed for ever: changing it would make a second set of results for
# images that were answered already.
_NAMESPACE = uuid.UUID("6f0c2b5e-6d0e-5c39-9d53-1f2d8a8f0a61")


def derived_uid(source_uid: str, model: str, kind: str) -> str:
    """Return the UID of one result of one source SOP instance under one model.

    Parameters
    ----------
    source_uid
        SOP Instance UID of the radiograph (or any other identifier of the source that never changes).
    model
        Name, version and digest of the model: a changed model makes new results.
    kind
        What is identified, for instance ``"secondary-capture"`` or ``"secondary-capture/series"``.

    Returns
    -------
    str
        A UID under ``2.25``, made of a version 5 UUID (PS3.5 B.2; RFC 9562 section 5.5); at most 44 characters.
    """
    return f"2.25.{uuid.uuid5(_NAMESPACE, '|'.join((source_uid, model, kind))).int}"


def digest(uid: str) -> str:
    """Return twelve hexadecimal digits that stand for a UID in a log, where the UID itself must not appear."""
    return hashlib.sha256(uid.encode()).hexdigest()[:12]
