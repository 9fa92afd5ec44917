"""Real objects of every kind, sent in one association: all answered, each with a sensible end in the audit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.presentation import build_context

from tests.support.peers import store_bytes, wait_for
from tests.support.shared import shared
from worker.engines.daemon import Daemon
from worker.ledger.queries import Filter, findings, refusals

# What the file names promise: the frontal radiographs are analysed, the lateral and all else are not. The dog's header
# says nothing against a chest: it takes a look at the image to see that, which is not this test's subject.
ANALYSED = {
    "cr_mono1_10bit_explicit.dcm",
    "cr_mono1_15bit_j2k_nodules.dcm",
    "cr_mono1_15bit_jpegls_near.dcm",
    "cr_mono1_jpeg_baseline.dcm",
    "cr_mono2_jpeg_baseline.dcm",
    "cr_rsna_lung_opacity.dcm",
    "cr_rsna_normal.dcm",
}


def encoded(path: Path) -> tuple[bytes, str, str, str]:
    """Return an object's encoded data set, SOP class, SOP instance and transfer syntax, without decoding it."""
    raw = path.read_bytes()
    dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    with path.open("rb") as handle:
        read_preamble(handle, force=True)
        _read_file_meta_info(handle)
        start = handle.tell()
    syntax = dataset.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)
    meta = dataset.file_meta
    sop_class = dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "1.2.840.10008.5.1.4.1.1.7"
    sop_instance = dataset.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID") or "1.2.3"
    return raw[start:], str(sop_class), str(sop_instance), str(syntax)


@pytest.fixture(scope="module")
def files() -> list[Path]:
    return sorted(shared("data", "dicom_chest").glob("*.dcm")) + sorted(shared("data", "dicom_other").glob("*.dcm"))


def test_every_object_is_answered_and_ends_in_the_audit(daemon: Callable[..., Daemon], files: list[Path]) -> None:
    worker = daemon()
    sent = {path.name: encoded(path) for path in files}
    kinds = sorted({(sop_class, syntax) for _, sop_class, _, syntax in sent.values()})
    contexts = [build_context(sop_class, syntax) for sop_class, syntax in kinds]
    association = AE("SENDER").associate("127.0.0.1", worker.port, contexts=contexts)
    assert association.rejected_contexts == []
    accepted: list[Any] = association.accepted_contexts
    ids = {(str(each.abstract_syntax), str(each.transfer_syntax[0])): int(each.context_id) for each in accepted}
    statuses = {}
    for name, (data, sop_class, sop_instance, syntax) in sent.items():
        statuses[name] = store_bytes(association, ids[sop_class, syntax], data, sop_class, sop_instance)
    association.release()
    stored = [name for name, status in statuses.items() if status == 0x0000]  # each a receipt: contents differ
    wait_for(
        lambda: sum(worker.ledger.counts().get(s, 0) for s in ("analysed", "not_analysed", "failed")) == len(stored),
        60,
    )
    rows = {row["sop_instance_uid"]: row for row in findings(worker.ledger, Filter())}
    ends = {name: rows[sent[name][2]] for name, status in statuses.items() if status == 0x0000}
    for name, row in sorted(ends.items()):
        print(name, row["status"], row["probability"], row["reason"])
    for entry in refusals(worker.ledger, 99):
        print(json.dumps(entry))
    assert {name for name, row in ends.items() if row["status"] == "analysed"} - {"dx_mono1_dog.dcm"} == ANALYSED
    assert "LATERAL" in ends["dx_lateral_14bit_j2k.dcm"]["reason"].upper()
    assert {row["status"] for name, row in ends.items() if name not in ANALYSED} <= {"not_analysed", "analysed"}
    assert all(row["reason"] for row in ends.values() if row["status"] != "analysed")
    # What lacks a UID that it must have is refused, with a line in the audit; nothing else is.
    refused = {name: status for name, status in statuses.items() if status != 0x0000}
    assert set(refused.values()) <= {0xA900, 0xC000}
    assert len(refusals(worker.ledger, 99)) == len(refused)
    print(refused)
    assert len(refused) <= 6
