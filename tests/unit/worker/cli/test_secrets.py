"""No secret of the settings is printed: neither in what commands show, nor in what they say of a mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies

from dicom_io.network.address import origin, plain_url
from tests.acceptance.program import invoke
from tests.support.orthanc import free_port

MARK = "Geheimnis7"
WEB = {"name": "web", "url": f"http://u:{MARK}@127.0.0.1:9/dicom-web?token={MARK}#{MARK}", "timeout": 1}
LOGIN = {"name": "login", "url": "http://127.0.0.1:9/dicom-web", "username": "u", "password": MARK, "timeout": 1}
HOOK = {"name": "hook", "webhook": f"https://u:{MARK}@127.0.0.1:9/T1/{MARK}?{MARK}", "secret": MARK, "timeout": 1}
DESTINATIONS: list[dict[str, Any]] = [WEB, LOGIN, HOOK]
DATABASES = ("", f"postgresql+psycopg://u:{MARK}@127.0.0.1:9/db?password={MARK}&connect_timeout=1")
COMMANDS = (
    ("check",),
    ("check", "web"),
    ("check", "login", "--store"),
    ("check", "hook", "--store"),
    ("check", "other"),
    ("conformance",),
    ("status",),
    ("status", "--json"),
    ("db", "current"),
    ("db", "migrate"),
    ("audit", "list"),
    ("audit", "verify"),
    ("redeliver", "--to", "web"),
    ("redeliver", "--to", "other"),
    ("retry",),
    ("pull", "--from", "web"),
    ("pull", "--from", "login"),
    ("reanalyze", "--status"),
    ("feedback", "list"),
    ("models", "list"),
    ("drift",),
)


def write(folder: Path, **parts: Any) -> Path:
    file = folder / "config.yaml"
    base = {"storage": {"folder": "data", "min_free_mb": 0}, "scp": {"port": free_port()}}
    file.write_text(yaml.safe_dump(base | {"destinations": DESTINATIONS} | parts))
    return file


def said(file: Path, *command: str, **environment: Any) -> str:
    words = 2 if command[0] in ("audit", "db", "feedback", "models") else 1
    done = invoke(*command[:words], "-c", file, *command[words:], **environment)
    assert done.returncode != 70, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("level", ["debug", "error"])
@pytest.mark.parametrize("url", DATABASES, ids=["sqlite", "postgresql"])
def test_no_command_prints_a_secret(tmp_path: Path, url: str, level: str) -> None:
    file = write(tmp_path, ledger={"url": url, "connect_timeout": 1}, logging={"level": level})
    for command in COMMANDS:
        assert MARK not in said(file, *command), command


SPOILT = (
    ("password", [MARK]),
    ("password", {"a": MARK}),
    ("passwort", MARK),
    ("secret", MARK),
    ("url", MARK),
    ("url", f"ftp://u:{MARK}@host"),
    ("url", f"http://u:{MARK}@[host"),
    ("url", f"http://u:{MARK} @host"),
    ("url", [MARK]),
    ("webhook", f"http://u:{MARK}@host"),
    ("hl7", f"u:{MARK}@host:99999"),
    ("webhook", f"http://[{MARK}/x"),
    ("url", f"http://u:{MARK}@host:99999/x"),
    ("timeout", MARK),
    ("ca_file", MARK),
)


@pytest.mark.parametrize(("key", "value"), SPOILT)
def test_no_mistake_in_the_settings_quotes_one(tmp_path: Path, key: str, value: Any) -> None:
    for each in DESTINATIONS:
        file = write(tmp_path, destinations=[each | {key: value}])
        assert MARK not in said(file, "db", "current"), each


KEYS = (
    MARK,
    f"http://u:{MARK}@host",
    f"u:{MARK}",
    f"Bearer {MARK}",
    f"{MARK}@host",
    f"my-{MARK}",
    "0123456789abcdef" + MARK,
)


@pytest.mark.parametrize("key", KEYS)
def test_a_secret_that_stands_as_a_key_is_not_shown(tmp_path: Path, key: str) -> None:
    """The line says where it stands."""
    for parts in (
        {key: 1},
        {"scp": {key: 1}},
        {"destinations": [LOGIN | {key: {key: 1}}]},
        {"rules": {"views": {key: 1}}},
    ):
        words = said(write(tmp_path, **parts), "db", "current")
        assert MARK not in words
        assert "config.yaml:" in words
    file = tmp_path / "config.yaml"
    file.write_text(f"scp:\n  '{key}': 1\n  '{key}': 2\n")
    assert "config.yaml:3: <not shown>: stated twice" in said(file, "db", "current")


@pytest.mark.parametrize("key", ["my-password", "passwort", "Port", "AETITLES", "hl7_facilities"])
def test_a_key_that_is_a_name_is_shown(tmp_path: Path, key: str) -> None:
    assert f"scp.{key}: unknown setting" in said(write(tmp_path, scp={key: MARK}), "db", "current")


@pytest.mark.parametrize("key", ["url", "webhook"])
@pytest.mark.parametrize("address", ["http://[x/y", "http://h:99999/", "http://h:x/", "http://:1/", "http:///x"])
def test_an_address_that_is_none_is_a_mistake_in_the_settings(tmp_path: Path, key: str, address: str) -> None:
    """`cxrd check` and `cxrd conformance` ended in a traceback, or told of the first delivery that nobody can reach."""
    file = write(tmp_path, destinations=[{"name": "a", key: address}])
    assert f"{key}: must have a host, and a port of 1 to 65535 if any" in said(file, "conformance")


def test_what_stands_before_the_host_of_an_hl7_receiver_is_not_shown(tmp_path: Path) -> None:
    file = write(tmp_path, destinations=[{"name": "a", "hl7": f"u:{MARK}@host:2575"}])
    shown = said(file, "conformance")
    assert "hl7: must be host:port" in shown
    assert MARK not in shown


URLS = (
    f"postgresql+psycopg://u:{MARK}@h:port/db",
    f"postgresql+psycopg://u:p@{MARK}:x@h/db",
    f"nothing://u:{MARK}@h/db",
    MARK,
    f"sqlite:////nowhere/x?password={MARK}",
    f"mysql+pymysql://u:{MARK}@h/db",
)


@pytest.mark.parametrize("url", URLS)
def test_no_address_of_a_database_does(tmp_path: Path, url: str) -> None:
    file = write(tmp_path, ledger={"url": url, "connect_timeout": 1})
    for command in (("db", "current"), ("audit", "list"), ("check",)):
        assert MARK not in said(file, *command), command


LINES = (
    "password: *{}",
    "password: !{} x",
    "password: &{} x\nb: &{} x",
    "password: '{}",
    "password: {}: b: c",
    "password: @{}",
    "password: %{}",
    "password: `{}`",
    "password: \t{}",
    "password: {}\n  b: c",
    "{}",
    "- {}",
    "null # {}",
    '"a": "{}\\q"',
    "password: !!python/object:{} x",
    "password: !!int {}",
    "password: !!timestamp {}",
)


@pytest.mark.parametrize("line", LINES)
def test_no_broken_yaml_does(tmp_path: Path, line: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(line.replace("{}", MARK))
    shown = said(file, "db", "current")
    assert shown.startswith("cxrd: ")
    assert MARK not in shown


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(strategies.text(strategies.sampled_from("*&!%@`'\"{}[],:#-?|> \n\tab\\"), max_size=6), strategies.integers(0, 2))
def test_nor_does_any_form_of_it(tmp_path: Path, before: str, depth: int) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("destinations:\n- name: web\n  password: " + before + MARK + ("\n" + " " * depth + before) * depth)
    assert MARK not in said(file, "db", "current")


@pytest.mark.parametrize("broken", [f'[{{"password": "{MARK}"', f'[{{"name": "x", "password": ["{MARK}"]}}]', MARK])
def test_no_variable_of_the_environment_does(tmp_path: Path, broken: str) -> None:
    file = write(tmp_path)
    assert MARK not in said(file, "db", "current", CXRD_DESTINATIONS=broken)
    assert MARK not in said(file, "db", "current", CXRD_LEDGER=broken)
    assert MARK not in said(file, "audit", "list", CXRD_LEDGER__URL=f"postgresql+psycopg://u:{MARK}@127.0.0.1:9/x")
    assert MARK not in said(file, "db", "current", CXRD_DESTINATIONS=json.dumps([HOOK | {"tls": True}]))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@host:8443/dicom-web?token=x#y", "https://host:8443/dicom-web"),
        ("http://host", "http://host"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
        ("http://u:p@[host", "an address that cannot be read"),
    ],
)
def test_an_address_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert plain_url(url) == shown
    assert "/a" not in origin(url)
