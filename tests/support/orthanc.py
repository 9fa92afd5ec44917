"""A real Orthanc for the tests: its own folder, free ports, ended by its own process id."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from tests.support.tools import tool
from worker.demo.orthanc import DIRECT, LocalOrthanc, free_port

__all__ = ["Orthanc", "free_port"]


class Orthanc(LocalOrthanc):
    """A running Orthanc that knows one modality, `cxrd`.

    Parameters
    ----------
    tls
        Our certificate and its key, and the certificates that Orthanc trusts: it then speaks DICOM over TLS alone.
    """

    def __init__(self, folder: Path, cxrd_port: int, tls: tuple[Path, Path, Path] | None = None) -> None:
        tool("Orthanc")
        self._tls = tls
        node = {"AET": "CXRD", "Host": "127.0.0.1", "Port": cxrd_port, "UseDicomTls": tls is not None}
        super().__init__(folder, {"cxrd": node})

    def _settings(self, folder: Path, plugins: list[str], modalities: dict[str, Any]) -> dict[str, Any]:
        settings = super()._settings(folder, plugins, modalities)
        if self._tls is not None:
            certificate, key, trusted = map(str, self._tls)
            settings |= {"DicomTlsEnabled": True, "DicomTlsRemoteCertificateRequired": True}
            settings |= {"DicomTlsCertificate": certificate, "DicomTlsPrivateKey": key}
            settings |= {"DicomTlsTrustedCertificates": trusted}
        return settings

    def delete(self, path: str) -> None:
        """DELETE what lies under a path of the REST interface."""
        request = urllib.request.Request(f"{self.url}{path}", method="DELETE")  # noqa: S310 - our own, on the loopback
        with DIRECT.open(request, timeout=60):
            pass

    def send_to_cxrd(self, instances: list[str]) -> None:
        """Send instances by C-STORE to the modality `cxrd`; raises where any of them is not accepted."""
        self.raw("/modalities/cxrd/store", json.dumps(instances).encode())
