"""Storage commitment with a real Orthanc: it is asked by us, and asks us. It reports on a new association."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dicom_io.network import status
from dicom_io.network.commitment_messages import Failed, Reference, Report, Request
from dicom_io.network.commitment_scp import Address, Commitment
from dicom_io.network.storage_commitment import request_commitment
from dicom_io.network.storage_scp import StorageNode
from dicom_io.network.storage_scu import Peer
from dicom_io.objects.common import encode
from tests.support.orthanc import Orthanc, free_port
from tests.support.peers import chest, wait_for
from worker.engines.receiver import node_options
from worker.settings import Scp


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Orthanc, int]]:
    """Orthanc, and the port that it knows our node by."""
    port = free_port()
    running = Orthanc(tmp_path_factory.mktemp("orthanc") / "orthanc", port)
    yield running, port
    running.stop()


@contextmanager
def node(port: int, folder: Path, commitment: Commitment) -> Iterator[None]:
    options = node_options(Scp(port=port))
    running = StorageNode(options, folder / "incoming", lambda _: status.SUCCESS, commitment)
    running.start()
    try:
        yield
    finally:
        running.stop(grace=1)


def test_orthanc_is_asked_and_reports_to_our_node(orthanc: tuple[Orthanc, int], tmp_path: Path) -> None:
    there, port = orthanc
    image, other = chest("commit"), chest("commit-other")
    there.upload(encode(image))
    kept = Reference(image.SOPClassUID, image.SOPInstanceUID)
    conflict = Reference("1.2.840.10008.5.1.4.1.1.7", image.SOPInstanceUID)
    missing = Reference(other.SOPClassUID, other.SOPInstanceUID)
    peer = Peer("127.0.0.1", there.dicom, "ORTHANC", "CXRD", timeout=20)
    reports: list[Report] = []

    def receive(report: Report) -> int:
        reports.append(report)
        return status.SUCCESS

    with node(port, tmp_path, Commitment(receive=receive)):
        for number, wanted in enumerate([(kept,), (kept, missing, conflict)]):
            request = Request(f"2.25.{number + 1}", wanted)
            assert request_commitment(peer, request, wait=0.2, receive=receive) is None
            wait_for(lambda number=number: len(reports) == number + 1)  # type: ignore[misc]
    whole, partial = reports
    assert whole == Report("2.25.1", (kept,), (), "ORTHANC")
    assert partial == Report("2.25.2", (kept,), (Failed(missing, 0x0112), Failed(conflict, 0x0119)), "ORTHANC")


@pytest.mark.parametrize("complete", [True, False])
def test_orthanc_asks_and_gets_its_report(orthanc: tuple[Orthanc, int], tmp_path: Path, complete: bool) -> None:
    there, port = orthanc
    image = chest("ask", Modality="CR")
    instance = there.upload(encode(image))

    def held(uids: Sequence[str]) -> Mapping[str, str]:
        return {str(image.SOPInstanceUID): str(image.SOPClassUID)} if complete else {}

    def outcome(transaction: str) -> Any:
        answer = there.get(f"/storage-commitment/{transaction}")
        return None if answer["Status"] == "Pending" else answer

    with node(port, tmp_path, Commitment(held=held, addresses={"ORTHANC": Address("127.0.0.1", there.dicom)})):
        body = json.dumps({"Resources": [instance]}).encode()
        transaction = json.loads(there.raw("/modalities/cxrd/storage-commitment", body))["ID"]
        wait_for(lambda: outcome(transaction))
        answer = outcome(transaction)
    uids = {"SOPClassUID": str(image.SOPClassUID), "SOPInstanceUID": str(image.SOPInstanceUID)}
    assert answer["RemoteAET"] == "CXRD"
    if complete:
        assert (answer["Status"], answer["Success"], answer["Failures"]) == ("Success", [uids], [])
    else:
        (failure,) = answer["Failures"]
        assert (answer["Status"], answer["Success"], failure["FailureReason"]) == ("Failure", [], 0x0112)
        assert failure["SOPInstanceUID"] == uids["SOPInstanceUID"]
