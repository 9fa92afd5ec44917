"""config.yaml: read once, validated, every mistake named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dicom_io.errors import InvalidSettings
from dicom_io.header.rules import Rules
from worker.settings import Settings, load, shipped_config


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text)
    return path


def keys(values: object, at: str = "") -> set[str]:
    if not isinstance(values, dict):
        return {at}
    return {key for name, value in values.items() for key in keys(value, f"{at}.{name}")}


def test_the_shipped_file_holds_every_setting_with_its_default() -> None:
    stated = yaml.safe_load(shipped_config().read_text())
    defaults = Settings().model_dump(mode="json")
    assert keys(stated) == keys(defaults)
    assert Settings(**stated) == Settings()


def test_the_rules_of_the_settings_are_those_of_the_node() -> None:
    assert Rules(**Settings().rules.model_dump()) == Rules()


def test_every_setting_of_the_shipped_file_is_commented() -> None:
    lines = shipped_config().read_text().splitlines()
    bare = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if ":" in line
        and not line.lstrip().startswith("#")
        and "#" not in line
        and not line.endswith(":")
        # a list of its own kind is explained by the comment of its section
        and not line.strip().startswith(("kinds", "modalities", "body_parts", "views", "series_", "max_age_years"))
        and not before.lstrip().startswith("#")
    ]
    assert bare == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scp:\n  prt: 3\n", "c.yaml:2: scp.prt: unknown setting; did you mean port?"),
        ("\nscpp:\n  port: 3\n", "c.yaml:2: scpp: unknown setting; did you mean scp?"),
        ("zzz: 3\n", "c.yaml:1: zzz: unknown setting"),
        ("scp:\n  port: abc\n", "c.yaml:2: scp.port: must be a whole number"),
        ("scp:\n  port: 70000\n", "c.yaml:2: scp.port: must be at most 65535"),
        ("scp:\n  ae_title: SEVENTEEN_LETTERS\n", "c.yaml:2: scp.ae_title: must have at most 16 characters"),
        ("scp:\n  ae_title: ''\n", "c.yaml:2: scp.ae_title: must have at least 1 characters"),
        ("scp: 3\n", "c.yaml:1: scp: must be a group of settings, each on a line of its own below"),
        ("scp:\n  require_called: maybe\n", "c.yaml:2: scp.require_called: must be true or false"),
        ("results:\n  kinds: structured-report\n", "c.yaml:2: results.kinds: must be a list, such as [A, B]"),
        ("results:\n  kinds: []\n", "c.yaml:2: results.kinds: must name at least 1"),
        ("logging:\n  format: xml\n", "c.yaml:2: logging.format: must be 'auto', 'json' or 'console'"),
        ("storage:\n  folder: 3\n", "c.yaml:2: storage.folder: must be a path"),
        ("scp:\n  port: 1\n  port: 2\n", "c.yaml:3: port: stated twice; remove one"),
        ("scp: [\n", "c.yaml:2: not valid YAML"),
        ("- a\n", "c.yaml:1: must hold settings"),
        ("destinations:\n  - name: a\n    host: h\n    port: 0\n    ae_title: A\n", "c.yaml:4: destination a: port: "),
        ("destinations:\n  - name: a\n    host: h\n    port: 1\n", "c.yaml:2: destination a: ae_title: missing"),
        (
            "destinations:\n" + "  - {name: a, host: h, port: 1, ae_title: A}\n" * 2,
            "destinations: the name a is used twice",
        ),
        ("model:\n  threshold: 1.5\n", "c.yaml:2: model.threshold: must be at most 1"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load(written(tmp_path, text))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"nowhere\.yaml: No such file"):
        load(tmp_path / "nowhere.yaml")


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRD_SCP__PORT", "11113")
    monkeypatch.setenv("CXRD_RULES__VIEWS", '["PA"]')
    settings = load(written(tmp_path, "scp:\n  port: 1\n  ae_title: OTHER\n"))
    assert (settings.scp.port, settings.scp.ae_title, settings.rules.views) == (11113, "OTHER", ("PA",))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("CXRD_SCP__PRT", "1", "environment CXRD_SCP__PRT: unknown setting"),
        ("CXRD_NONSENSE", "1", "environment CXRD_NONSENSE: unknown setting"),
        ("CXRD_SCP__PORT", "x", "environment CXRD_SCP__PORT: must be a whole number"),
        ("CXRD_DESTINATIONS", "[x", "environment: error parsing value"),
    ],
)
def test_a_mistake_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings) as caught:
        load()
    assert said in str(caught.value)


def test_folders_are_meant_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    settings = load(written(tmp_path / "etc", "storage:\n  folder: here\n"))
    assert settings.storage.folder == tmp_path / "etc" / "here"
    assert settings.ledger_url == f"sqlite:///{tmp_path}/etc/here/ledger.sqlite"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().scp.port = 3  # type: ignore[misc]
