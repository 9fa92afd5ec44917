"""Destinations in config.yaml: the keys say which kind one is, and each mistake is named with destination and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dicom_io.errors import InvalidSettings
from worker.destination_settings import (
    KINDS,
    BaseDestination,
    DicomDestination,
    DicomwebDestination,
    Hl7Destination,
    WebhookDestination,
)
from worker.settings import Settings, load

NODE = {"host": "h", "port": 104, "ae_title": "PACS"}
RESULTS = ("secondary-capture", "structured-report")


def destination(**values: Any) -> BaseDestination:
    (only,) = Settings.model_validate({"destinations": [{"name": "a", **values}]}).destinations
    return only


@pytest.mark.parametrize(
    ("values", "expected", "kinds"),
    [
        (NODE, DicomDestination, RESULTS),
        (NODE | {"kinds": ["structured-report"]}, DicomDestination, ("structured-report",)),
        ({"url": "http://h/dicom-web"}, DicomwebDestination, RESULTS),
        ({"webhook": "https://h/"}, WebhookDestination, ("notification",)),
        ({"hl7": "[::1]:2575"}, Hl7Destination, ("oru",)),
    ],
)
def test_the_keys_tell_the_kind_and_the_kind_what_goes_there(
    values: dict[str, Any], expected: type[BaseDestination], kinds: tuple[str, ...]
) -> None:
    made = destination(**values)
    assert type(made) is expected
    assert tuple(kind for kind in (*RESULTS, "notification", "oru") if made.takes(kind)) == kinds


# What the one class of versions up to 1.7 took, with the defaults of keys that it had for all kinds.
_DEFAULTS: dict[str, Any] = {
    "host": "",
    "port": None,
    "ae_title": None,
    "calling_ae": None,
    "url": "",
    "username": "",
    "password": "",
    "webhook": "",
    "secret": "",
    "hl7": "",
    "hl7_application": "",
    "hl7_facility": "",
    "tls": False,
    "ca_file": None,
    "for_calling": [],
    "kinds": [],
    "compression": "auto",
    "timeout": 30.0,
}


@pytest.mark.parametrize("values", [NODE, {"url": "http://h/"}, {"webhook": "http://h/"}, {"hl7": "h:1"}])
def test_files_of_earlier_versions_stay_valid(values: dict[str, Any]) -> None:
    assert destination(**_DEFAULTS | values) == destination(**values)
    idle = {"calling_ae": "ME", "username": "u", "password": "p", "secret": "s", "hl7_application": "A"}
    assert type(destination(**idle | values)) is type(destination(**values))
    if values is not NODE:
        assert destination(**values, compression="none") == destination(**values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("destinations:\n  name: a\n", 'c.yaml:1: destinations: must be a list; begin each entry with "- name:"'),
        ("scp:\n  port: 1\ndestinations:\n", "c.yaml:3: destinations: must be a list"),
        ("destinations:\n  - name: a\n", "c.yaml:2: destination a: give either url, or webhook, or hl7, or host, port"),
        ("destinations:\n  - pacs\n", "c.yaml:2: destination 1: give either url"),
        (
            "destinations:\n  - {host: h, port: 1, ae_title: A}\n",
            "c.yaml:2: destination 1: name: missing",
        ),
        (
            "destinations:\n  - name: a\n    url: http://h/\n    hl7: h:1\n",
            "c.yaml:2: destination a: give either url, or webhook, or hl7, or host, port and ae_title",
        ),
        (
            "destinations:\n  - name: a\n    host: h\n    port: 1\n",
            "c.yaml:2: destination a: ae_title: missing; a DICOM node needs host, port and ae_title",
        ),
        (
            "destinations:\n  - name: a\n    url: h\n",
            "c.yaml:3: destination a: url: must begin with http:// or https://",
        ),
        ("destinations:\n  - name: a b\n    hl7: h:1\n", "c.yaml:2: destination a b: name: must be 1 to 64 letters"),
        (
            "destinations:\n  - name: a\n    hl7: h:1\n    port_number: 1\n",
            "c.yaml:4: destination a: port_number: unknown setting",
        ),
        (
            "destinations:\n  - name: a\n    webhook: http://h/\n    kinds: [structured-report]\n",
            "c.yaml:4: destination a: kinds: only for a DICOM node or a DICOMweb server: a webhook gets notifications",
        ),
        (
            "destinations:\n  - name: a\n    url: http://h/\n    compression: rle\n",
            "c.yaml:4: destination a: compression: only for a DICOM node",
        ),
        (
            "destinations:\n  - name: a\n    url: http://h/\n    ca_file: x\n",
            "c.yaml:4: destination a: ca_file: only for an HL7 receiver with tls: true",
        ),
        (
            "destinations:\n" + "  - {name: a, host: h, port: 1, ae_title: A}\n" * 2,
            "c.yaml:1: destinations: the name a is used twice",
        ),
    ],
)
def test_a_mistake_names_destination_key_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InvalidSettings) as caught:
        load(path)
    assert f"/{message}" in str(caught.value)


def test_a_mistake_in_the_environment_is_not_laid_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("destinations:\n  - {name: other, hl7: 'h:1'}\n")
    monkeypatch.setenv("CXRD_DESTINATIONS", '[{"name": "a", "host": "h", "port": 0, "ae_title": "A"}]')
    with pytest.raises(InvalidSettings, match=r"^environment CXRD_DESTINATIONS: destination 1: port: "):
        load(path)


def test_every_kind_has_a_sign_of_its_own() -> None:
    required = [name for each in KINDS.values() for name, field in each.model_fields.items() if field.is_required()]
    assert sorted(set(required) - {"name"}) == ["ae_title", "hl7", "host", "port", "url", "webhook"]
    assert len(required) == len(set(required)) + len(KINDS) - 1  # all but `name` stand in one kind only
