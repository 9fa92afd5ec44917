"""The harness on settings files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from random import Random

from dicom_io.errors import InvalidSettings
from tests.fuzz.harness import Fault
from tests.fuzz.mutation import WORDS, damaged
from worker.printable import printable
from worker.settings import load, shipped_config

_WORDS = (
    *WORDS[:20],
    *(
        b"&a [*a]",
        b"*a",
        b"!!python/object:os.system x",
        b"!!bool x",
        b"!!timestamp x",
        b"!!binary x",
        b"? ",
        b"- ",
        b": ",
    ),
    *(
        b"{",
        b"[",
        b"}",
        b"]",
        b"'",
        b'"',
        b"|\n",
        b">\n",
        b"%YAML 9.9\n",
        b"---\n",
        b"...\n",
        b"\t",
        b"\xef\xbb\xbf",
        b"~",
    ),
    *(
        b"null",
        b"true",
        b".inf",
        b"-.nan",
        b"1_000",
        b"0o7",
        b"12:30:45",
        b"2026-02-30",
        b"<<: ",
        b"<<: *a",
        b"[" * 3000,
    ),
    *(
        b"destinations:\n- {name: x, host: h, port: 1, ae_title: A}\n",
        b"scp: {tls: {certificate: x, key: y, port: 1}}\n",
    ),
)
_DESTINATIONS = b"""
destinations:
  - name: pacs
    host: 10.0.0.1
    port: 104
    ae_title: PACS
    calling_ae: CXRD
    timeout: 30
    kinds: [secondary-capture]
    compression: jpeg-2000
    commitment: auto
    associations: 2
    tls: {ca_file: ca.pem}
  - name: web
    url: https://web.example/dicom-web
    username: u
    password: secret
  - {name: hook, webhook: "https://hook.example/x", secret: s, for_calling: [CT]}
  - {name: ris, hl7: "ris:2575", tls: true, hl7_application: RIS}
scp:
  allowed_calling: [CT, {ae_title: DX, networks: [10.0.0.0/8, "fd00::/8"]}]
audit: {anchor: {file: x, syslog: "tls://h:6514", every: 60}}
commitment: {offered: true, report_to: [{ae_title: A, host: h, port: 1}]}
"""


@cache
def _samples() -> tuple[bytes, ...]:
    shipped = shipped_config().read_bytes()
    bare = b"\n".join(line for line in shipped.splitlines() if line.strip() and not line.strip().startswith(b"#"))
    return shipped, bare, _DESTINATIONS


class SettingsFiles:
    """Loading a settings file."""

    bound_mb = 150.0
    children = 0

    def __init__(self) -> None:
        self._path = Path.cwd().parent / "config.yaml"

    def case(self, chance: Random) -> bytes:
        """Return a settings file with damage; sometimes whole lines change places."""
        data = chance.choice(_samples())
        if chance.random() < 0.3:
            lines = data.split(b"\n")
            for _ in range(chance.randrange(1, 4)):
                here, there = chance.randrange(len(lines)), chance.randrange(len(lines))
                lines[here] = chance.choice((lines[there], b" " * chance.randrange(9) + lines[here].lstrip(), b""))
            data = b"\n".join(lines)
        return damaged(data, chance, _WORDS)

    def run(self, data: bytes) -> str:
        """Load it."""
        self._path.write_bytes(data)
        try:
            load(self._path)
        except InvalidSettings as error:
            lines = [printable(line) for line in str(error).split("\n")]
            if not all(lines) or max(map(len, lines)) > 2000:
                raise Fault(f"a message of {str(error)[:3000]!r}") from error
            return f"refused, {'one reason' if len(lines) == 1 else 'several reasons'}"
        return "loaded"

    def leftovers(self) -> list[str]:
        """Return nothing: it writes nothing."""
        return []

    def close(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)
