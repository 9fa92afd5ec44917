"""Reads what a server says of objects that were stored: the Store Instances Response (PS3.18 10.5.3, I.2)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from email.message import Message
from typing import Any
from xml.etree import ElementTree

STORED, FAILED = "00081199", "00081198"  # Referenced SOP Sequence, Failed SOP Sequence
_UID = "00081155"  # Referenced SOP Instance UID
_WARNING_REASON, _FAILURE_REASON = "00081196", "00081197"
JSON = ("application/dicom+json", "application/json")
XML = ("application/dicom+xml", "application/xml", "text/xml")


@dataclass(frozen=True)
class StoreResponse:
    """What a server says that it stored, and what it refused.

    Attributes
    ----------
    stored
        Warning Reason by SOP Instance UID; 0 where there is none.
    failed
        Failure Reason by SOP Instance UID, which is empty where the server names none; 0 where there is no reason.
    """

    stored: dict[str, int]
    failed: dict[str, int]


def store_response(content_type: str, body: bytes) -> StoreResponse:
    """Return what an answer says.

    Parameters
    ----------
    content_type
        The header Content-Type, whatever parameters it has.

    Raises
    ------
    ValueError
        It is of another media type than DICOM's JSON and XML (PS3.18 8.7.3, F and PS3.19 A.1), or cannot be read.
    """
    message = Message()
    message["Content-Type"] = content_type
    kind = message.get_content_type() if content_type else ""
    try:
        if kind in JSON:
            parsed = json.loads(body)
            models = parsed if isinstance(parsed, list) else [parsed]
        elif kind in XML:
            models = [_from_xml(body)]
        else:
            raise ValueError("no DICOM JSON or XML")
    except (RecursionError, ElementTree.ParseError) as error:
        raise ValueError("cannot be read") from error
    return StoreResponse(_reasons(models, STORED, _WARNING_REASON), _reasons(models, FAILED, _FAILURE_REASON))


def _reasons(models: list[Any], sequence: str, reason: str) -> dict[str, int]:
    """Return the reasons of a sequence's items by UID."""
    items = [item for model in models for item in _values(model, sequence)]
    return {str(_first(item, _UID)).strip(" \0"): _number(_first(item, reason)) for item in items}


def _values(model: Any, tag: str) -> list[Any]:
    """Return an attribute's values in the form of DICOM JSON; none where the model does not have that form."""
    element = model.get(tag) if isinstance(model, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _first(model: Any, tag: str) -> Any:
    return next(iter(_values(model, tag)), "")


def _number(value: Any) -> int:
    """Return a reason, which has 16 bits (VR US); 0 where it is none."""
    try:
        number = int(value or 0)
    except (ValueError, TypeError, OverflowError):
        return 0
    return number if 0 <= number <= 0xFFFF else 0


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type, in which entities could be declared: DICOM's XML has none."""

    def doctype(self, *_declared: Any) -> None:
        raise ValueError("has a document type")


def _from_xml(body: bytes) -> dict[str, Any]:
    """Return the two sequences of a Native DICOM Model (PS3.19 A.1) in the form of DICOM JSON (PS3.18 F)."""
    parser = ElementTree.XMLParser(target=_NoDoctype())  # noqa: S314 - without a document type there are no entities
    parser.feed(body)
    root = parser.close()
    model: dict[str, Any] = {}
    for sequence in root.findall("{*}DicomAttribute"):
        if sequence.get("tag") in (STORED, FAILED):
            items = [_attributes(item) for item in sequence.findall("{*}Item")]
            model[str(sequence.get("tag"))] = {"Value": items}
    return model


def _attributes(item: ElementTree.Element) -> dict[str, Any]:
    return {
        str(each.get("tag")): {"Value": [value.text or "" for value in each.findall("{*}Value")]}
        for each in item.findall("{*}DicomAttribute")
    }
