"""The secret behind the patients' keys: made once, never replaced in silence, never too short."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dicom_io.errors import InvalidSettings, OutOfResources
from worker.storage.pseudonym import LENGTH, PatientKey


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_secret_is_made_once(tmp_path: Path) -> None:
    first = PatientKey(tmp_path / "data", "hash").of("P1")
    assert PatientKey(tmp_path / "data", "hash").of("P1") == first
    assert len((tmp_path / "data" / "secret.key").read_bytes()) == LENGTH
    assert (tmp_path / "data" / "secret.key").stat().st_mode & 0o777 == 0o600
    assert names(tmp_path / "data") == ["secret.key"]


@pytest.mark.parametrize("length", [0, 1, LENGTH - 1])
def test_a_short_secret_is_refused_and_left_as_it_is(tmp_path: Path, length: int) -> None:
    path = tmp_path / "secret.key"
    path.write_bytes(bytes(length))
    with pytest.raises(InvalidSettings, match=f"holds {length} bytes") as refused:
        PatientKey(tmp_path, "hash")
    assert "\n" not in str(refused.value)
    assert f"head -c {LENGTH} /dev/urandom > {path}" in str(refused.value)
    assert path.read_bytes() == bytes(length)


def test_a_secret_that_is_missed_is_not_made_anew(tmp_path: Path) -> None:
    """After a restore without the file each known patient would get a second key."""
    with pytest.raises(InvalidSettings, match=r"secret\.key is missing, but the audit holds patient keys"):
        PatientKey(tmp_path, "hash", holds_keys=lambda: True)
    assert names(tmp_path) == []


def test_a_secret_that_is_there_is_not_asked_about(tmp_path: Path) -> None:
    PatientKey(tmp_path, "hash")
    PatientKey(tmp_path, "hash", holds_keys=lambda: pytest.fail("asked"))
    PatientKey(tmp_path / "none", "none", holds_keys=lambda: pytest.fail("asked"))
    assert not (tmp_path / "none").exists()


def test_what_dead_processes_left_hinders_no_start(tmp_path: Path) -> None:
    """In containers every process has the same number."""
    (tmp_path / f"secret.{os.getpid()}").write_bytes(b"x")
    old, young = tmp_path / f".{'0' * 32}.key", tmp_path / f".{'1' * 32}.key"
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    PatientKey(tmp_path, "hash")
    assert not old.exists()
    assert young.exists(), "another process may be making it right now"
    assert len((tmp_path / "secret.key").read_bytes()) == LENGTH


def test_of_two_starts_at_once_one_secret_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = PatientKey(tmp_path, "hash").of("P1")
    with monkeypatch.context() as patch:  # it was not there yet when we looked
        patch.setattr(Path, "exists", lambda _: False)
        assert PatientKey(tmp_path, "hash").of("P1") == ours
    assert names(tmp_path) == ["secret.key"]


def test_a_secret_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "secret.key").mkdir()
    with pytest.raises(OutOfResources, match=r"secret\.key: Is a directory"):
        PatientKey(tmp_path, "hash")
