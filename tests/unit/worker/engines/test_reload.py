"""SIGHUP takes up what can be taken up, and says what cannot; a file that is gone or empty changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_io.errors import InvalidSettings
from worker.engines.reload import open_text, read_again, settings_file
from worker.settings import Settings, load

FIRST = """
scp: {port: 11112}
storage: {folder: data}
destinations: [{name: pacs, host: 127.0.0.1, port: 4242, ae_title: PACS}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(FIRST)
    return path


@pytest.fixture
def before(file: Path) -> Settings:
    return load(file)


def test_what_can_be_is_taken_up_and_the_rest_is_named(file: Path, before: Settings) -> None:
    file.write_text(FIRST.replace("11112", "11113") + "logging: {level: debug}\ncommitment: {offered: true}\n")
    change = read_again(before, file)
    assert change.names == ["commitment", "logging"]
    assert change.fixed == ["scp", "commitment.offered"]
    assert (change.settings.logging.level, change.settings.scp.port) == ("debug", 11112)


def test_how_long_files_are_kept_is_taken_up(file: Path, before: Settings) -> None:
    file.write_text(FIRST.replace("data}", "data, keep_received_days: 30, min_free_mb: 7}"))
    change = read_again(before, file)
    assert (change.names, change.fixed) == (["storage"], ["storage.min_free_mb"])
    assert change.settings.storage.keep_received_days == 30


@pytest.mark.parametrize("text", ["", "null", "~\n", "# nothing\n---\nnull\n", "scp: {prt: 1}"])
def test_a_faulty_file_changes_nothing(file: Path, before: Settings, text: str) -> None:
    file.write_text(text)
    with pytest.raises(InvalidSettings):
        read_again(before, file)


def test_a_file_that_is_gone_changes_nothing(file: Path, before: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it was not named: the built-in settings are no substitute for it."""
    monkeypatch.chdir(file.parent)
    again = settings_file(None)
    assert again == file.resolve()
    file.unlink()
    with pytest.raises(InvalidSettings, match="No such file"):
        read_again(before, again)
    assert settings_file(None) is None


@pytest.mark.parametrize("text", ["storage: {folder: other}", "storage: {folder: data}\nledger: {url: 'sqlite:///x'}"])
def test_another_folder_or_ledger_is_for_all_or_for_none(file: Path, before: Settings, text: str) -> None:
    file.write_text(text)
    with pytest.raises(InvalidSettings, match="new start"):
        read_again(before, file)


def test_children_get_the_text_that_was_accepted(file: Path, before: Settings) -> None:
    file.write_text(FIRST + "logging: {level: debug}\n")
    change = read_again(before, file)
    file.write_text("somebody is editing it")
    assert change.text is not None
    with open_text(change.text) as descriptor, open(descriptor, encoding="utf-8", closefd=False) as text:
        again = load(file, text.read())
    assert again.logging.level == "debug"
