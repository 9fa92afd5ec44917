"""Self-signed certificates for the tests, made by openssl on the spot."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

from tests.support.tools import tool


def certificate(folder: Path, names: str = "DNS:localhost,IP:127.0.0.1,IP:::1", *, days: int = 1) -> tuple[Path, Path]:
    """Make a certificate for these names, and its key; with days below 0 one that has expired."""
    folder.mkdir(parents=True, exist_ok=True)
    request, key, certificate_file = (folder / name for name in ("request.pem", "key.pem", "certificate.pem"))
    openssl = [tool("openssl")]
    new = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=test"]
    sign = ["x509", "-req", "-in", str(request), "-signkey", str(key), "-days", str(days), "-copy_extensions", "copy"]
    for command in (
        [*new, "-addext", f"subjectAltName={names}", "-keyout", str(key), "-out", str(request)],
        [*sign, "-out", str(certificate_file)],
    ):
        subprocess.run([*openssl, *command], check=True, capture_output=True, timeout=60)
    return certificate_file, key


def server_context(certificate_and_key: tuple[Path, Path]) -> ssl.SSLContext:
    """Return what a server with this certificate wraps its connections in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate_and_key)
    return context
