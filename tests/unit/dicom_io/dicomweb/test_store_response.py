"""What an answer to a store transaction says, whatever form it has, and that nothing in it brings the reader down."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_io.dicomweb.store_response import FAILED, STORED, StoreResponse, store_response

JSON = "application/dicom+json"
XML = "application/dicom+xml"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([STORED, FAILED, "00081155", "00081196", "00081197", "Value", "vr"]), inner, max_size=4
        )
    ),
)


@given(VALUES)
def test_json_of_any_shape_is_read(value: Any) -> None:
    assert isinstance(store_response(JSON, json.dumps(value).encode()), StoreResponse)


@given(st.binary(max_size=200), st.sampled_from([JSON, XML]))
def test_bytes_of_any_kind_are_read_or_refused(body: bytes, kind: str) -> None:
    with contextlib.suppress(ValueError):
        store_response(kind, body)


@pytest.mark.parametrize("kind", ["", "text/html", "multipart/related; type=application/dicom+json", "application/pdf"])
def test_another_media_type_is_no_answer(kind: str) -> None:
    with pytest.raises(ValueError, match="no DICOM JSON or XML"):
        store_response(kind, b"{}")


def test_each_object_is_told_apart() -> None:
    def sequence(*pairs: tuple[str, str, int]) -> dict[str, Any]:
        return {"Value": [{"00081155": {"Value": [uid]}, tag: {"Value": [code]}} for uid, tag, code in pairs]}

    body = {
        STORED: sequence(("1.2", "00081196", 0xB000), ("1.3", "00081197", 7)),
        FAILED: sequence(("1.4", "00081197", 0xA700), ("1.5", "00081196", 7)),
    }
    response = store_response(JSON, json.dumps(body).encode())
    assert response.stored == {"1.2": 0xB000, "1.3": 0}
    assert response.failed == {"1.4": 0xA700, "1.5": 0}


def test_xml_may_have_a_namespace_or_none() -> None:
    item = '<Item number="1"><DicomAttribute tag="00081155"><Value number="1">1.2</Value></DicomAttribute></Item>'
    for namespace in ("", ' xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM"'):
        body = f'<NativeDicomModel{namespace}><DicomAttribute tag="{STORED}">{item}</DicomAttribute></NativeDicomModel>'
        assert store_response(XML, body.encode()).stored == {"1.2": 0}


@pytest.mark.parametrize("declared", ['<!ENTITY a "1.2">', '<!ENTITY a SYSTEM "file:///etc/hostname">', ""])
def test_xml_with_a_document_type_is_refused(declared: str) -> None:
    with pytest.raises(ValueError, match="document type"):
        store_response(XML, f"<!DOCTYPE x [{declared}]><x/>".encode())


@pytest.mark.parametrize(
    ("stated", "read"),
    [(0xA700, 0xA700), (0xFFFF, 0xFFFF), (0x10000, 0), (2**40, 0), (-1, 0), ("42752", 42752), ("x", 0), (1e999, 0)],
)
def test_a_reason_has_sixteen_bits(stated: object, read: int) -> None:
    item = {"00081155": {"vr": "UI", "Value": ["1.2"]}, "00081197": {"vr": "US", "Value": [stated]}}
    body = json.dumps({FAILED: {"vr": "SQ", "Value": [item]}}).encode()
    assert store_response(JSON, body).failed == {"1.2": read}
