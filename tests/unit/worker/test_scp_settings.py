"""The settings of the node: who may send from where, and TLS."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_io.errors import InvalidSettings
from tests.support.certificates import certificate
from tests.support.syslog import tls_collector
from worker.health import check
from worker.health.certificates import certificates
from worker.scp_settings import BoundTitle, Scp
from worker.settings import load

TLS = "scp:\n  tls: {certificate: ours.pem, key: ours.key, ca_file: theirs.pem}\n"
NODE = "- {name: pacs, host: a, port: 104, ae_title: A, "


def settings_of(folder: Path, text: str) -> Path:
    (folder / "config.yaml").write_text(text)
    return folder / "config.yaml"


def test_files_start_at_the_settings_folder(tmp_path: Path) -> None:
    text = TLS + f"destinations:\n  {NODE}tls: {{ca_file: pacs.pem, certificate: c.pem, key: k.pem}}}}\n"
    settings = load(settings_of(tmp_path, text))
    assert settings.scp.tls is not None
    assert (settings.scp.tls.port, settings.scp.tls.clients) == (2762, "required")
    assert settings.scp.tls.certificate == tmp_path / "ours.pem"
    (pacs,) = settings.destinations
    assert pacs.tls is not None and pacs.tls.ca_file == tmp_path / "pacs.pem"  # type: ignore[union-attr]  # noqa: PT018
    assert dict(certificates(settings)) == {
        "scp": f"certificate {tmp_path}/ours.pem: No such file or directory",
        "destination pacs": f"certificate {tmp_path}/c.pem: No such file or directory",
    }


def test_true_and_false_are_short_for_a_node(tmp_path: Path) -> None:
    for value, given in (("true", True), ("false", False), ("null", False)):
        settings = load(settings_of(tmp_path, f"destinations:\n  {NODE}tls: {value}}}\n"))
        assert (settings.destinations[0].tls is not None) is given  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("scp: {tls: {certificate: a, key: b}}", "clients: required needs ca_file"),
        ("scp: {tls: {certificate: a}}", "scp.tls.key"),
        ("scp: {allowed_calling: [{ae_title: A, networks: [10.0.0.1/8]}]}", "10.0.0.1/8 is no network"),
        ("scp: {allowed_calling: [{ae_title: A, networks: []}]}", "networks"),
        (f"destinations: [{NODE[2:]}tls: {{certificate: a}}}}]", "certificate and key go together"),
        ("destinations: [{name: a, url: 'https://a', tls: true}]", "only for a DICOM node or an HL7 receiver"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidSettings) as error:
        load(settings_of(tmp_path, text))
    assert words in str(error.value)


def test_check_says_how_long_a_certificate_holds(tmp_path: Path) -> None:
    for days, ok, words in ((400, True, "scp: expires in 400 days"), (20, False, "scp: expires in 20 days")):
        file, key = certificate(tmp_path / str(days), days=days)
        text = f"scp: {{tls: {{certificate: {file}, key: {key}, ca_file: {file}}}}}\n"
        lines = list(check._certificates(load(settings_of(tmp_path, text))))
        assert [(line.ok, line.text) for line in lines] == [(ok, words)]


def test_check_connects_with_the_collector_of_audit_messages(tmp_path: Path) -> None:
    (trusted, _), (ours, key) = pair = certificate(tmp_path / "server"), certificate(tmp_path / "ours", days=20)
    with tls_collector(pair[0]) as collector:
        syslog = f"url: '{collector.url}', ca_file: {trusted}, certificate: {ours}, key: {key}"
        settings = load(settings_of(tmp_path, f"audit: {{syslog: {{{syslog}}}}}\n"))
        (line,) = check._collector(settings)
        assert (line.ok, line.text) == (True, f"{collector.url}: takes TLS connections")
        assert collector.raw == []
    (line,) = check._collector(settings)
    assert (line.ok, line.text.partition(": ")[2]) == (False, "Connection refused")
    assert [(each.ok, each.text) for each in check._certificates(settings)] == [
        (False, "audit.syslog: expires in 20 days")
    ]
    assert list(check._collector(load(settings_of(tmp_path, "{}\n")))) == []


def test_the_titles_that_we_answer_to() -> None:
    bound = BoundTitle(ae_title="STAT", networks=("10.0.0.0/8",))
    for scp, titles in (
        (Scp(), ()),
        (Scp(require_called=True), ("CXRD",)),
        (Scp(allowed_called=(bound, "OLD")), ("CXRD", "STAT", "OLD")),
    ):
        assert scp.called_titles == titles
    assert Scp(allowed_called=(bound,)).called_networks == {"STAT": ("10.0.0.0/8",)}
