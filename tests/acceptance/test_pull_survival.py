"""A pull that is killed in the middle of an image: nothing half is kept, and the next one brings the rest."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from tests.acceptance.program import CXRD, run
from tests.dicomweb import dicomweb
from tests.peers import chest
from worker.audit import Filter, findings
from worker.database import open_ledger
from worker.settings import load


def test_a_pull_killed_in_the_middle_goes_on_where_it_was(tmp_path: Path) -> None:
    images = [chest(f"killed-{number}", rows=200, cols=200, AccessionNumber=f"K{number}") for number in range(5)]
    with dicomweb(images) as server:
        config = tmp_path / "config.yaml"
        config.write_text(
            f"storage: {{folder: {tmp_path / 'data'}, min_free_mb: 0}}\n"
            f"destinations: [{{name: web, url: '{server.url}'}}]\n"
        )
        server.faults[images[2].SOPInstanceUID] = "stall"
        command = [str(CXRD), "pull", "web", "--date", "19000101-", "--config", str(config)]
        with (tmp_path / "said").open("wb") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said)
        try:
            assert server.stalled.wait(120), (tmp_path / "said").read_text()
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        incoming = tmp_path / "data" / "objects" / "incoming"
        assert len(list(incoming.rglob("*.part"))) == 1
        ledger = open_ledger(load(config))
        assert {row["accession_number"] for row in findings(ledger, Filter())} == {"K0", "K1"}
        server.faults.clear()
        server.go.set()
        server.asked.clear()
        done = run("pull", "web", "--date", "19000101-", "--config", config)
        assert (done.returncode, done.stdout) == (0, "5 series: 3 images came, 2 were known, 0 failed\n"), done.stderr
        assert server.retrieved() == [each.SOPInstanceUID for each in images[2:]]
        assert len(findings(ledger, Filter())) == 5
        assert list(incoming.rglob("*.part")) == []
        assert not any(str(each.SOPInstanceUID) in done.stdout + done.stderr for each in images)
