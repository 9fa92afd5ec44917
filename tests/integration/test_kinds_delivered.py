"""All kinds of result, and JPEG pictures, sent by a daemon to archives that others wrote."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import JPEGBaseline8Bit

from tests.support.dcmtk import storescp
from tests.support.orthanc import Orthanc, free_port
from tests.support.peers import chest, receiving, send, wait_for
from tests.support.tools import tool
from worker.destination_settings import Kind
from worker.engines.daemon import Daemon
from worker.ledger.queries import story
from worker.results.kinds import KINDS as TABLE

KINDS = get_args(Kind)
PICTURES = ("secondary-capture", "multi-frame-capture")
TITLES = ("SIXTEEN_LETTERS1", "SIXTEEN_LETTERS2", "SIXTEEN_LETTERS3")


def by_kind(inbox: Path) -> dict[str, tuple[Path, Dataset]]:
    kinds = {kind.sop_class: name for name, kind in TABLE.items()}
    read = [(path, pydicom.dcmread(path)) for path in inbox.iterdir()]
    return {kinds[dataset.SOPClassUID]: (path, dataset) for path, dataset in read}


@pytest.mark.parametrize(
    ("options", "arrives"),
    [
        (("+xy",), "1.2.840.10008.1.2.4.50"),  # prefers JPEG Baseline
        (("+xs",), "1.2.840.10008.1.2.1"),  # prefers JPEG Lossless, which is not on offer
        ((), "1.2.840.10008.1.2.1"),
        (("+xi",), "1.2.840.10008.1.2"),  # implicit VR little endian alone
    ],
    ids=["jpeg", "jpeg-lossless", "default", "implicit"],
)
def test_all_kinds_reach_storescp_and_pictures_in_a_syntax_it_takes(
    daemon: Callable[..., Daemon], tmp_path: Path, options: tuple[str, ...], arrives: str
) -> None:
    inbox = tmp_path / "inbox"
    with storescp(inbox, TITLES[0], *options) as port:
        worker = daemon(
            [("pacs", port, TITLES[0])],
            results={"kinds": KINDS, "jpeg_quality": 90},
            scp={"ae_title": TITLES[1], "require_called": True},
        )
        source = chest(f"kinds{options}", rows=300, cols=260)
        assert send(worker.port, [source], calling=TITLES[2], called=TITLES[1]) == [0]
        wait_for(lambda: worker.ledger.counts().get("delivery_sent") == len(KINDS), 30)
    received = by_kind(inbox)
    assert set(received) == set(KINDS)
    for kind, (path, dataset) in received.items():
        said = subprocess.run([tool("dciodvfy"), str(path)], capture_output=True, text=True, timeout=60, check=False)
        assert "Error" not in said.stderr + said.stdout, kind
        plain = "1.2.840.10008.1.2" if options == ("+xi",) else "1.2.840.10008.1.2.1"
        assert dataset.file_meta.TransferSyntaxUID == (arrives if kind in PICTURES else plain), kind
        if kind in PICTURES:
            assert (dataset.LossyImageCompression, dataset.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    kept = by_kind_of_blobs(worker)
    for kind in PICTURES:
        path, dataset = received[kind]
        assert dataset.SOPInstanceUID == kept[kind].SOPInstanceUID
        assert np.array_equal(dataset.pixel_array, kept[kind].pixel_array)
        shown = tmp_path / f"{kind}.ppm"
        subprocess.run([tool("dcmj2pnm"), "+op", str(path), str(shown)], check=True, timeout=60)
        assert shown.stat().st_size > dataset.Rows * dataset.Columns * 3


def by_kind_of_blobs(worker: Daemon) -> dict[str, Dataset]:
    kinds = {kind.sop_class: name for name, kind in TABLE.items()}
    read = [pydicom.dcmread(path) for path in worker.blobs.folder.rglob("*.dcm")]
    return {kinds[dataset.SOPClassUID]: dataset for dataset in read if dataset.SOPClassUID in kinds}


def test_a_node_that_takes_jpeg_alone_gets_the_whole_set_and_the_audit_says_as_what(
    daemon: Callable[..., Daemon],
) -> None:
    pictures, others = (
        [TABLE[kind].sop_class for kind in PICTURES],
        [TABLE[kind].sop_class for kind in KINDS if kind not in PICTURES],
    )
    with receiving(others) as there:
        there.takes(pictures, JPEGBaseline8Bit)
        worker = daemon([("pacs", there.port, "RECEIVER")], results={"kinds": KINDS, "jpeg_quality": None})
        send(worker.port, [chest("jpeg-alone", rows=300, cols=260)])
        wait_for(lambda: worker.ledger.counts().get("delivery_sent") == len(KINDS), 30)
    got = {each.SOPClassUID: each for each in there.objects}
    told = story(worker.ledger, "1")
    assert told is not None
    made = {each["kind"]: each["sop_instance_uid"] for each in told["results"]}
    said = [json.loads(each["detail"]).get("sent_as") for each in told["events"] if each["kind"] == "delivered"]
    for kind in KINDS:
        dataset = got[TABLE[kind].sop_class]
        assert (dataset.SOPInstanceUID == made[kind]) is (kind not in PICTURES)
    assert sorted(filter(None, said)) == sorted(got[uid].SOPInstanceUID for uid in pictures)
    # The report's evidence leads to the lossy copy by what that was made from.
    predecessors = {each.ReferencedSOPInstanceUID for uid in pictures for each in got[uid].SourceImageSequence}
    (study,) = got[TABLE["structured-report"].sop_class].CurrentRequestedProcedureEvidenceSequence
    evidence = {
        each.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for each in series.ReferencedSOPSequence
    }
    assert {made[kind] for kind in PICTURES} <= predecessors & evidence
    # Sent back to us, the copy starts no loop.
    assert send(worker.port, [got[uid] for uid in pictures]) == [0, 0]
    wait_for(lambda: worker.ledger.counts().get("not_analysed") == 2, 30)


@pytest.mark.parametrize("web", [False, True], ids=["C-STORE", "STOW-RS"])
def test_all_kinds_are_taken_by_orthanc(daemon: Callable[..., Daemon], tmp_path: Path, web: bool) -> None:
    tool("Orthanc")
    orthanc = Orthanc(tmp_path / "orthanc", free_port())
    try:
        place = {"name": "web", "url": f"http://127.0.0.1:{orthanc.http}/dicom-web"}
        worker = daemon(
            [place if web else ("pacs", orthanc.dicom, "ORTHANC")], results={"kinds": KINDS, "jpeg_quality": 90}
        )
        send(worker.port, [chest(f"orthanc-{web}", rows=300, cols=260)])
        wait_for(lambda: worker.ledger.counts().get("delivery_sent") == len(KINDS), 30)
        tags = [orthanc.get(f"/instances/{each}/simplified-tags") for each in orthanc.get("/instances")]
        assert {each["SOPClassUID"] for each in tags} == {kind.sop_class for kind in TABLE.values()}
        assert len({each["SeriesInstanceUID"] for each in tags}) == len(KINDS)
    finally:
        orthanc.stop()
