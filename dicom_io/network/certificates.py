"""Until when a certificate holds, read from its file (RFC 5280 4.1)."""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

from dicom_io.errors import InvalidSettings

_SEQUENCE, _CONTEXT_0 = 0x30, 0xA0
_UTC_TIME = 0x17
_END = "-----END CERTIFICATE-----"


def days_left(certificate: Path, now: dt.datetime) -> float:
    """Return for how many days the first certificate of a file still holds; below 0 if it has expired.

    Raises
    ------
    InvalidSettings
        The file cannot be read, or holds no certificate in PEM form.
    """
    try:
        text = certificate.read_text(encoding="latin-1")
        begin = text.index("-----BEGIN CERTIFICATE-----")
        der = ssl.PEM_cert_to_DER_cert(text[begin : text.index(_END, begin) + len(_END)])
        return (_not_after(der) - now).total_seconds() / 86400
    except OSError as error:
        raise InvalidSettings(f"certificate {certificate}: {error.strerror}") from error
    except (ValueError, IndexError) as error:
        raise InvalidSettings(f"certificate {certificate}: holds no certificate in PEM form") from error


def _not_after(der: bytes) -> dt.datetime:
    """Return the end of the validity: the fourth field behind the version."""
    _, body, _ = _element(der, 0)
    _, fields, _ = _element(body, 0)
    kind, _, at = _element(fields, 0)
    if kind != _CONTEXT_0:
        at = 0  # version 1 leaves it out
    for _ in range(3):  # serial number, signature algorithm, issuer
        _, _, at = _element(fields, at)
    kind, validity, _ = _element(fields, at)
    if kind != _SEQUENCE:
        raise ValueError("no validity")
    _, _, at = _element(validity, 0)
    kind, value, _ = _element(validity, at)
    form = "%y%m%d%H%M%SZ" if kind == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return dt.datetime.strptime(value.decode("ascii"), form).replace(tzinfo=dt.UTC)


def _element(data: bytes, at: int) -> tuple[int, bytes, int]:
    """Return type and value of the element at a place, and where the next one begins (X.690)."""
    kind, length = data[at], data[at + 1]
    at += 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(data[at : at + size], "big")
        at += size
    return kind, data[at : at + length], at + length
