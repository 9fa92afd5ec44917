"""What cxrd keeps is its user's alone, whatever the umask, and also where an earlier version left it open."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.acceptance.program import invoke
from tests.support import earlier_ledgers
from tests.support.orthanc import free_port
from worker.database.connection import connect
from worker.ledger import migrations
from worker.ledger.database import open_ledger
from worker.queue import wake
from worker.settings import load
from worker.storage import blobs, lock, privacy, pseudonym


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_it_knows_the_names_of_what_cxrd_makes() -> None:
    assert {wake.FOLDER, lock.NAME, blobs.MARK, pseudonym.KEY_FILE} <= set(privacy._NAMES)


@pytest.mark.usefixtures("no_umask")
def test_a_folder_that_was_left_open_is_closed_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "objects" / "ab").mkdir(parents=True)
    ours = [tmp_path / "ledger.sqlite", tmp_path / "secret.key", tmp_path / "objects" / "ab" / "c.dcm"]
    theirs = tmp_path / "notes.txt"
    for path in (*ours, theirs):
        path.write_text("x")
    ours[2].chmod(0o444)  # confirmed, and stays so
    (tmp_path / "lock").symlink_to(theirs)
    tmp_path.chmod(0o755)
    assert {path.name for path in privacy.open_to_others(tmp_path)} == {"ledger.sqlite", "secret.key", "objects"}
    assert privacy.tighten(tmp_path) == []
    assert [mode(path) for path in ours] == [0o600, 0o600, 0o400]
    assert [mode(path) for path in (tmp_path / "objects", tmp_path / "objects" / "ab")] == [0o700] * 2
    assert blobs.is_confirmed(ours[2].stat().st_mode)
    assert (mode(theirs), mode(tmp_path)) == (0o666, 0o755)
    assert privacy.open_to_others(tmp_path) == []


@pytest.mark.usefixtures("no_umask")
def test_in_a_closed_folder_nothing_is_open(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("x")
    tmp_path.chmod(0o700)
    assert privacy.open_to_others(tmp_path) == []


def test_what_cannot_be_closed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ledger.sqlite").write_text("x")
    (tmp_path / "ledger.sqlite").chmod(0o644)

    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "chmod", refuse)
    assert privacy.tighten(tmp_path) == [tmp_path / "ledger.sqlite"]


@pytest.mark.usefixtures("no_umask")
def test_commands_make_private_files_and_check_names_what_is_open(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"storage": {"folder": "data"}, "scp": {"port": free_port()}}))
    engine = connect(f"sqlite:///{tmp_path / 'made.sqlite'}")
    earlier_ledgers.make(engine, earlier_ledgers.REVISIONS[-1])
    migrations.upgrade(engine)
    engine.dispose()
    assert invoke("db", "current", "-c", config).returncode == 0
    open_ledger(load(config)).engine.dispose()
    assert mode(tmp_path / "data") == 0o700
    (tmp_path / "made.sqlite").rename(tmp_path / "data" / "ledger.sqlite")
    for name in ("findings.csv", "findings.json"):
        assert invoke("audit", "export", tmp_path / name, "-c", config).returncode == 0
        assert mode(tmp_path / name) == 0o600
    (tmp_path / "data").chmod(0o755)
    (tmp_path / "data" / "ledger.sqlite").chmod(0o644)
    said = invoke("check", "-c", config)
    assert said.returncode == 2
    (line,) = [line for line in said.stdout.splitlines() if "privacy" in line]
    assert line.startswith("FAIL  privacy: others may read ledger.sqlite")
    assert line.endswith(f" in {tmp_path}/data: chmod -R go= {tmp_path}/data")
    assert privacy.tighten(tmp_path / "data") == []
    assert "privacy" not in invoke("check", "-c", config).stdout
