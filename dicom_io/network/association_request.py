"""What a peer asks for by A-ASSOCIATE-RQ (PS3.8 9.3.2), read leniently and handed on as pynetdicom can decode it.

pynetdicom refuses whole requests for what does no harm: items that it does not know, though PS3.8 9.3.1 wants them
skipped; AE titles that are padded with NUL or are not ASCII; an Implementation Version Name that is too long; a missing
Maximum Length. DCMTK takes all of these, and modalities send them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from dicom_io.uids import MOST_CHARACTERS

NO_UID = "0"
"""Stands for a UID that is empty, absent or none: no object, no class and no syntax has it."""
MOST_BYTES = 262_144
"""Bytes of an A-ASSOCIATE-RQ: 128 contexts of 50 transfer syntaxes have 200,000, a Kerberos ticket comes on top."""
MOST_CONTEXTS = 128
"""Presentation contexts in one request: their numbers are odd and have one byte (PS3.8 9.3.2.2)."""
MOST_ITEMS = 16_384
"""Items in one request: what reading them may cost."""
DEFAULT_LENGTH = 16_384
"""Maximum Length of a peer that states none."""
LEAST_LENGTH = 128
"""Bytes of a PDU that each peer must take: in less there is hardly room for a fragment's own header (PS3.8 9.3.5)."""

_HEADER = 74
"""Bytes of a request before its items, with the six of type and length."""
_APPLICATION_CONTEXT, _CONTEXT, _USER_INFORMATION = 0x10, 0x20, 0x50
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX = 0x30, 0x40
_KNOWN_IN_CONTEXT = (_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX)
_MAXIMUM_LENGTH, _VERSION_NAME = 0x51, 0x55
_KNOWN_OF_USER = range(0x51, 0x5A)
_TITLE = 16
_CALLED, _CALLING = slice(10, 26), slice(26, 42)
_USER_IDENTITY = 0x58
_IDENTITY_TYPES = (b"\1", b"\2", b"\3", b"\4", b"\5")
"""User names, passwords, tickets and tokens (PS3.7 D.3.3.7.1); we ask for none of them."""


class MalformedRequest(ValueError):
    """A request that cannot be read; the message says why, in words."""


@dataclass(frozen=True)
class AssociationRequest:
    """A request as it was meant.

    Attributes
    ----------
    calling, called
        AE titles, as `title` writes them.
    pdu
        The request for pynetdicom: without what it does not know, and with stand-ins for titles that it does not take.
    """

    calling: str
    called: str
    pdu: bytes


def read_request(pdu: bytes) -> AssociationRequest:
    """Read an A-ASSOCIATE-RQ PDU.

    Raises
    ------
    MalformedRequest
        An item is cut short, there are too many, or a presentation context is for nothing.
    """
    if len(pdu) < _HEADER:
        raise MalformedRequest(f"an A-ASSOCIATE-RQ of {len(pdu)} bytes")
    items, contexts, count, is_named = [], 0, 0, True
    for kind, value in _items(pdu[_HEADER:]):
        count += 1
        if kind == _CONTEXT:
            contexts += 1
            subitems = list(_items(value[4:]))
            count += len(subitems)
            is_named = is_named and any(
                each == _ABSTRACT_SYNTAX and content.strip(b" \0") for each, content in subitems
            )
            items.append(_item(kind, value[:4] + _context(value[:1], subitems)))
        elif kind == _USER_INFORMATION:
            items.append(_item(kind, _user_information(value)))
        elif kind == _APPLICATION_CONTEXT:
            items.append(_item(kind, value))
        if contexts > MOST_CONTEXTS:
            raise MalformedRequest(f"more than {MOST_CONTEXTS} presentation contexts in one A-ASSOCIATE-RQ")
        if count > MOST_ITEMS:
            raise MalformedRequest(f"more than {MOST_ITEMS} items in one A-ASSOCIATE-RQ")
    if not is_named:
        raise MalformedRequest("a presentation context names no abstract syntax")
    called, calling = pdu[_CALLED], pdu[_CALLING]
    body = pdu[6:10] + _stand_in(called) + _stand_in(calling) + pdu[42:_HEADER] + b"".join(items)
    return AssociationRequest(*titles(pdu), pdu[:2] + struct.pack(">I", len(body)) + body)


def _context(number: bytes, subitems: list[tuple[int, bytes]]) -> bytes:
    """Return the sub-items of a presentation context without what is unknown.

    Transfer syntaxes that are no UIDs are nobody's: they are left out, and where none is left, a stand-in that is not
    known either has the context refused, and not the association.
    """
    if not number:
        raise MalformedRequest("a presentation context without a number")
    if not number[0] & 1:
        raise MalformedRequest(f"presentation context {number[0]} has no odd number")
    kept = [(kind, value) for kind, value in subitems if kind in _KNOWN_IN_CONTEXT]
    kept = [(kind, value) for kind, value in kept if kind != _TRANSFER_SYNTAX or _is_uid(value)]
    if all(kind != _TRANSFER_SYNTAX for kind, _ in kept):
        kept.append((_TRANSFER_SYNTAX, NO_UID.encode()))
    return b"".join(_item(kind, value) for kind, value in kept)


def _is_uid(value: bytes) -> bool:
    stripped = value.strip(b" \0")
    return 0 < len(stripped) <= MOST_CHARACTERS and stripped.isascii()


def titles(pdu: bytes) -> tuple[str, str]:
    """Return calling and called AE title of an A-ASSOCIATE-RQ PDU as `title` writes them, as far as they are there."""
    return title(pdu[_CALLING]), title(pdu[_CALLED])


def title(raw: bytes) -> str:
    r"""Return an AE title in printable ASCII: what else a peer put there is written out, as `R\xd6NTGEN`.

    Blanks and NULs around it do not count. It has 16 characters at most, which is what the ledger holds; one that is
    longer when it is written out is cut.
    """
    shown = ""
    for byte in raw.strip(b" \0"):
        each = chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}"
        if len(shown) + len(each) > _TITLE:
            break
        shown += each
    return shown


def _stand_in(raw: bytes) -> bytes:
    """Return a title that pynetdicom decodes; whose it is, and whether it may call, is decided by the real one."""
    stripped = raw.strip(b" \0")
    plain = bytes(byte if 0x20 <= byte < 0x7F and byte != 0x5C else 0x3F for byte in stripped)
    return (plain or b"?").ljust(_TITLE)


def _user_information(value: bytes) -> bytes:
    """Return a User Information item's value without what is unknown, and with a Maximum Length (PS3.8 D.1)."""
    items, is_bounded = b"", False
    for kind, stated in _items(value):
        content = _version_name(stated) if kind == _VERSION_NAME else stated
        if kind not in _KNOWN_OF_USER or (kind == _VERSION_NAME and not content):
            continue
        if kind == _USER_IDENTITY and content[:1] not in _IDENTITY_TYPES:
            continue
        if kind == _MAXIMUM_LENGTH and len(content) == 4:
            is_bounded, content = True, struct.pack(">I", usable_length(struct.unpack(">I", content)[0]))
        items += _item(kind, content)
    return items if is_bounded else _item(_MAXIMUM_LENGTH, struct.pack(">I", DEFAULT_LENGTH)) + items


def usable_length(stated: int | None) -> int:
    """Return the length that PDUs for a peer may have, by the Maximum Length that it states; 0: any (PS3.8 D.1)."""
    return DEFAULT_LENGTH if stated is None else stated and max(LEAST_LENGTH, stated)


def _version_name(content: bytes) -> bytes:
    """Return an Implementation Version Name of 1 to 16 characters of ASCII (PS3.7 D.3.3.2.3), or nothing."""
    plain = bytes(byte if 0x20 <= byte < 0x7F else 0x3F for byte in content.strip(b" \0"))
    return plain[:16].strip()


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and value of the items that lie one behind the other (PS3.8 9.3.1)."""
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise MalformedRequest("an item of the A-ASSOCIATE-RQ is cut short")
        kind, _, length = struct.unpack_from(">BBH", data, at)
        at += 4
        if at + length > len(data):
            raise MalformedRequest(f"item 0x{kind:02X} of the A-ASSOCIATE-RQ is cut short")
        yield kind, data[at : at + length]
        at += length


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value
