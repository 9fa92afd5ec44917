"""Asking a node for storage commitment: its report on the same association, early, late or never, and its refusals."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from dicom_io.errors import Declined, NotNow, OutOfResources, PeerUnavailable, RefusedByPeer
from dicom_io.network import status
from dicom_io.network.commitment_messages import Failed, Report, Request
from dicom_io.network.storage_commitment import request_commitment
from tests.support.commitment import CommittingPeer, committing, references

UID = "2.25.1"
REQUEST = Request(UID, references(3))


class Ledger:
    """Takes reports, or fails to."""

    def __init__(self, fails: type[Exception] | None = None, code: int = status.SUCCESS) -> None:
        self.reports: list[Report] = []
        self._fails, self._code = fails, code

    def receive(self, report: Report) -> int:
        if self._fails:
            raise self._fails("locked")
        self.reports.append(report)
        return self._code


def ask(there: CommittingPeer, ledger: Ledger, *, wait: float = 10.0) -> Report | None:
    return request_commitment(there.peer, REQUEST, wait=wait, receive=ledger.receive)


@pytest.mark.parametrize("way", ["same", "before"])
def test_a_report_on_the_same_association_is_taken(way: str) -> None:
    """Also one that comes before the answer to the request, which pynetdicom itself takes for that answer."""
    ledger = Ledger()
    with committing(way) as there:
        there.keeps = set(REQUEST.references[:2])
        began = time.monotonic()
        report = ask(there, ledger)
        assert time.monotonic() - began < 5
        assert there.requests == [REQUEST]
    assert report == Report(UID, REQUEST.references[:2], (Failed(REQUEST.references[2], 0x0112),), "PACS")
    assert ledger.reports == [report]
    assert there.answers == ([status.SUCCESS] if way == "same" else [])


def test_a_report_that_comes_later_is_not_waited_for_longer_than_said() -> None:
    with committing("never") as there:
        assert ask(there, Ledger(), wait=0.2) is None
        assert there.requests == [REQUEST]


def test_reports_on_earlier_requests_are_taken_too() -> None:
    ledger, earlier = Ledger(), Report("2.25.9", references(1, first=90))
    with committing("same") as there:
        there.further = [earlier]
        report = ask(there, ledger)
    assert report is not None
    assert report.transaction_uid == UID
    assert [each.transaction_uid for each in ledger.reports] == ["2.25.9", UID]


@pytest.mark.parametrize(
    ("ledger", "code"),
    [
        (Ledger(OutOfResources), status.RESOURCE_LIMITATION),
        (Ledger(KeyError), status.PROCESSING_FAILURE),
        (Ledger(code=status.INVALID_ARGUMENT), status.INVALID_ARGUMENT),
    ],
)
def test_a_report_that_could_not_be_entered_is_none(ledger: Ledger, code: int) -> None:
    with committing("same") as there:
        assert ask(there, ledger, wait=1.0) is None
        assert there.answers == [code]


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        (0x0110, NotNow, "0x0110"),
        (0x0213, NotNow, "0x0213"),
        (0x0210, NotNow, "0x0210"),
        (0x0124, Declined, r"0x0124 \(not authorised\)"),
        (0x0123, Declined, r"0x0123 \(no such action\)"),
        (0x0115, Declined, r"0x0115 \(invalid argument value\)"),
    ],
)
def test_a_refusal_is_told_in_words(code: int, error: type[Exception], words: str) -> None:
    with committing("never", code) as there, pytest.raises(error, match=words):
        ask(there, Ledger())


def test_a_node_without_storage_commitment_says_so() -> None:
    with (
        committing("none") as there,
        pytest.raises(RefusedByPeer, match="does not accept Storage Commitment Push Model SOP Class"),
    ):
        ask(there, Ledger())


def test_a_node_that_is_not_there_is_unavailable() -> None:
    with committing("never") as there:
        pass
    with pytest.raises(PeerUnavailable, match="cannot be reached"):
        ask(there, Ledger())


def test_a_node_that_does_not_answer_is_not_waited_for_longer_than_its_timeout() -> None:
    with committing("slow") as there:
        peer = replace(there.peer, timeout=0.5)
        began = time.monotonic()
        with pytest.raises(PeerUnavailable, match="did not answer in time"):
            request_commitment(peer, REQUEST, wait=0.1, receive=Ledger().receive)
        assert time.monotonic() - began < 3


def test_silence_does_not_end_the_association_before_the_wait_is_over() -> None:
    """A node that takes longer to report than to answer."""
    with committing("same") as there:
        there.pause = 1.0
        there.keeps = set(REQUEST.references)
        report = request_commitment(replace(there.peer, timeout=0.3), REQUEST, wait=10, receive=Ledger().receive)
    assert report is not None
    assert report.committed == REQUEST.references
