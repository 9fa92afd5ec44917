"""With a real Orthanc: it sends to us by its REST interface, and our result appears in its study."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import RLELossless
from sqlalchemy import text

from dicom_io.objects.common import encode
from tests.support.models import variant
from tests.support.orthanc import Orthanc, free_port
from tests.support.peers import chest, send, wait_for
from tests.support.printed import labelled
from tests.support.tools import tool
from worker.cli.app import app
from worker.destination_settings import DicomDestination, DicomwebDestination
from worker.engines.daemon import Daemon
from worker.health import check
from worker.ledger.queries import Filter, findings
from worker.ledger.receipts import Ledger
from worker.settings import Settings


@pytest.mark.parametrize("modality", ["CR", "DX"])
def test_a_radiograph_comes_back_with_its_heatmap(daemon: Callable[..., Daemon], tmp_path: Path, modality: str) -> None:
    tool("Orthanc")
    port = free_port()
    orthanc = Orthanc(tmp_path / "orthanc", port)
    try:
        # Whatever the model says of a drawing, it is to have a heatmap and a region.
        model = {"folder": variant(tmp_path / "model", bias=6.0, knows_all=True)}
        worker = daemon([("orthanc", orthanc.dicom, "ORTHANC")], scp={"port": port}, model=model)
        source = chest("orthanc", rows=600, cols=500, modality=modality, PatientName="Müller^Zoë")
        instance = orthanc.upload(encode(source))
        orthanc.raw("/modalities/cxrd/echo", b"{}")
        orthanc.send_to_cxrd([instance])
        wait_for(lambda: orthanc.get("/statistics")["CountInstances"] == 4, 30)
        wait_for(lambda: findings(worker.ledger, Filter())[0]["delivered"] == 3)
        (study,) = orthanc.get("/studies")
        assert len(orthanc.get(f"/studies/{study}/series")) == 4
        kinds = {
            str(pydicom.dcmread(io.BytesIO(orthanc.raw(f"/instances/{each}/file"))).Modality): each
            for each in orthanc.get("/instances")
            if each != instance
        }
        assert set(kinds) == {"OT", "SR", "PR"}
        ours = kinds["OT"]
        preview = Image.open(io.BytesIO(orthanc.raw(f"/instances/{ours}/rendered"))).convert("RGB")
        pixels = np.asarray(preview).astype(int)
        assert min(preview.size) > 400
        assert pixels.std() > 20
        assert (abs(pixels[..., 0] - pixels[..., 2]) > 40).mean() > 0.005  # the colours have arrived
        result = pydicom.dcmread(io.BytesIO(orthanc.raw(f"/instances/{ours}/file")))
        assert result.StudyInstanceUID == source.StudyInstanceUID
        assert result.SeriesInstanceUID != source.SeriesInstanceUID
        assert str(result.PatientName) == "Müller^Zoë"
        assert result.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
        # What the PACS routes back to us is our own output, and ends there.
        orthanc.send_to_cxrd(list(kinds.values()))
        wait_for(lambda: len(findings(worker.ledger, Filter(status="not_analysed"))) == 3)
        reasons = {row["reason"] for row in findings(worker.ledger, Filter(status="not_analysed"))}
        assert reasons == {"own output"}
        assert orthanc.get("/statistics")["CountInstances"] == 4
    finally:
        orthanc.stop()


def test_check_finds_its_test_object_again(tmp_path: Path) -> None:
    tool("Orthanc")
    orthanc = Orthanc(tmp_path / "orthanc", free_port())
    try:
        there = DicomDestination(
            name="orthanc", host="127.0.0.1", port=orthanc.dicom, ae_title="ORTHANC", compression="jpeg-2000"
        )
        seen = list(check.run(Settings(destinations=(there,)), "orthanc", store=True))
        assert all(check.ok for check in seen), seen
        words = " ".join(check.text for check in seen)
        for expected in (
            "compression jpeg-2000: accepted",
            "storage commitment: offered",
            "query (C-FIND): offered",
            "retrieval: C-MOVE offered, C-GET offered",
            "found again by C-FIND",
        ):
            assert expected in words
        assert orthanc.get("/statistics")["CountInstances"] == 1
    finally:
        orthanc.stop()


def test_results_go_to_a_dicomweb_server(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    tool("Orthanc")
    orthanc = Orthanc(tmp_path / "orthanc", free_port())
    try:
        web = DicomwebDestination(name="web", url=f"http://127.0.0.1:{orthanc.http}/dicom-web")
        seen = list(check.run(Settings(destinations=(web,)), "web", store=True))
        assert all(check.ok for check in seen), seen
        assert [check.text for check in seen] == [
            f"{web.url} answers a search (QIDO-RS)",
            "a test object of patient CXRD-CHECK is answered with success (STOW-RS)",
            "the test object is found again (QIDO-RS)",
            "it comes back in Explicit VR Little Endian (WADO-RS)",
        ]
        orthanc.delete("/instances/" + orthanc.get("/instances")[0])
        worker = daemon([{"name": "web", "url": web.url}])
        source = chest("stow", rows=600, cols=500)
        send(worker.port, [source])
        wait_for(lambda: findings(worker.ledger, Filter())[0]["delivered"] == 3, 30)
        kinds = {orthanc.get(f"/instances/{each}/simplified-tags")["Modality"] for each in orthanc.get("/instances")}
        assert kinds == {"OT", "SR", "PR"}
    finally:
        orthanc.stop()


def require_searches(ledger: Ledger, count: int, how: str, patient_key: str) -> None:
    """Hold the audit to what was searched for: each row of a table is a search."""
    with ledger.reading() as connection:
        details = connection.scalars(text("SELECT detail FROM event WHERE kind = 'queried'"))
        searches = [json.loads(each) for each in details]
    assert len(searches) == count
    assert {each["how"] for each in searches} == {how}
    assert {each["patient_key"] for each in searches} == {"", patient_key}, "the patient stands there as in receipts"


@pytest.mark.parametrize("way", ["move", "get", "web"])
def test_pull_fetches_what_the_archive_holds_once(
    way: str, daemon: Callable[..., Daemon], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Back-fill: found by date and by CSV, fetched in each way, answered at once, and not fetched a second time."""
    tool("Orthanc")
    port = free_port()
    orthanc = Orthanc(tmp_path / "orthanc", port if way == "move" else 1)
    try:
        worker = daemon(scp={"port": port})
        sent = {}
        for number in range(6):
            made = chest(f"pull-{number}", rows=300, cols=260, StudyDate=f"2026010{number + 1}")
            made.AccessionNumber, made.PatientID = f"P{number}", f"PULL{number}"
            if number == 1:
                made.compress(RLELossless, generate_instance_uid=False)
            sent[f"P{number}"] = made
            orthanc.upload(encode(made))
        orthanc.upload(encode(chest("pull-ct", rows=64, cols=64, modality="DX", Modality="OT", AccessionNumber="P9")))
        config = tmp_path / "config.yaml"
        there = {
            "web": f"{{name: pacs, url: 'http://127.0.0.1:{orthanc.http}/dicom-web'}}",
        }.get(way, f"{{name: pacs, host: 127.0.0.1, port: {orthanc.dicom}, ae_title: ORTHANC}}")
        config.write_text(
            f"storage: {{folder: {tmp_path / 'data'}, min_free_mb: 0}}\nscp: {{port: {port}}}\n"
            f"destinations: [{there}]\n"
        )

        def pull(*arguments: str) -> list[int]:
            """Return what is printed: series, and of their images those that came, were there, failed."""
            capsys.readouterr()
            more = ["--get"] if way == "get" else []
            app(["pull", "pacs", *arguments, *more, "--config", str(config)], standalone_mode=False)
            return [int(number) for number in labelled(capsys.readouterr().out).values()]

        assert pull("--date", "20260101-20260102", "--dry-run") == [2]
        assert pull("--date", "20260101-20260102") == [2, 2, 0, 0]
        wait_for(lambda: worker.ledger.counts().get("analysed") == 2, 30)  # long before the next sweep
        table = tmp_path / "table.csv"
        table.write_text("accession_number\nP1\nP2\nP9\n")
        assert pull("--csv", str(table)) == [2, 1, 1, 0]
        wait_for(lambda: worker.ledger.counts().get("analysed") == 3, 30)
        one = [1, 1, 0, 0]
        assert pull("--accession", "P3") == one
        assert pull("--patient", "PULL4") == one
        assert pull("--patient", "PULL4", "--accession", "P5") == [0]  # both must match
        table.write_text(
            "patient_id,study_instance_uid,dates\nPULL4,,\n,"
            f"{sent['P5'].StudyInstanceUID},\n,,20260101-20260102\n,,20270101-\n"
        )
        assert pull("--csv", str(table)) == [4, 1, 3, 0]
        wait_for(lambda: worker.ledger.counts().get("analysed") == 6, 60)
        rows = {row["accession_number"]: row for row in findings(worker.ledger, Filter())}
        assert set(rows) == set(sent)
        assert {row["calling_ae"] for row in rows.values()} == {"pacs" if way == "web" else "ORTHANC"}
        for path in (tmp_path / "data" / "objects").glob("*/*.dcm"):
            stored = pydicom.dcmread(path)
            if stored.Modality in ("DX", "CR"):
                source = sent[stored.AccessionNumber]
                assert stored.file_meta.TransferSyntaxUID == source.file_meta.TransferSyntaxUID
                assert stored.PixelData == source.PixelData
        require_searches(worker.ledger, 12, "QIDO-RS" if way == "web" else "C-FIND", rows["P4"]["patient_key"])
    finally:
        orthanc.stop()
