"""DICOM's messages as bytes, and damage to whole sessions of them (PS3.7, PS3.8)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random

from dicom_io.network.commitment_messages import PUSH_INSTANCE, PUSH_MODEL
from tests.fuzz.mutation import NUMBERS, WORDS, damaged, damaged_set
from tests.support.raw_peer import element, fragment, item, pdu

NO_DATA, DATA_FOLLOWS = 0x0101, 1


def command(field: int, sop_class: str, *further: bytes, data: bool = False, message: int = 1) -> bytes:
    """Return a command set: its field, class and number, and further elements (PS3.7 E)."""
    body = element(0x2, sop_class.encode()) + element(0x100, struct.pack("<H", field))
    body += element(0x120 if field & 0x8000 else 0x110, struct.pack("<H", message))
    body += element(0x800, struct.pack("<H", DATA_FOLLOWS if data else NO_DATA)) + b"".join(further)
    return element(0, struct.pack("<I", len(body))) + body


def number(at: int, value: int) -> bytes:
    """Return an element of a command set that holds a number."""
    return element(at, struct.pack("<H", value))


def uid(at: int, value: str) -> bytes:
    """Return an element of a command set that holds a UID."""
    return element(at, value.encode() + b"\0" * (len(value) % 2))


def message(head: bytes, data: bytes | None = None, *, context: int = 1) -> list[bytes]:
    """Return the PDUs of a message: its command, and its data set in two pieces where there is one."""
    parts = [fragment(3, head, context)]
    if data is not None:
        half = len(data) // 2
        parts += [fragment(0, data[:half], context), fragment(2, data[half:], context)]
    return parts


def acceptance(contexts: Sequence[tuple[int, int, str]], *, user: bytes = b"") -> bytes:
    """Return an A-ASSOCIATE-AC: number, result and transfer syntax of each context."""
    head = struct.pack(">HH", 1, 0) + b"NODE".ljust(16) + b"CXRD".ljust(16) + bytes(32)
    items = item(0x10, b"1.2.840.10008.3.1.1.1")
    for each, result, syntax in contexts:
        items += item(0x21, bytes([each, 0, result, 0]) + item(0x40, syntax.encode()))
    about = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3") + item(0x55, b"NODE_1") + user
    return pdu(2, head + items + item(0x50, about))


def commitment_set(tags: Sequence[int] = (0x1199,), count: int = 1) -> bytes:
    """Return a data set of storage commitment, implicit VR: a transaction and sequences of references (PS3.4 J.3)."""

    def value(group: int, at: int, data: bytes) -> bytes:
        data += bytes(len(data) % 2)
        return struct.pack("<HHI", group, at, len(data)) + data

    reference = value(8, 0x1150, b"1.2.840.10008.5.1.4.1.1.1") + value(8, 0x1155, b"1.2.826.7.1")
    body = value(8, 0x1195, b"1.2.826.9.1")
    for tag in tags:
        inner = reference + (value(8, 0x1197, struct.pack("<H", 0x112)) if tag == 0x1198 else b"")
        body += value(8, tag, value(0xFFFE, 0xE000, inner) * count)
    return body


def commitment_request(data: bytes) -> list[bytes]:
    """Return the PDUs of an N-ACTION that asks for storage commitment."""
    head = command(0x130, "", number(0x1008, 1), data=True)
    head = head[12 + 8 :]  # another element names the class of a request
    body = uid(0x3, PUSH_MODEL) + head + uid(0x1001, PUSH_INSTANCE)
    return message(element(0, struct.pack("<I", len(body))) + body, data)


def commitment_report(data: bytes) -> list[bytes]:
    """Return the PDUs of an N-EVENT-REPORT about storage commitment."""
    further = uid(0x1000, PUSH_INSTANCE), number(0x1002, 1)
    return message(command(0x100, PUSH_MODEL, *further, data=True, message=7), data)


def damaged_session(pdus: list[bytes], chance: Random) -> list[bytes]:
    """Return a session with damage to the bytes of a PDU, to its head, to the order, or to a command or data set."""
    made = list(pdus)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        at = chance.randrange(len(made))
        each = made[at]
        match chance.randrange(9):
            case 0:
                made[at] = damaged(each, chance)
            case 1:  # its type, or its length
                made[at] = bytes([chance.randrange(10)]) + each[1:]
            case 2:
                made[at] = each[:2] + struct.pack(">I", chance.choice((*NUMBERS, len(each)))) + each[6:]
            case 3:
                made.insert(chance.randrange(len(made) + 1), each)
            case 4 if len(made) > 1:
                del made[at]
            case 5:
                made[at], made[-1] = made[-1], made[at]
            case 6 | 7 if each[:1] == b"\x04" and len(each) > 12:  # the contents of a fragment, which stays whole
                data = damaged(each[12:], chance)
                made[at] = fragment(each[11], data, each[10])
            case _ if each[:1] in b"\1\2" and len(each) > 80:  # items of a request or an acceptance
                made[at] = pdu(each[0], each[6:74] + damaged(each[74:], chance, _ITEMS))
    return made


_ITEMS = (
    *WORDS[:20],
    *(item(kind, b"") for kind in (0x10, 0x20, 0x21, 0x30, 0x40, 0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58)),
    item(0x54, struct.pack(">H", 17) + b"1.2.840.10008.1.1\1\1"),
    item(0x56, struct.pack(">H", 17) + b"1.2.840.10008.1.1" + bytes(30)),
    item(0x57, b"\0" + struct.pack(">HHHHH", 3, 0, 0, 0, 0)),
    item(0x58, b"\2\1" + struct.pack(">H", 4) + b"name" + struct.pack(">H", 4) + b"word"),
    item(0x53, struct.pack(">HH", 1, 1)),
)


def client_hello(chance: Random) -> bytes:
    """Return the record that a TLS client begins with: 1.3 or 1.2, X25519, and no name (RFC 8446, 4.1.2)."""

    def sized(value: bytes, count: int = 2) -> bytes:
        return len(value).to_bytes(count, "big") + value

    extensions = {
        0x2B: sized(b"\3\4\3\3", 1),  # versions
        0x0A: sized(b"\0\x1d\0\x17"),  # groups
        0x0D: sized(b"\4\3\x08\4\4\1"),  # signatures
        0x33: sized(b"\0\x1d" + sized(chance.randbytes(32))),  # a share of a key
    }
    body = b"\3\3" + chance.randbytes(32) + sized(chance.randbytes(32), 1)
    body += sized(b"\x13\1\x13\2\xc0\x2b\xc0\x2f") + b"\1\0"
    body += sized(b"".join(kind.to_bytes(2, "big") + sized(value) for kind, value in extensions.items()))
    return b"\x16\3\1" + sized(b"\1" + sized(body, 3))


def damaged_handshake(chance: Random) -> list[bytes]:
    """Return what a TLS client may send that is none, or one that goes wrong: a hello and records behind it."""
    records = [client_hello(chance)]
    for _ in range(chance.randrange(3)):
        kind = chance.choice((0x14, 0x15, 0x16, 0x17, chance.randrange(256)))
        records.append(bytes([kind, 3, 3]) + struct.pack(">H", chance.choice((32, 32, 0, 0x4000, 0xFFFF))))
        records[-1] += chance.randbytes(32)
    at = chance.randrange(len(records))
    match chance.randrange(4):
        case 0:
            records[at] = damaged(records[at], chance)
        case 1:
            records[at] = records[at][: chance.randrange(len(records[at]))]
        case 2:
            records.insert(at, chance.randbytes(chance.choice((1, 5, 600))))
    return [b"".join(records)]


def damaged_object(pdus: list[bytes], data: bytes, chance: Random) -> list[bytes]:
    """Return a session that stores a data set, with damage to that alone: what is sent is well formed."""
    worse = damaged_set(data, chance)
    (at,) = (number for number, each in enumerate(pdus) if each[:1] == b"\x04" and each[11] == 0)
    return [*pdus[:at], fragment(0, worse[:9000]), fragment(2, worse[9000:]), *pdus[at + 2 :]]


def packed(turns: Sequence[bytes]) -> bytes:
    """Return the turns of a session as the bytes of a case: each behind its length."""
    return b"".join(struct.pack(">I", len(each)) + each for each in turns)


def unpacked(data: bytes) -> list[bytes]:
    """Return the turns of a session."""
    turns = []
    while len(data) >= 4:
        (length,) = struct.unpack_from(">I", data)
        turns.append(data[4 : 4 + length])
        data = data[4 + length :]
    return turns
