"""What an extra brings is missed in one line, when the program starts."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from dicom_io.errors import InvalidSettings
from worker import extras
from worker.extras import EXTRAS, require, require_configured
from worker.health.check import run
from worker.settings import LedgerSettings, Results, Settings

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]


def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)


@pytest.mark.parametrize("extra", EXTRAS)
def test_each_extra_is_in_the_project_and_brings_its_packages(extra: str) -> None:
    brought = " ".join(PROJECT["optional-dependencies"][extra]).replace("scikit-learn", "sklearn").replace("-", "_")
    assert all(package in brought for package in EXTRAS[extra])
    require(extra, "the tests")


def test_serving_needs_none_of_them() -> None:
    serving = " ".join(PROJECT["dependencies"]).replace("scikit-learn", "sklearn").replace("-", "_")
    assert [package for packages in EXTRAS.values() for package in packages if f"{package}>" in serving] == []


def test_what_lacks_an_extra_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_installed(monkeypatch)
    with pytest.raises(InvalidSettings) as raised:
        require("evaluate", "cxrd evaluate")
    assert str(raised.value) == "cxrd evaluate needs scipy: pip install 'cxrd[evaluate]'"


def test_what_is_configured_is_looked_for_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    configured = Settings(
        results=Results(kinds=("encapsulated-pdf",)), ledger=LedgerSettings(url="postgresql+psycopg://host/name")
    )
    require_configured(configured)
    nothing_installed(monkeypatch)
    require_configured(Settings())
    with pytest.raises(InvalidSettings, match=r"encapsulated-pdf needs reportlab: pip.*; .*needs psycopg: pip"):
        require_configured(configured)
    first = next(run(configured))
    assert (first.name, first.ok) == ("configuration", False)
