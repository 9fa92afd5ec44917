"""Files are there whole or not at all, whatever fails on the way."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from dicom_io import durable


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in (b"first", b"second"):
        durable.write_file(path, text)
        assert path.read_bytes() == text
    assert list(tmp_path.iterdir()) == [path]
    assert durable.file_sha256(path) == hashlib.sha256(b"second").hexdigest()
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode, "readable for whom the umask says"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_what_fails_leaves_the_earlier_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.txt"
    durable.write_file(path, b"first")
    with monkeypatch.context() as patch:
        patch.setattr(f"{'os.fsync' if step == 'fsync' else 'pathlib.Path.replace'}", full)
        with pytest.raises(OSError, match="No space left"):
            durable.write_file(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_the_first_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    for text in (b"first", b"second"):
        durable.write_if_absent(path, text, mode=0o600)
        assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_part_is_written_once(tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    durable.write_part(part, b"1")
    durable.place(part, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"1"
    assert not part.exists()


def test_a_folder_comes_whole(tmp_path: Path) -> None:
    part = tmp_path / ".new"
    part.mkdir()
    (part / "a").write_bytes(b"1")
    durable.place_folder(part, tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["a"]
    assert not part.exists()
