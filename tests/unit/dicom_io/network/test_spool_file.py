"""An arriving object: what it may take, what an error leaves, and to whom its file belongs."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from dicom_io.errors import ObjectTooLarge, OutOfResources
from dicom_io.network.spool_file import LOOK_EVERY, Limits, SpoolFile, is_open, remove_leftovers
from tests.support.disk import small_disk

MB = 1_000_000


def test_an_object_that_is_too_large_takes_no_space(tmp_path: Path) -> None:
    file = SpoolFile(tmp_path, Limits(max_mb=2))
    file.write(bytes(2 * MB))
    assert file.path.exists()
    for _ in range(3):
        assert file.write(bytes(MB)) == MB
        assert list(tmp_path.iterdir()) == [], "given back while the peer still sends"
    with pytest.raises(ObjectTooLarge, match="larger than 2 MB"):
        file.flush_to_disk()
    assert file.size == 5 * MB


def test_free_space_is_looked_at_while_an_object_arrives(tmp_path: Path) -> None:
    looks: list[int] = []

    def check_space() -> None:
        looks.append(file.size)
        if len(looks) == 3:
            raise OutOfResources("too little")

    file = SpoolFile(tmp_path, Limits(check_space=check_space))
    for _ in range(30):
        file.write(bytes(1 << 20))
    assert looks == [1 << 20, LOOK_EVERY + (2 << 20), 2 * LOOK_EVERY + (3 << 20)]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutOfResources, match="too little"):
        file.seal()


def test_a_write_error_gives_the_space_back_at_once(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4 * MB) as disk:
        file = SpoolFile(disk)
        while file.error is None:
            file.write(bytes(300_000))
        assert isinstance(file.error, OSError)
        assert file.error.errno == errno.ENOSPC
        assert list(disk.iterdir()) == []
        assert shutil.disk_usage(disk).used < MB, "another sender has room, though this one is not done"
        file.write(bytes(300_000))
        with pytest.raises(OSError, match="No space left"):
            file.flush_to_disk()
        file.discard()


def test_a_folder_that_is_gone_is_an_error_for_the_handler(tmp_path: Path) -> None:
    file = SpoolFile(tmp_path / "none")
    assert file.write(b"x") == 1
    with pytest.raises(FileNotFoundError):
        file.seal()
    file.discard()


def test_what_a_living_process_receives_is_no_leftover(tmp_path: Path) -> None:
    left, living = tmp_path / "x.part", SpoolFile(tmp_path)
    left.write_bytes(b"half")
    living.write(b"whole")
    for _ in range(2):  # sealed, it is on its way into the store
        remove_leftovers(tmp_path)
        assert list(tmp_path.iterdir()) == [living.path]
        assert is_open(living.path)
        living.seal()
    os.link(living.path, left)
    living.discard()
    assert not is_open(left)
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []
