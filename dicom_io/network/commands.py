"""Command sets of peers (PS3.7 6.3.1), mended where pynetdicom would end the association for a small fault.

A C-STORE without usable UIDs gets stand-ins, and then the status that says what is wrong with it.
A Move Originator that is no AE title is left out: nobody here asks for it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pynetdicom import _config as pynetdicom_config

from dicom_io.network.association_request import NO_UID

MOST_COMMAND = 65_536
"""Bytes of a command set; real ones have some hundreds."""
MOST_MESSAGE = 4 * 1024 * 1024
"""Bytes of a data set that is not stored, such as a request for commitment: it is collected in memory."""
MOST_UID = 1024
"""Characters of a UID in a command that is answered with a status; one of more than 64 is no UID (PS3.5 9.1)."""
_GROUP_LENGTH, _CLASS, _FIELD, _INSTANCE, _ORIGINATOR = 0x0000, 0x0002, 0x0100, 0x1000, 0x1030
_C_STORE_RQ = 0x0001


def is_answerable(uid: object) -> tuple[bool, str]:
    """Tell pynetdicom whether a UID may stand in a command: one that is too long gets a status, not an abort."""
    if not isinstance(uid, str):
        return False, "must be a UID"
    return (True, "") if 0 < len(uid) <= MOST_UID else (False, f"must have 1 to {MOST_UID} characters")


def answer_long_uids() -> None:
    """Have UIDs of more than 64 characters taken for what they are: pynetdicom's setting holds for the process."""
    pynetdicom_config.VALIDATORS["UI"] = is_answerable


def mended(command: bytes) -> bytes:
    """Return the bytes of a command set as pynetdicom can serve it; as they are, where it can do so already."""
    try:
        elements = dict(_elements(command))
    except struct.error:
        return command
    if elements.get(_FIELD, b"")[:2] != struct.pack("<H", _C_STORE_RQ):
        return command
    changed = False
    for each in (_CLASS, _INSTANCE):
        uid = elements.get(each, b"").strip(b" \0")
        if not uid or not uid.isascii():
            elements[each] = NO_UID.encode().ljust(2, b"\0")
            changed = True
    originator = elements.get(_ORIGINATOR)
    if originator is not None and not _is_title(originator):
        del elements[_ORIGINATOR]
        changed = True
    if not changed:
        return command
    elements.pop(_GROUP_LENGTH, None)
    body = b"".join(_element(each, elements[each]) for each in sorted(elements))
    return _element(_GROUP_LENGTH, struct.pack("<I", len(body))) + body


def _is_title(value: bytes) -> bool:
    return len(value) <= 16 and all(0x20 <= byte < 0x7F and byte != 0x5C for byte in value)


def _elements(command: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield element number and value of each element of group 0000 (Implicit VR Little Endian)."""
    at = 0
    while at < len(command):
        group, element, length = struct.unpack_from("<HHI", command, at)
        at += 8
        if group or at + length > len(command):
            raise struct.error("not a command set")
        yield element, command[at : at + length]
        at += length


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, number, len(value)) + value
