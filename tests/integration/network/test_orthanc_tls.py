"""DICOM over TLS with Orthanc, both ways: images come, results go, and who does not prove himself is named."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from dicom_io.errors import NotSecure
from dicom_io.network.storage_scu import Peer, echo
from dicom_io.network.tls import ClientTls
from dicom_io.objects.common import encode
from tests.integration.network.test_node_tls import Pair, ours, theirs
from tests.support.certificates import certificate
from tests.support.models import variant
from tests.support.orthanc import Orthanc, free_port
from tests.support.peers import chest, wait_for
from worker.engines.daemon import Daemon

__all__ = ["ours", "theirs"]  # fixtures


@contextmanager
def orthanc_with(folder: Path, port: int, pair: Pair, trusted: Path) -> Iterator[Orthanc]:
    """Yield an Orthanc that shows a certificate and sends to a port of ours."""
    orthanc = Orthanc(folder, port, (*pair, trusted))
    try:
        yield orthanc
    finally:
        orthanc.stop()


def tls_of(pair: Pair, trusted: Path, port: int) -> dict[str, Any]:
    return {"port": port, "certificate": str(pair[0]), "key": str(pair[1]), "ca_file": str(trusted)}


def test_images_come_and_results_go_over_tls(
    daemon: Callable[..., Daemon], tmp_path: Path, ours: Pair, theirs: Pair
) -> None:
    port = free_port()
    with orthanc_with(tmp_path / "orthanc", port, theirs, ours[0]) as orthanc:
        node = {"ca_file": str(theirs[0]), "certificate": str(ours[0]), "key": str(ours[1])}
        place = {"name": "pacs", "host": "127.0.0.1", "port": orthanc.dicom, "ae_title": "ORTHANC", "tls": node}
        daemon(
            [place],
            scp={"port": port, "tls": tls_of(ours, theirs[0], port)},
            model={"folder": variant(tmp_path / "model", knows_all=True)},
        )
        instance = orthanc.upload(encode(chest("tls", rows=300, cols=260)))
        orthanc.raw("/modalities/cxrd/echo", b"{}")
        orthanc.send_to_cxrd([instance])
        wait_for(lambda: orthanc.get("/statistics")["CountInstances"] == 4)


def test_an_orthanc_that_we_do_not_trust_sends_nothing_and_stands_in_the_audit(
    daemon: Callable[..., Daemon], tmp_path: Path, ours: Pair, theirs: Pair
) -> None:
    expired = certificate(tmp_path / "expired", days=-1)
    port = free_port()
    worker = daemon([], scp={"port": port, "tls": tls_of(ours, theirs[0], port)}, model={"folder": "absent"})
    for number, pair in enumerate((certificate(tmp_path / "stranger"), expired)):
        with orthanc_with(tmp_path / f"orthanc-{number}", port, pair, ours[0]) as orthanc:
            instance = orthanc.upload(encode(chest("tls")))
            with pytest.raises(urllib.error.HTTPError):
                orthanc.send_to_cxrd([instance])
    assert worker.ledger.counts() == {}
    worker.receiver.stop()  # enters what was counted
    with worker.ledger.reading() as connection:
        details = connection.scalars(text("SELECT detail FROM event WHERE kind = 'association_rejected'"))
        reasons = {json.loads(each)["reason"] for each in details}
    assert reasons
    assert all(each.startswith(("its certificate does not hold", "it refuses the TLS handshake")) for each in reasons)


def test_what_is_wrong_with_an_orthanc_is_one_line(tmp_path: Path, ours: Pair, theirs: Pair) -> None:
    others = certificate(tmp_path / "other", "DNS:pacs.example")
    expired = certificate(tmp_path / "expired", days=-1)
    port = free_port()
    for number, (shown, trusted, mine, words) in enumerate(
        [
            (theirs, ours[0], ours, "its certificate does not hold: self-signed certificate"),
            (others, others[0], ours, "its certificate does not hold: IP address mismatch"),
            (expired, expired[0], ours, "its certificate does not hold: certificate has expired"),
            (theirs, theirs[0], None, "it refuses the TLS handshake"),
        ]
    ):
        with orthanc_with(tmp_path / f"orthanc-{number}", port, shown, ours[0]) as orthanc:
            client = ClientTls(trusted, *(mine or (None, None)))
            with pytest.raises(NotSecure, match=rf"127\.0\.0\.1:{orthanc.dicom}: {words}"):
                echo(Peer("127.0.0.1", orthanc.dicom, "ORTHANC", "CXRD", timeout=5, tls=client))
            if shown is theirs:
                echo(Peer("127.0.0.1", orthanc.dicom, "ORTHANC", "CXRD", timeout=5, tls=ClientTls(theirs[0], *ours)))
