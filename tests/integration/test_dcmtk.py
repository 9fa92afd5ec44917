"""With DCMTK: echoscu and storescu send to us, storescp takes our results, dciodvfy reads them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian

from dicom_io.objects.common import encode
from dicom_io.pixels.compression import LOSSLESS
from tests.support.dcmtk import storescp
from tests.support.peers import chest, send, wait_for
from tests.support.tools import tool
from worker.engines.daemon import Daemon
from worker.ledger.queries import Filter, findings


def test_echoscu(daemon: Callable[..., Daemon]) -> None:
    echoscu = tool("echoscu")
    worker = daemon()
    subprocess.run([echoscu, "-aec", "CXRD", "127.0.0.1", str(worker.port)], check=True, timeout=30)


@pytest.mark.parametrize("syntax", ["-xe", "-xb", "-xi"], ids=["little", "big", "implicit"])
def test_storescu_and_storescp(daemon: Callable[..., Daemon], tmp_path: Path, syntax: str) -> None:
    storescu, inbox = tool("storescu"), tmp_path / "inbox"
    with storescp(inbox, "PACS") as port:
        worker = daemon([("pacs", port, "PACS")])
        files = []
        for number in range(3):
            files.append(str(tmp_path / f"{number}.dcm"))
            Path(files[-1]).write_bytes(encode(chest(f"dcmtk-{syntax}-{number}", rows=300, cols=260)))
        command = [storescu, syntax, "-aet", "MODALITY", "-aec", "CXRD", "127.0.0.1", str(worker.port), *files]
        subprocess.run(command, check=True, timeout=60)
        wait_for(lambda: worker.ledger.counts().get("delivery_sent") == 9, 30)
        received = [pydicom.dcmread(path) for path in inbox.iterdir()]
        assert len(received) == 9
        captures = [each for each in received if each.Modality == "OT"]
        sources = {pydicom.dcmread(path).SOPInstanceUID for path in files}
        assert {each.SourceImageSequence[0].ReferencedSOPInstanceUID for each in captures} == sources
        assert {row["calling_ae"] for row in findings(worker.ledger, Filter())} == {"MODALITY"}


def assert_arrives(worker: Daemon, inbox: Path, name: str, syntax: str) -> None:
    """Send a radiograph, and hold the picture that arrives to its transfer syntax, its pixels and dciodvfy."""
    dciodvfy = tool("dciodvfy")
    assert send(worker.port, [chest(name, rows=300, cols=260)]) == [0]
    wait_for(lambda: worker.ledger.counts().get("delivery_sent") == 3, 30)
    received = {pydicom.dcmread(path).Modality: path for path in inbox.iterdir()}
    assert set(received) == {"OT", "SR", "PR"}
    picture = pydicom.dcmread(received["OT"])
    assert picture.file_meta.TransferSyntaxUID == syntax
    (kept,) = [path for path in worker.blobs.folder.rglob("*.dcm") if path.read_bytes()[128:].count(b"DERIVED")]
    original = pydicom.dcmread(kept)
    assert picture.SOPInstanceUID == original.SOPInstanceUID
    assert (picture.pixel_array == original.pixel_array).all()
    said = subprocess.run([dciodvfy, str(received["OT"])], capture_output=True, text=True, timeout=60, check=False)
    assert "Error" not in said.stderr + said.stdout


@pytest.mark.parametrize(
    ("accepts", "compression", "arrives"),
    [
        ("+xr", "rle", "1.2.840.10008.1.2.5"),
        ("+xv", "jpeg-2000", "1.2.840.10008.1.2.4.90"),
        ("+x=", "jpeg-2000", "1.2.840.10008.1.2.1"),  # it takes uncompressed objects only
    ],
)
def test_a_picture_is_compressed_where_the_node_takes_it(
    daemon: Callable[..., Daemon], tmp_path: Path, accepts: str, compression: str, arrives: str
) -> None:
    with storescp(tmp_path / "inbox", "PACS", accepts) as port:
        place = {"name": "pacs", "host": "127.0.0.1", "port": port, "ae_title": "PACS", "compression": compression}
        assert_arrives(daemon([place]), tmp_path / "inbox", f"compressed-{accepts}", arrives)


INSISTS = """\
[[TransferSyntaxes]]
[Pictures]
TransferSyntax1 = {pictures}
[Default]
TransferSyntax1 = LittleEndianImplicit
[[PresentationContexts]]
[All]
PresentationContext1 = 1.2.840.10008.5.1.4.1.1.7\\Pictures
PresentationContext2 = 1.2.840.10008.5.1.4.1.1.88.34\\Default
PresentationContext3 = 1.2.840.10008.5.1.4.1.1.11.1\\Default
[[Profiles]]
[Insists]
PresentationContexts = All
"""


@pytest.mark.parametrize(
    "pictures",
    [ImplicitVRLittleEndian, *LOSSLESS],
    ids=lambda uid: uid.name,
)
@pytest.mark.parametrize("quality", [None, 90], ids=["lossless", "jpeg"])
def test_a_node_that_insists_on_one_syntax_gets_the_picture_in_it(
    daemon: Callable[..., Daemon], tmp_path: Path, pictures: str, quality: int | None
) -> None:
    profile = tmp_path / "storescp.cfg"
    profile.write_text(INSISTS.format(pictures=pictures))
    with storescp(tmp_path / "inbox", "PACS", "-xf", str(profile), "Insists") as port:
        worker = daemon([("pacs", port, "PACS")], results={"jpeg_quality": quality})  # with nothing set for it
        assert_arrives(worker, tmp_path / "inbox", f"insists-{pictures}-{quality}", pictures)


def test_what_we_send_passes_dciodvfy(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    storescu, dciodvfy = tool("storescu"), tool("dciodvfy")
    worker = daemon()
    source = tmp_path / "source.dcm"
    source.write_bytes(encode(chest("dciodvfy", rows=300, cols=260)))
    subprocess.run([storescu, "-aec", "CXRD", "127.0.0.1", str(worker.port), str(source)], check=True, timeout=60)
    wait_for(lambda: worker.ledger.counts().get("analysed") == 1)
    (result,) = [
        path
        for path in worker.blobs.folder.rglob("*.dcm")
        if pydicom.dcmread(path, stop_before_pixels=True).SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    ]
    said = subprocess.run([dciodvfy, str(result)], capture_output=True, text=True, timeout=60, check=False)
    assert "Error" not in said.stderr + said.stdout
