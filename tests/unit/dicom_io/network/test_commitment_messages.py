"""Requests and reports of storage commitment: the same after their bytes, and read in spite of their faults."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom.dsutils import decode, encode

from dicom_io.errors import NotNow, UnreadableObject
from dicom_io.network.commitment_messages import (
    Failed,
    FailureReason,
    Reference,
    Report,
    Request,
    all_failed,
    failure_words,
    judge,
    report_dataset,
    report_of,
    request_dataset,
    request_of,
)

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
A, B, C = Reference(CR, "1.2.1"), Reference(DX, "1.2.2"), Reference(CR, "1.2.3")


def through_bytes(dataset: Dataset, *, implicit: bool) -> Dataset:
    data = encode(dataset, implicit, True)
    assert data is not None
    return decode(BytesIO(data), implicit, True)


@pytest.mark.parametrize("implicit", [True, False])
def test_a_request_is_the_same_after_its_bytes(implicit: bool) -> None:
    request = Request("2.25.7", (A, B, C))
    assert request_of(through_bytes(request_dataset(request), implicit=implicit), 3) == request


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize(
    "report",
    [
        Report("2.25.7", (A, B)),
        Report("2.25.7", (), (Failed(A, 0x0112),)),
        Report("2.25.7", (B,), (Failed(A, 0x0119), Failed(C, 0x0213))),
    ],
)
def test_a_report_is_the_same_after_its_bytes(implicit: bool, report: Report) -> None:
    assert report_of(through_bytes(report_dataset(report), implicit=implicit)) == report


def item(reference: Any = A, **more: Any) -> Dataset:
    made = Dataset()
    made.ReferencedSOPClassUID, made.ReferencedSOPInstanceUID = reference
    for keyword, value in more.items():
        setattr(made, keyword, value)
    return made


def dataset(**values: Any) -> Dataset:
    made = Dataset()
    for keyword, value in ({"TransactionUID": "2.25.7"} | values).items():
        setattr(made, keyword, value)
    return made


def test_an_instance_is_asked_for_once() -> None:
    assert request_of(dataset(ReferencedSOPSequence=[item(), item(B), item()]), 3).references == (A, B)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"ReferencedSOPSequence": []},
        {"ReferencedSOPSequence": [Dataset()]},
        {"ReferencedSOPSequence": [item((CR, ""))]},
        {"ReferencedSOPSequence": [item((CR, "one"))]},
        {"ReferencedSOPSequence": [item((CR, "1." * 33))]},
        {"ReferencedSOPSequence": [item()], "TransactionUID": ""},
        {"ReferencedSOPSequence": [item()], "TransactionUID": "../x"},
    ],
)
def test_what_is_no_request_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UnreadableObject):
        request_of(dataset(**values), 10)


def test_more_references_than_allowed_are_refused_for_now() -> None:
    with pytest.raises(NotNow, match="more than 2 references"):
        request_of(dataset(ReferencedSOPSequence=[item(), item(B), item(C)]), 2)


def test_an_instance_that_is_named_twice_has_failed() -> None:
    report = report_of(dataset(ReferencedSOPSequence=[item(), item(B)], FailedSOPSequence=[item(FailureReason=0x112)]))
    assert (report.committed, report.failed) == ((B,), (Failed(A, 0x0112),))


@pytest.mark.parametrize("more", [{}, {"FailureReason": 0}, {"FailureReason": None}])
def test_a_failure_without_a_reason_is_one_in_processing(more: dict[str, Any]) -> None:
    report = report_of(dataset(FailedSOPSequence=[item(**more)]))
    assert report.failed == (Failed(A, FailureReason.PROCESSING_FAILURE),)


@pytest.mark.parametrize("values", [{}, {"ReferencedSOPSequence": []}, {"FailedSOPSequence": [item((CR, ""))]}])
def test_a_report_that_names_nothing_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UnreadableObject):
        report_of(dataset(**values))


def test_what_is_kept_is_committed_to_and_nothing_else() -> None:
    report = judge(Request("2.25.7", (A, B, C)), {A.sop_instance_uid: CR, B.sop_instance_uid: CR})
    assert report == Report("2.25.7", (A,), (Failed(B, FailureReason.CLASS_CONFLICT), Failed(C, 0x0112)))


def test_a_whole_request_fails_for_one_reason() -> None:
    report = all_failed(Request("2.25.7", (A, B)), FailureReason.DUPLICATE_TRANSACTION)
    assert report == Report("2.25.7", (), (Failed(A, 0x0131), Failed(B, 0x0131)))


# PS3.3 C.14.1.1
@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (0x0110, "a failure in processing (0x0110)"),
        (0x0112, "the node does not have it (0x0112)"),
        (0x0119, "the node has it with another SOP class (0x0119)"),
        (0x0122, "the node does not commit to this SOP class (0x0122)"),
        (0x0131, "the transaction UID is in use (0x0131)"),
        (0x0213, "the node lacks the resources (0x0213)"),
        (0xA700, "a reason that the standard does not name (0xA700)"),
    ],
)
def test_reasons_have_words(reason: int, words: str) -> None:
    assert failure_words(reason) == words
