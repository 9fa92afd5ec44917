"""Our node is asked for storage commitment: what it reports, where, how often, and what it lets no peer do to it."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import evt
from pynetdicom.dsutils import encode
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from structlog.testing import capture_logs

from dicom_io.errors import OutOfResources
from dicom_io.network import commitment_scp, status
from dicom_io.network.commands import MOST_MESSAGE
from dicom_io.network.commitment_messages import (
    PUSH_INSTANCE,
    PUSH_MODEL,
    Failed,
    Reference,
    Report,
    Request,
    report_of,
    request_dataset,
)
from dicom_io.network.commitment_scp import Address, Commitment
from dicom_io.network.storage_scp import StorageNode
from dicom_io.network.tls import ClientTls
from tests.support.certificates import certificate, server_context
from tests.support.commitment import (
    CR,
    action_bytes,
    associated,
    event_bytes,
    event_report,
    exchange,
    references,
    requestor,
)
from tests.support.peers import chest, wait_for
from worker.engines.receiver import node_options
from worker.settings import Scp

PUSH = build_context(PUSH_MODEL)
KEPT = references(2)
LACKING = references(1, first=50)
Start = Callable[..., StorageNode]


class Store:
    """What our node keeps; `troubles` are raised first, one each time it is asked."""

    def __init__(self, kept: Sequence[Reference] = KEPT) -> None:
        self.kept = {each.sop_instance_uid: each.sop_class_uid for each in kept}
        self.troubles: list[Exception] = []
        self.asked = 0
        self.free = threading.Event()
        self.free.set()

    def held(self, uids: Sequence[str]) -> Mapping[str, str]:
        self.asked += 1
        assert self.free.wait(10)
        if self.troubles:
            raise self.troubles.pop()
        return {uid: self.kept[uid] for uid in uids if uid in self.kept}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start nodes: `start(held=…, receive=…, addresses=…)`."""
    started: list[StorageNode] = []

    def make(**parts: Any) -> StorageNode:
        options = node_options(Scp(port=0, network_timeout=20))
        node = StorageNode(options, tmp_path / "incoming", lambda _: status.SUCCESS, Commitment(**parts))
        node.start()
        started.append(node)
        return node

    yield make
    for each in started:
        each.stop(grace=1)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitment_scp, "LINGER", 0.3)
    monkeypatch.setattr(commitment_scp, "FIRST", 0.1)


def ask(association: Any, wanted: Sequence[Reference], uid: str = "2.25.1") -> int:
    """Ask for commitment; return the status of the answer."""
    answer, _ = association.send_n_action(request_dataset(Request(uid, tuple(wanted))), 1, PUSH_MODEL, PUSH_INSTANCE)
    return int(answer.Status)


class Inbox:
    """Reports that come on the association of the request."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.types: list[int] = []
        self.arrived = threading.Event()
        self.free = threading.Event()
        self.free.set()

    def take(self, event: Any) -> tuple[int, None]:
        self.types.append(event.event_type)
        self.reports.append(report_of(event.event_information))
        self.arrived.set()
        self.free.wait(10)
        return status.SUCCESS, None


# ---- where the report goes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "event_type", "report"),
    [
        (KEPT, 1, Report("2.25.1", KEPT)),
        ((*KEPT, *LACKING), 2, Report("2.25.1", KEPT, (Failed(LACKING[0], 0x0112),))),
        (
            [Reference("1.2.840.10008.5.1.4.1.1.1.1", KEPT[0].sop_instance_uid)],
            2,
            Report("2.25.1", (), (Failed(Reference("1.2.840.10008.5.1.4.1.1.1.1", KEPT[0].sop_instance_uid), 0x0119),)),
        ),
    ],
)
def test_who_keeps_the_association_open_gets_the_report_there(
    start: Start, wanted: Sequence[Reference], event_type: int, report: Report
) -> None:
    node, inbox = start(held=Store().held), Inbox()
    with associated(node.port, [PUSH], on_report=inbox.take) as association:
        assert ask(association, wanted) == status.SUCCESS
        assert inbox.arrived.wait(10)
    assert (inbox.types, inbox.reports) == ([event_type], [report])


def test_who_releases_the_association_gets_the_report_on_a_new_one_in_the_role_of_the_scp(start: Start) -> None:
    with requestor() as there:
        node = start(held=Store().held, addresses={"SENDER": Address("127.0.0.1", there.port)})
        with associated(node.port, [PUSH]) as association:
            assert ask(association, KEPT) == status.SUCCESS
        assert there.arrived.wait(10)
    assert report_of(there.reports[0]) == Report("2.25.1", KEPT)
    assert (there.types, there.roles) == ([1], [(False, True)])


def test_a_report_goes_by_tls_where_results_go_so(start: Start, tmp_path: Path) -> None:
    pair = certificate(tmp_path / "there")
    with requestor(context=server_context(pair)) as there:
        node = start(held=Store().held, addresses={"SENDER": Address("127.0.0.1", there.port, ClientTls(pair[0]))})
        with associated(node.port, [PUSH]) as association:
            assert ask(association, KEPT) == status.SUCCESS
        assert there.arrived.wait(10)
    assert report_of(there.reports[0]) == Report("2.25.1", KEPT)


def test_a_requestor_whose_address_is_unknown_is_said_to_get_none(start: Start) -> None:
    node = start(held=Store().held)
    with capture_logs() as lines:
        with associated(node.port, [PUSH]) as association:
            assert ask(association, KEPT) == status.SUCCESS
        wait_for(lambda: any(line["event"] == "commitment_report_lost" for line in lines))
    (line,) = [line for line in lines if line["event"] == "commitment_report_lost"]
    assert line["calling_ae"] == "SENDER"
    assert "no address is configured" in line["reason"]


def test_a_report_that_is_refused_on_the_same_association_goes_to_the_address(start: Start) -> None:
    with requestor() as there:
        node = start(held=Store().held, addresses={"SENDER": Address("127.0.0.1", there.port)})
        refused = threading.Event()

        def refuse(_event: Any) -> tuple[int, None]:
            refused.set()
            return status.PROCESSING_FAILURE, None

        with associated(node.port, [PUSH], on_report=refuse) as association:
            assert ask(association, KEPT) == status.SUCCESS
            assert there.arrived.wait(10)
        assert refused.is_set()


def test_a_report_is_sent_again_until_it_is_taken(start: Start) -> None:
    with requestor(status=status.PROCESSING_FAILURE) as there:
        node = start(held=Store().held, addresses={"SENDER": Address("127.0.0.1", there.port)})
        with capture_logs() as lines:
            with associated(node.port, [PUSH]) as association:
                ask(association, KEPT)
            wait_for(lambda: len(there.reports) == 2)
            there.status = status.SUCCESS
            wait_for(lambda: any(line["event"] == "commitment_reported" for line in lines))
        count = len(there.reports)
        assert count >= 3
    waits = [line["seconds"] for line in lines if line["event"] == "commitment_report_postponed"]
    assert waits[:2] == [0.1, 0.2]
    assert any("0x0110" in line.get("reason", "") for line in lines)


def test_a_report_is_given_up_in_the_end(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitment_scp, "PATIENCE", 0.5)
    with requestor() as there:
        pass
    node = start(held=Store().held, addresses={"SENDER": Address("127.0.0.1", there.port)})
    with capture_logs() as lines:
        with associated(node.port, [PUSH]) as association:
            ask(association, KEPT)
        wait_for(lambda: any(line["event"] == "commitment_report_lost" for line in lines))
    assert any("cannot be reached" in line.get("reason", "") for line in lines)
    assert node._service._jobs == []


@pytest.mark.parametrize("trouble", [OutOfResources("the ledger is locked"), KeyError("x")])
def test_what_cannot_be_looked_up_now_is_looked_up_again_and_not_denied(start: Start, trouble: Exception) -> None:
    store, inbox = Store(), Inbox()
    store.troubles = [trouble]
    node = start(held=store.held)
    with associated(node.port, [PUSH], on_report=inbox.take) as association:
        ask(association, KEPT)
        assert inbox.arrived.wait(10)
    assert inbox.reports == [Report("2.25.1", KEPT)]
    assert store.asked == 2


# ---- the association goes on ----------------------------------------------------------------------------------------


def test_objects_are_taken_while_a_report_waits_for_its_answer(start: Start) -> None:
    """What pynetdicom's own requests do not allow: they take the sender's next message for the answer."""
    node, inbox, image = start(held=Store().held), Inbox(), chest("meanwhile")
    inbox.free.clear()
    contexts = [PUSH, build_context(image.SOPClassUID, image.file_meta.TransferSyntaxUID)]
    with capture_logs() as lines, associated(node.port, contexts, on_report=inbox.take) as association:
        assert ask(association, KEPT) == status.SUCCESS
        assert inbox.arrived.wait(10)
        began = time.monotonic()
        for _ in range(3):
            assert association.send_c_store(image).Status == status.SUCCESS
        assert time.monotonic() - began < 5
        inbox.free.set()
        wait_for(lambda: any(line["event"] == "commitment_reported" for line in lines))
        assert association.send_c_store(image).Status == status.SUCCESS


def test_objects_are_taken_while_we_look_up_what_we_keep(start: Start) -> None:
    store, inbox, image = Store(), Inbox(), chest("lookup")
    store.free.clear()
    node = start(held=store.held)
    contexts = [PUSH, build_context(image.SOPClassUID, image.file_meta.TransferSyntaxUID)]
    with associated(node.port, contexts, on_report=inbox.take) as association:
        assert ask(association, KEPT) == status.SUCCESS
        wait_for(lambda: store.asked == 1)
        assert association.send_c_store(image).Status == status.SUCCESS
        store.free.set()
        assert inbox.arrived.wait(10)


def test_a_release_is_answered_while_a_report_waits_for_its_answer(start: Start) -> None:
    node, inbox = start(held=Store().held), Inbox()
    inbox.free.clear()
    with associated(node.port, [PUSH], on_report=inbox.take) as association:
        ask(association, KEPT)
        assert inbox.arrived.wait(10)
        began = time.monotonic()
        association.release()
        assert association.is_released
        assert time.monotonic() - began < 5
        inbox.free.set()


def test_a_requestor_that_does_not_answer_holds_up_no_other(start: Start) -> None:
    node, silent, other = start(held=Store().held), Inbox(), Inbox()
    silent.free.clear()
    with (
        associated(node.port, [PUSH], on_report=silent.take, calling="SILENT") as first,
        associated(node.port, [PUSH], on_report=other.take, calling="OTHER") as second,
    ):
        for number in range(6):  # more than we have threads
            ask(first, KEPT, f"2.25.{number + 10}")
        assert silent.arrived.wait(10)
        ask(second, KEPT)
        assert other.arrived.wait(10)
        assert len(silent.reports) == 1
        silent.free.set()
        wait_for(lambda: len(silent.reports) == 6)


def test_stopping_does_not_wait_for_reports(start: Start) -> None:
    with requestor() as there:
        pass
    node = start(held=Store().held, addresses={"SENDER": Address("127.0.0.1", there.port)})
    with associated(node.port, [PUSH]) as association:
        ask(association, KEPT)
    began = time.monotonic()
    with capture_logs() as lines:
        node.stop()
    assert time.monotonic() - began < 5
    assert not any(thread.name.startswith("commitment-") for thread in threading.enumerate())
    # Of the report that was about to be tried, and of those that waited.
    assert {line["event"] for line in lines} <= {"commitment_reports_dropped", "commitment_report_postponed"}


# ---- the same transaction twice --------------------------------------------------------------------------------------


def test_the_same_request_twice_gets_one_report(start: Start) -> None:
    node, inbox = start(held=Store().held), Inbox()
    with associated(node.port, [PUSH], on_report=inbox.take) as association:
        assert [ask(association, KEPT), ask(association, KEPT)] == [status.SUCCESS] * 2
        assert inbox.arrived.wait(10)
        wait_for(lambda: not node._service._jobs + node._service._in_hand)
    assert inbox.reports == [Report("2.25.1", KEPT)]


def test_a_transaction_uid_in_use_is_not_used_for_other_instances(start: Start) -> None:
    node, inbox = start(held=Store().held), Inbox()
    with associated(node.port, [PUSH], on_report=inbox.take) as association:
        assert [ask(association, KEPT[:1]), ask(association, KEPT[1:])] == [status.SUCCESS] * 2
        wait_for(lambda: len(inbox.reports) == 2)
    assert inbox.reports == [Report("2.25.1", KEPT[:1]), Report("2.25.1", (), (Failed(KEPT[1], 0x0131),))]


def test_a_request_may_be_repeated_when_it_was_answered(start: Start) -> None:
    node, inbox = start(held=Store().held), Inbox()
    with associated(node.port, [PUSH], on_report=inbox.take) as association:
        ask(association, KEPT)
        wait_for(lambda: len(inbox.reports) == 1 and not node._service._in_hand)
        ask(association, KEPT)
        wait_for(lambda: len(inbox.reports) == 2)


# ---- limits ---------------------------------------------------------------------------------------------------------


def test_a_thousand_references_are_taken_and_too_many_are_not(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    many = references(1500)
    node, inbox = start(held=Store(many).held), Inbox()
    with associated(node.port, [PUSH], on_report=inbox.take) as association:
        assert ask(association, many) == status.SUCCESS
        assert inbox.arrived.wait(30)
        assert inbox.reports[0].committed == many
        monkeypatch.setattr(commitment_scp, "MOST_REFERENCES", 1499)
        assert ask(association, many) == status.RESOURCE_LIMITATION


@pytest.mark.parametrize(
    ("name", "most", "words"),
    [
        ("MOST_WAITING", 2, "too many requests are waiting"),
        ("MOST_WAITING_OF_ONE", 2, "too many of your requests are waiting"),
        ("MOST_WAITING_REFERENCES", 5, "too many requests are waiting"),
    ],
)
def test_waiting_reports_have_a_limit(
    start: Start, monkeypatch: pytest.MonkeyPatch, name: str, most: int, words: str
) -> None:
    monkeypatch.setattr(commitment_scp, name, most)
    monkeypatch.setattr(commitment_scp, "LINGER", 60)
    node = start(held=Store().held)
    with associated(node.port, [PUSH]) as association:
        assert [ask(association, KEPT, f"2.25.{number}") for number in (1, 2, 3)] == [0, 0, status.RESOURCE_LIMITATION]
        answer, _ = association.send_n_action(request_dataset(Request("2.25.4", KEPT)), 1, PUSH_MODEL, PUSH_INSTANCE)
        assert answer.ErrorComment == words


# ---- what is no request ----------------------------------------------------------------------------------------------


def good() -> bytes:
    return encode(request_dataset(Request("2.25.1", KEPT)), True, True) or b""


def without(keyword: str) -> bytes:
    dataset = request_dataset(Request("2.25.1", KEPT))
    delattr(dataset, keyword)
    return encode(dataset, True, True) or b""


def nested(depth: int) -> bytes:
    """Return a Referenced SOP Sequence that holds itself, without an end."""
    opening = b"\x08\x00\x99\x11\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    return opening * depth


def with_many_elements(data: bytes) -> bytes:
    """Return a data set with 150,000 empty elements more; parsed, they took 25 MB and a third of a second."""
    return data + b"".join(struct.pack("<HHI", group, 0x1000 + at, 0) for group in (9, 11, 13) for at in range(50_000))


HOSTILE = {
    "too many elements": (action_bytes(with_many_elements(good())), status.INVALID_ARGUMENT),
    "nothing": (action_bytes(b""), status.INVALID_ARGUMENT),
    "no transaction": (action_bytes(without("TransactionUID")), status.INVALID_ARGUMENT),
    "no sequence": (action_bytes(without("ReferencedSOPSequence")), status.INVALID_ARGUMENT),
    "noise": (action_bytes(bytes(range(256)) * 8), status.INVALID_ARGUMENT),
    "cut off": (action_bytes(good()[:-30]), status.INVALID_ARGUMENT),
    "endless nesting": (action_bytes(nested(20_000)), status.INVALID_ARGUMENT),
    "another action": (action_bytes(good(), action_type=2), status.NO_SUCH_ACTION),
    "another instance": (action_bytes(good(), instance="1.2.3"), status.NO_SUCH_INSTANCE),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_request_is_refused_and_the_association_goes_on(start: Start, name: str) -> None:
    primitive, code = HOSTILE[name]
    node, inbox = start(held=Store().held), Inbox()
    with associated(node.port, [build_context(PUSH_MODEL, "1.2.840.10008.1.2")], on_report=inbox.take) as association:
        assert exchange(association, primitive) == code
        assert ask(association, KEPT) == status.SUCCESS
        assert inbox.arrived.wait(10)


def test_a_request_on_another_presentation_context_is_refused(start: Start) -> None:
    """pynetdicom finds the service by the message alone."""
    node = start(held=Store().held)
    with associated(node.port, [build_context(Verification)]) as association:
        assert exchange(association, action_bytes(good())) == status.NO_SUCH_CLASS
        assert association.send_c_echo().Status == status.SUCCESS


def test_a_data_set_without_end_is_not_collected(start: Start) -> None:
    node = start(held=Store().held)
    with capture_logs() as lines, associated(node.port, [PUSH]) as association:
        association.dimse.send_msg(action_bytes(bytes(2 * MOST_MESSAGE)), association.accepted_contexts[0].context_id)
        wait_for(lambda: any(line["event"] == "association_ended" for line in lines))
    assert [line["cause"] for line in lines if line["event"] == "association_ended"] == ["oversized"]
    with associated(node.port, [PUSH]) as association:
        assert ask(association, KEPT) == status.SUCCESS


# ---- what is not offered ---------------------------------------------------------------------------------------------


def accepted(node: StorageNode, *, as_scp: bool = False) -> tuple[bool, bool] | None:
    """Return the requestor's roles for storage commitment, as SCU and as SCP; None where it was not accepted."""
    contexts = [build_context(Verification), PUSH]
    with associated(node.port, contexts, as_scp=as_scp) as association:
        found = [each for each in association.accepted_contexts if each.abstract_syntax == PUSH_MODEL]
        return (found[0].as_scu, found[0].as_scp) if found else None


def test_a_node_offers_what_it_was_made_for(start: Start) -> None:
    def receive(_: Report) -> int:
        return status.SUCCESS

    nothing, asked, asking, both = (
        start(),
        start(held=Store().held),
        start(receive=receive),
        start(held=Store().held, receive=receive),
    )
    assert [accepted(each) for each in (nothing, asked, both)] == [None, (True, False), (True, False)]
    as_scp = [accepted(each, as_scp=True) for each in (nothing, asked, asking, both)]
    assert as_scp == [None, None, (False, True), (False, True)]
    with associated(asking.port, [PUSH]) as association:  # who says nothing of roles may be an SCP that is careless
        assert ask(association, KEPT) == status.NOT_AUTHORISED
        assert exchange(association, event_report(Report("2.25.1", KEPT))) == status.SUCCESS
    with associated(asked.port, [PUSH]) as association:
        assert exchange(association, event_report(Report("2.25.1", KEPT))) == status.NOT_AUTHORISED
    with associated(nothing.port, [build_context(Verification)]) as association:
        assert exchange(association, action_bytes(good())) != status.SUCCESS
        assert exchange(association, event_report(Report("2.25.1", KEPT))) != status.SUCCESS
        assert association.send_c_echo().Status == status.SUCCESS


# ---- reports on requests of ours -------------------------------------------------------------------------------------


class Received:
    def __init__(self, code: int = status.SUCCESS) -> None:
        self.reports: list[Report] = []
        self.code = code
        self.threads: set[str] = set()

    def receive(self, report: Report) -> int:
        self.reports.append(report)
        self.threads.add(threading.current_thread().name)
        return self.code


def test_a_report_on_a_request_of_ours_is_handed_on_with_its_sender(start: Start) -> None:
    ledger = Received()
    node = start(receive=ledger.receive)
    report = Report("2.25.1", KEPT, (Failed(LACKING[0], 0x0112),))
    with associated(node.port, [PUSH], as_scp=True, calling="PACS") as association:
        assert exchange(association, event_report(report)) == status.SUCCESS
        ledger.code = status.INVALID_ARGUMENT  # a transaction that we do not know
        assert exchange(association, event_report(report)) == status.INVALID_ARGUMENT
    assert ledger.reports[0] == Report("2.25.1", report.committed, report.failed, "PACS")


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (event_bytes(b""), status.INVALID_ARGUMENT),
        (event_bytes(bytes(range(256))), status.INVALID_ARGUMENT),
        (event_bytes(encode(Dataset(), True, True) or b""), status.INVALID_ARGUMENT),
        (event_bytes(with_many_elements(good())), status.INVALID_ARGUMENT),
        (event_bytes(nested(20_000)), status.PROCESSING_FAILURE),
        (event_report(Report("2.25.1", KEPT), event_type=3), status.NO_SUCH_EVENT),
        (event_bytes(good(), instance="1.2.3"), status.NO_SUCH_INSTANCE),
    ],
)
def test_what_is_no_report_is_refused(start: Start, event: Any, code: int) -> None:
    ledger = Received()
    node = start(receive=ledger.receive)
    with associated(node.port, [build_context(PUSH_MODEL, "1.2.840.10008.1.2")], as_scp=True) as association:
        assert exchange(association, event) == code
        assert exchange(association, event_report(Report("2.25.1", KEPT))) == status.SUCCESS
    assert len(ledger.reports) == 1


def test_reports_are_taken_one_after_the_other_in_the_association_s_thread(start: Start) -> None:
    """pynetdicom would start a thread for each."""
    ledger = Received()
    node = start(receive=ledger.receive)
    with associated(node.port, [build_context(PUSH_MODEL, "1.2.840.10008.1.2")], as_scp=True) as association:
        answers: list[Any] = []
        association.bind(evt.EVT_DIMSE_RECV, lambda event: answers.append(event.message))
        for _ in range(50):
            association.dimse.send_msg(event_report(Report("2.25.1", KEPT)), 1)
        wait_for(lambda: len(answers) == 50)
    assert len(ledger.reports) == 50
    assert len(ledger.threads) == 1
    assert ledger.reports[0].committed[0].sop_class_uid == CR
