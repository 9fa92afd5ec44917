"""With a real Orthanc: it sends to us by its REST interface, and our result appears in its study."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from dicom_io.derived import encode
from tests.integration.orthanc import Orthanc, binary, free_port
from tests.peers import chest, wait_for
from worker.audit import Filter, findings
from worker.daemon import Daemon


@pytest.mark.parametrize("modality", ["CR", "DX"])
def test_a_radiograph_comes_back_with_its_heatmap(daemon: Callable[..., Daemon], tmp_path: Path, modality: str) -> None:
    binary("Orthanc")
    port = free_port()
    orthanc = Orthanc(tmp_path / "orthanc", port)
    try:
        worker = daemon([("orthanc", orthanc.dicom, "ORTHANC")], scp={"port": port})
        source = chest("orthanc", rows=600, cols=500, modality=modality, PatientName="Müller^Zoë")
        instance = orthanc.upload(encode(source))
        orthanc.raw("/modalities/cxrd/echo", b"{}")
        orthanc.send_to_cxrd([instance])
        wait_for(lambda: orthanc.get("/statistics")["CountInstances"] == 2, 30)
        wait_for(lambda: findings(worker.ledger, Filter())[0]["delivered"] == 1)
        (study,) = orthanc.get("/studies")
        assert len(orthanc.get(f"/studies/{study}/series")) == 2
        (ours,) = [each for each in orthanc.get("/instances") if each != instance]
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
        orthanc.send_to_cxrd([ours])
        wait_for(lambda: len(findings(worker.ledger, Filter(status="not_analysed"))) == 1)
        assert findings(worker.ledger, Filter(status="not_analysed"))[0]["reason"] == "own output"
        assert orthanc.get("/statistics")["CountInstances"] == 2
    finally:
        orthanc.stop()
